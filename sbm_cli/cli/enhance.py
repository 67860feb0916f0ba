"""`sbm enhance`: one recording in, one clean recording out; or several, into a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli.cli.shared import console, errors
from sbm_cli.cli.shared.options import (
    PIPE,
    Device,
    Json,
    Model,
    Name,
    Raw,
    check_existing,
    chosen_device,
    load_enhancer,
    naming_of,
    raw_format,
    suffix_of,
)
from sbm_cli.cli.shared.process import interrupted_by_signals
from sbm_cli.errors import AudioError, OutputExistsError, SbmError, exists_error
from sbm_cli.options import Knob, Options

if TYPE_CHECKING:
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.batch.plan import Naming
    from sbm_cli.files import FileReport


def enhance(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Recordings or videos (WAV, FLAC, MP3, MP4, …), or - for stdin."),
    ],
    output: Annotated[
        str | None,
        Knob("Output file or folder, or - for stdout.", "OUTPUT", absent="NAME-clean.EXT beside INPUT", short="o"),
    ] = None,
    *,
    overwrite: Annotated[bool, Knob("Replace an existing OUTPUT.", short="y")] = False,
    skip_existing: Annotated[bool, Knob("Keep an existing OUTPUT and skip the file.", short="n")] = False,
    ext: Annotated[str | None, Knob("Output format by suffix, such as flac, for folders and stdout.", "EXT")] = None,
    name: Name = None,
    raw: Raw = None,
    options: Options,
    model: Model = None,
    device: Device = "auto",
    threads: Annotated[int, Knob("CPU threads; more than one helps only on an idle machine.", "N", 1)] = 1,
    spectrogram: Annotated[Path | None, Knob("Draw the spectrograms of INPUT and OUTPUT, on one scale.", "PNG")] = None,
    json: Json = False,
) -> None:
    """Remove noise and reverberation from recordings.

    The output keeps the sampling rate, channels, length and sample format or codec of the input. In a video, only the
    sound is replaced; pictures, subtitles, chapters and other audio streams are copied. For folders, or many files on
    all cores, use `sbm batch`.

    WAV and raw samples stream through pipes as they arrive. Other formats, --loudness and --clip-mode rescale first
    collect stdin in a temporary file (in $TMPDIR). A WAV whose length is unknown says so in its header, as with ffmpeg
    and sox.

    \b
    Examples:
      sbm enhance noisy.wav                            # write noisy-clean.wav
      sbm enhance noisy.wav -o clean.wav
      sbm enhance talk.wav -o episode.mp3 --loudness -16 --bit-rate 128k
      sbm enhance talk.flac -o cleaned/                # keep the name
      sbm enhance day1.wav day2.wav -o cleaned/ --skip-existing
      sbm enhance day1.wav day2.wav --name '{stem} (quiet){ext}'
      sbm enhance talk.wav -o softer.wav --attenuation-limit 12
      sbm enhance talk.wav -o live.wav --keep-room     # remove only the noise
      sbm enhance talk.wav -o walked.wav --steps 5 --sampler sde --seed 1
      sbm enhance tape.flac -o speech.wav --mono --rate 16000 --subtype PCM_16
      sbm enhance talk.wav -o talk.wav --overwrite     # replace it once complete
      sbm enhance talk.mp4 -o clean.mp4                # copy the picture
      sbm enhance talk.wav -o clean.wav --json | jq .rtf
      sbm enhance talk.wav -o clean.wav --spectrogram talk.png
      sbm enhance - -o - < noisy.wav > clean.wav
      ffmpeg -i film.mp4 -f wav - | sbm enhance - -o - --ext flac > clean.flac
      arecord -f S16_LE -r 16000 -t raw \\
        | sbm enhance - --raw 16000 -o - --ext raw | aplay -f S16_LE -r 16000
    """
    check_existing(overwrite, skip_existing)

    if json and output == PIPE:
        raise typer.BadParameter("only one of them can use stdout", param_hint="--json, --output")
    jobs = _jobs(inputs, output, ext, name, raw)
    if spectrogram is not None:
        _check_picture(spectrogram, jobs, overwrite)
    kept = {target for _, target in jobs if skip_existing and isinstance(target, Path) and target.exists()}
    wanted = [job for job in jobs if job[1] not in kept]
    for _, target in jobs:
        if target in kept:
            console.note(f"{target} exists, skipped")
    if not wanted:
        if json and len(jobs) > 1:
            console.data_json([])
        return
    device = chosen_device(device)
    _, first = wanted[0]
    if len(wanted) == 1 and isinstance(first, Path):  # before the model is loaded
        if first.is_file() and not overwrite:
            raise exists_error(first)
        _check_format(*wanted[0], options)

    enhancer = load_enhancer(model, device, threads)
    reports: list[FileReport] = []
    failed: list[str] = []
    for source, target in wanted:
        try:
            name = source.name if isinstance(source, Path) else "stdin"
            with (
                interrupted_by_signals(),
                _drawn(spectrogram, source, target, options.replace_nan, overwrite),
                console.progress(name) as progress,
            ):
                report = enhancer.enhance_file(source, target, options, overwrite=overwrite, progress=progress)
        except BrokenPipeError:  # the reader has enough, as `head` does
            console.drop(sys.stdout)
            raise typer.Exit(console.CLOSED_PIPE) from None
        except (SbmError, OSError) as error:
            if len(jobs) == 1:
                raise
            errors.report(error, about=source)
            failed.append(str(source))
            continue
        reports.append(report)
        _summarise(report)
        if spectrogram is not None:
            console.note(f"    spectrograms: {spectrogram}")
    if json:
        documents = [dataclasses.asdict(report) for report in reports]
        console.data_json(documents if len(jobs) > 1 else documents[0])
    if failed:
        raise SbmError(f"{len(failed)} of {len(jobs)} files failed: {', '.join(failed)}")


def _jobs(
    inputs: list[str], output: str | None, ext: str | None, name: str | None, raw: str | None
) -> list[tuple[Path | Pipe, Path | Pipe]]:
    """Pair inputs and outputs; in a folder, which `name/` also means, each input keeps its name."""
    from sbm_cli.audio.format import SUFFIXES
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.batch.plan import find_jobs

    sources = _sources(inputs, raw)
    if output is None:
        return _beside(sources, naming_of(name, ext, "{stem}-clean{ext}"))
    if output == PIPE:
        if name is not None:
            raise typer.BadParameter("stdout has no name", param_hint="--name")
        if len(sources) > 1:
            raise typer.BadParameter(f"{len(sources)} inputs need a folder, not stdout", param_hint="--output")
        if sys.stdout.isatty():
            raise SbmError("stdout is a terminal, not a file or pipe.", "Redirect it: > clean.wav")
        return [(sources[0], Pipe(sys.stdout.buffer, suffix_of(ext, (".raw",)) or ".wav"))]
    path, suffix, slashes = Path(output), suffix_of(ext), ("/", os.sep)
    if len(sources) == 1 and not path.is_dir() and not output.endswith(slashes):
        if suffix:
            raise typer.BadParameter(f"{path} has a suffix, which decides its format", param_hint="--ext")
        if name is not None:
            raise typer.BadParameter(f"{path} has a name; write {path}/ if it is a folder", param_hint="--name")
        return [(sources[0], path)]
    files = [source for source in sources if isinstance(source, Path)]
    if not files:
        raise typer.BadParameter(
            f"stdin has no name to use in the folder {path}; name a file, such as {path / 'clean.wav'}",
            param_hint="--output",
        )
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; {len(sources)} inputs need a folder", param_hint="--output")
    named_as_file = path.suffix.lower() in (*SUFFIXES, ".raw") and not output.endswith(slashes)
    if len(files) > 1 and named_as_file and not path.is_dir():
        raise typer.BadParameter(
            f"{path} looks like a file, but {len(sources)} inputs need a folder; write {path}/ if it is one",
            param_hint="--output",
        )
    path.mkdir(parents=True, exist_ok=True)
    naming = naming_of(name, ext)
    if len(files) == 1:
        return [(files[0], path / naming(files[0]).name)]
    return [(job.source, job.target) for job in find_jobs(files, path, naming=naming).jobs]


def _beside(sources: list[Path] | list[Pipe], naming: Naming) -> list[tuple[Path | Pipe, Path | Pipe]]:
    """Pair each file with one beside it, unless another one becomes it, as on a second run over a folder."""
    made: dict[Path, Path] = {}
    for source in sources:
        if not isinstance(source, Path):
            raise typer.BadParameter("give a file, or - for stdout: stdin has no name", param_hint="--output")
        target = naming(source)
        if (other := made.setdefault(target, source)) != source:
            hint = "Leave out --ext or --name, or one of them."
            raise SbmError(f"{other} and {source} would both become {target}.", hint)
    return [(source, target) for target, source in made.items() if source == target or source not in made]


def _sources(inputs: list[str], raw: str | None) -> list[Path] | list[Pipe]:
    """Return the files that the inputs name, or standard input."""
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.batch.plan import expand

    if PIPE in inputs:
        if len(inputs) > 1:
            raise typer.BadParameter(f"{PIPE} (stdin) cannot be combined with other inputs", param_hint="INPUT")
        if sys.stdin.isatty():
            raise SbmError("stdin is a terminal, not a file or pipe.", "Redirect it: < noisy.wav")
        return [Pipe.from_here(sys.stdin.buffer, None if raw is None else raw_format(raw))]
    if raw is not None:
        raise typer.BadParameter(f"raw samples are read from stdin: INPUT must be {PIPE}", param_hint="--raw")
    sources = expand(inputs)
    for source in sources:
        if source.is_dir():
            command = shlex.join(["sbm", "batch", str(source), "-o", "cleaned"])
            raise typer.BadParameter(f"{source} is a folder; to enhance its files: {command}", param_hint="INPUT")
    return sources


def _check_format(source: Path | Pipe, target: Path | Pipe, options: Options) -> None:
    """Refuse a file that cannot be read, and an output that its format or the options make impossible."""
    from sbm_cli.audio.format import format_for
    from sbm_cli.audio.io import SoundReader

    if not isinstance(source, Path) or not isinstance(target, Path):
        return
    _check_folder(target)
    stream = None if options.audio_stream == "all" else options.audio_stream
    with SoundReader(source, options.replace_nan, stream) as reader:
        form = reader.format.converted(options.rate, options.mono)
    try:
        format_for(target, form, options.subtype, options.bit_rate)
    except AudioError as error:
        raise errors.WrongUsage(error.message, error.hint) from error


def _check_folder(path: Path) -> None:
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise SbmError(f"{folder}: not a folder.", "Choose another place.")
    if not folder.exists():
        raise SbmError(f"{folder}: no such folder.", f"Make it first: {shlex.join(['mkdir', '-p', str(folder)])}")


def _check_picture(path: Path, jobs: list[tuple[Path | Pipe, Path | Pipe]], overwrite: bool) -> None:
    """Refuse a picture that could not be drawn in the end, before any work is done."""
    from sbm_cli.evaluation.spectrogram import require_pillow

    if len(jobs) > 1 or not all(isinstance(end, Path) for end in jobs[0]):
        raise typer.BadParameter("needs exactly one INPUT file and one OUTPUT file", param_hint="--spectrogram")
    if any(os.path.realpath(path) == os.path.realpath(str(end)) for end in jobs[0]):
        raise SbmError(f"{path} is also the input or the output.", "Choose another file for the picture.")
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path}: the picture is a PNG, so name it .png", param_hint="--spectrogram")
    if path.exists() and not overwrite:
        raise exists_error(path)
    _check_folder(path)
    require_pillow()


@contextlib.contextmanager
def _drawn(
    picture: Path | None, source: Path | Pipe, target: Path | Pipe, replace_nan: bool, overwrite: bool
) -> Iterator[None]:
    """Draw the source and, once the block has made it, the target below, if a picture is wanted."""
    if picture is None or not isinstance(source, Path) or not isinstance(target, Path):
        yield
        return
    from sbm_cli.atomic import mode_for_new, write_atomically
    from sbm_cli.evaluation.spectrogram import draw, spectrogram

    before = spectrogram(source, replace_nan)  # now: the target may replace it
    yield
    drawn = io.BytesIO()
    draw(before, spectrogram(target), drawn)
    if not overwrite and picture.exists():
        raise OutputExistsError(
            f"{picture} has appeared meanwhile.", f"{target} is complete; only the picture is missing."
        )
    write_atomically(picture, drawn.getvalue(), mode_for_new(picture, source))


def _summarise(report: FileReport) -> None:
    for note in report.notes:
        console.warn(f"{report.source}: {note}")
    if report.clipped:
        console.warn(
            f"{report.target}: {report.clipped} samples beyond full scale",
            "--clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.",
        )
    if report.not_carried:
        target = "stdout" if report.target == PIPE else report.target
        console.warn(f"{target}: not carried over: {', '.join(report.not_carried)}")
    codec = {"MPEG_LAYER_III": "MP3", "MPEG_LAYER_II": "MP2"}.get(report.subtype, report.subtype)
    lossy = f" ({codec}, {report.bit_rate / 1000:.0f} kbit/s)" if report.bit_rate else ""
    console.note(f"{report.source} -> {report.target}{lossy}")
    console.note(f"    {report.seconds:.1f} s of audio in {report.elapsed:.1f} s (RTF {report.rtf:.2f})")
    if levels := _levels(report):
        console.note(f"    {levels}")


def _levels(report: FileReport) -> str:
    """Say how loud speech and pauses were and are, as far as there are any."""
    parts = []
    for name in ("speech", "pauses"):
        before, after = (getattr(report.levels, f"{name}_{when}", None) for when in ("before", "after"))
        if before is not None and after is not None:
            parts.append(f"{name} {before:.0f} -> {after:.0f} dBFS")
    if report.loudness is not None:
        parts.append(f"loudness {report.loudness:.1f} LUFS")
    return ", ".join(parts)
