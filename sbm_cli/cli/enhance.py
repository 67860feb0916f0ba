"""`sbm enhance`: one recording in, one clean recording out; or several, into a folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli.cli import console, errors
from sbm_cli.cli.options import (
    AttenuationLimit,
    ClipMode,
    Json,
    Model,
    Mono,
    Quiet,
    Rate,
    ReplaceNan,
    Strength,
    Subtype,
    Verbose,
    check_device,
    wrong_usage,
)
from sbm_cli.errors import SbmError

if TYPE_CHECKING:
    from sbm_cli.batch.plan import Job
    from sbm_cli.enhancer import FileReport


def enhance(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Recordings: WAV, FLAC, OGG, MP3, AIFF, …")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUTPUT", help="The clean file, or a folder to put it into.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace OUTPUT if it exists.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", "-n", help="Leave it at an OUTPUT that exists.")
    ] = False,
    strength: Strength = 1.0,
    attenuation_limit: AttenuationLimit = None,
    rate: Rate = None,
    mono: Mono = False,
    model: Model = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more help on an idle machine only.")] = 1,
    subtype: Subtype = None,
    clip_mode: ClipMode = "clamp",
    replace_nan: ReplaceNan = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise and reverberation from recordings.

    The output has the rate, channels, length and sample format of the input. What lies above 8 kHz is not restored.
    For folders, and for many files on all cores, there is `sbm batch`.

    \b
    Examples:
      sbm enhance noisy.wav -o clean.wav
      sbm enhance talk.flac -o cleaned/            the name is kept
      sbm enhance day1.wav day2.wav -o cleaned/ --skip-existing
      sbm enhance talk.wav -o softer.wav --attenuation-limit 12
      sbm enhance tape.flac -o speech.wav --mono --rate 16000 --subtype PCM_16
      sbm enhance talk.wav -o talk.wav --overwrite replaced only when complete
      sbm enhance talk.wav -o clean.wav --json | jq .rtf
    """
    console.adjust(quiet or json, verbose)
    if overwrite and skip_existing:
        raise typer.BadParameter("either replace or keep what exists", param_hint="--overwrite, --skip-existing")

    from sbm_cli.options import Options

    with wrong_usage():
        options = Options(strength, attenuation_limit, rate, mono, subtype, clip_mode, replace_nan)
    jobs = _jobs(inputs, output)
    wanted = [job for job in jobs if not (skip_existing and job.target.exists())]
    for job in jobs:
        if job not in wanted:
            console.note(f"{job.target} exists: kept")
    if not wanted:
        return
    check_device(device)

    from sbm_cli.enhancer import Enhancer

    enhancer = Enhancer.load(model, device=device, threads=threads)
    failed = []
    for job in wanted:
        try:
            with console.progress(job.source.name) as progress:
                report = enhancer.enhance_file(job.source, job.target, options, overwrite=overwrite, progress=progress)
        except (SbmError, OSError) as error:
            if len(jobs) == 1:
                raise
            errors.report(error, about=job.source)
            failed.append(str(job.source))
            continue
        if json:
            console.data_json(dataclasses.asdict(report))
        _summarise(report)
    if failed:
        raise SbmError(f"{len(failed)} of {len(jobs)} files failed: {', '.join(failed)}")


def _jobs(inputs: list[str], output: str) -> list[Job]:
    """Pair inputs and outputs: inside a folder, and `name/` says that a folder is meant, an input keeps its name."""
    from sbm_cli.batch.plan import Job, expand, find_jobs

    sources = expand(inputs)
    for source in sources:
        if source.is_dir():
            raise typer.BadParameter(
                f"{source} is a folder, and enhance takes files. For all files in it: sbm batch {source} -o OUTPUT",
                param_hint="INPUT",
            )
    path = Path(output)
    if len(sources) == 1 and not path.is_dir() and not output.endswith(("/", os.sep)):
        return [Job(sources[0], path)]
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; {len(sources)} inputs need a folder", param_hint="--output")
    path.mkdir(parents=True, exist_ok=True)
    return [Job(sources[0], path / sources[0].name)] if len(sources) == 1 else find_jobs(sources, path)


def _summarise(report: FileReport) -> None:
    if report.clipped:
        console.warn(
            f"{report.target}: {report.clipped} samples beyond full scale",
            "--clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.",
        )
    console.note(
        f"{report.source} -> {report.target}  "
        f"{report.seconds:.1f} s of audio in {report.elapsed:.1f} s (RTF {report.rtf:.2f})"
    )
