"""`sbm data`: prepare, check, curate and pack corpora for training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Json, for_typer, wrong_usage
from sbm_cli.errors import DependencyError, exists_error
from sbm_cli.options import Knob

if TYPE_CHECKING:
    from sbm_cli.data.corpora.check import Row

app = typer.Typer(help="Prepare, check, curate and pack corpora.", rich_markup_mode=None)

Manifests = Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests of `sbm data prepare`.")]

_SHOWN = 3  # places named for each finding; --json has all


@app.command("prepare")
@for_typer
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="voicebank-demand, dns, librispeech, ears, wham, musan, fsd50k, slr26, slr28, or folder for your own "
            "DIR/speech/SPEAKER, DIR/noise and DIR/rir.",
        ),
    ],
    root: Annotated[Path, Knob("Folder of the unpacked corpus.", "DIR")],
    output: Annotated[Path | None, Knob("Manifest to write.", "FILE", absent="NAME.csv", short="o")] = None,
    overwrite: Annotated[bool, Knob("Replace an existing manifest.", short="y")] = False,
    licence: Annotated[
        str | None, Knob("Take only files under these licences: cc0, cc-by, cc-by-nc, sampling+ (fsd50k).", "NAME,NAME")
    ] = None,
    per_group: Annotated[int | None, Knob("Take at most N files of each recording or room.", "N", 1)] = None,
    follow: Annotated[
        list[Path] | None,
        Knob("Keep speakers and recordings in the split they have there; may be repeated.", "MANIFEST"),
    ] = None,
) -> None:
    """Write the manifest of a public corpus or of your own folders.

    The manifest lists every file with its kind, speaker and split. Nothing is downloaded, copied or changed. The splits
    are those of the corpus; where it has none, one speaker, recording or room in twenty is held out for validation and
    one in twenty for reporting.

    \b
    Examples:
      sbm data prepare librispeech --root /corpora/LibriSpeech -o librispeech.csv
      sbm data prepare dns --root /corpora/DNS-Challenge --follow librispeech.csv
      sbm data prepare fsd50k --root /corpora/FSD50K --licence cc0,cc-by
    """
    from sbm_cli.data.corpora import prepare as corpora
    from sbm_cli.data.corpora.layouts import LAYOUTS, LICENCES
    from sbm_cli.data.corpus import lengths as lengths_of
    from sbm_cli.data.manifest import write_manifest

    licences = [item.strip().lower() for item in licence.split(",")] if licence else []
    if name not in LAYOUTS:
        raise typer.BadParameter(f"unknown corpus {name!r}; choose one of {', '.join(LAYOUTS)}", param_hint="NAME")
    if unknown := set(licences) - set(LICENCES.values()):
        known = ", ".join(LICENCES.values())
        raise typer.BadParameter(f"unknown {', '.join(sorted(unknown))}; choose from {known}", param_hint="--licence")
    path = output or Path(f"{name}.csv")
    if path.exists() and not overwrite:
        raise exists_error(path)
    clips = corpora.follow(corpora.find_clips(name, root, licences), follow or [])
    if per_group:
        clips = corpora.thin(clips, per_group)
    with console.progress(name, "files") as progress:
        seconds = lengths_of(clips, progress, broken=0.0)
    broken = [clip.path for clip, length in zip(clips, seconds, strict=True) if not length]
    if broken:
        console.warn(f"{len(broken)} unreadable or empty files are left out", _some(broken))
    kept = [(clip, length) for clip, length in zip(clips, seconds, strict=True) if length]
    write_manifest(path, kept)
    for kind, split in sorted({(clip.kind, clip.split) for clip, _ in kept}):
        lengths = [length for clip, length in kept if (clip.kind, clip.split) == (kind, split)]
        console.note(f"{kind:<7}{split:<7}{len(lengths):>8} files {sum(lengths) / 3600:>9.2f} h")
    console.data(str(path))


@app.command("check")
@for_typer
def check(
    manifest: Manifests,
    limit: Annotated[int | None, Knob("Decode only N files, and read the headers of the others.", "N", 0)] = None,
    json: Json = False,
) -> None:
    """Report what corpora hold and what is wrong with them.

    Several corpora are checked together, as training would use them. Errors, which give exit status 1, are unreadable
    files, and a speaker, noise recording, room or identical audio in several splits. Warnings are silence, clipping,
    noise in speech, DC offset, duplicates and rates below 16 kHz.

    \b
    Examples:
      sbm data check librispeech.csv fsd50k.csv
      sbm data check dns.csv --limit 10000
      sbm data check corpus.csv --json | jq .findings
    """
    from sbm_cli.data.corpora.check import check as run

    with console.progress("checking", "files") as progress:
        rows, findings = run(manifest, limit, progress)
    failed = any(finding.level == "error" for finding in findings)
    document = {
        "ok": not failed,
        "table": [dataclasses.asdict(row) for row in rows],
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    lines = _table(rows)
    for finding in findings:
        shown = len(finding.where) if console.voice.verbose else _SHOWN
        lines.append(f"{finding.level}: {finding.what}: {len(finding.where)}")
        lines.append("  " + _some(finding.where, shown).replace("\n", "\n  "))
    console.result(document, lines, json)
    if failed:
        raise typer.Exit(1)


@app.command("curate")
@for_typer
def curate(
    manifest: Manifests,
    output: Annotated[Path, Knob("Folder for the cleaned speech.", "DIR", short="o")],
    model: Annotated[str | None, Knob("Clean with this model, not the default one.", "NAME|PATH", short="m")] = None,
    system: Annotated[str | None, Knob("Clean with another program.", '"NAME=PROGRAM {in} {out}"')] = None,
    enhanced: Annotated[
        Path | None, Knob("Take speech cleaned before, under the paths of the manifest.", "DIR")
    ] = None,
    as_is: Annotated[bool, Knob("Clean nothing; only score and leave out.")] = False,
    limit: Annotated[float, Knob("Attenuate nothing by more than DB.", "DB", 0)] = 12.0,
    least: Annotated[float, Knob("Leave out training utterances with a lower DNSMOS OVRL.", "MOS", 0, 5)] = 0.0,
    without: Annotated[str | None, Knob("Leave these sources out of training.", "NAME,NAME")] = None,
    score: Annotated[bool, Knob("Compute DNSMOS OVRL before and after.")] = True,
    workers: Annotated[int, Knob("Utterances in parallel.", "N", 1)] = 1,
) -> None:
    """Clean the speech of corpora for use as training targets.

    A network cannot become cleaner than its targets; what stays poor is left out. A model or any other program cleans
    the speech, by --limit at most; it is written as FLAC at 16 kHz with a manifest for training, and scores.csv lists
    the score of every utterance. Speech for validation and reporting is cleaned too, but none of it is left out. Noise
    and rooms are not touched. To resume, run the same command again.

    \b
    Examples:
      sbm data curate corpus.csv -o curated
      sbm data curate corpus.csv -o curated --limit 12 --least 2.8 \\
        --system "df=deep-filter {in} -o {out}"
      sbm data curate corpus.csv -o scored --as-is --least 3 --without phone,tape
    """
    if sum((model is not None, system is not None, enhanced is not None, as_is)) > 1:
        raise typer.BadParameter("give only one of them", param_hint="--model, --system, --enhanced, --as-is")
    if least and not score:
        raise typer.BadParameter("cannot be combined", param_hint="--least, --no-score")

    from sbm_cli.data.corpora.curate import MANIFEST
    from sbm_cli.data.corpora.curate import curate as run_curate
    from sbm_cli.evaluation.metrics import available_metrics
    from sbm_cli.evaluation.metrics.dnsmos import p835
    from sbm_cli.evaluation.systems import Folder, Program, System, load_models, run
    from sbm_cli.options import DEFAULTS
    from sbm_cli.timing.commands import Command

    if score and (missing := available_metrics()["ovrl"]):
        raise DependencyError(f"DNSMOS cannot be computed: {missing}", "Or do without the scores: --no-score")
    cleaner: System | None = None
    if system is not None:
        with wrong_usage():
            cleaner = Program(Command.parse(system))
    elif enhanced is not None:
        cleaner = Folder(enhanced.name, enhanced)
    elif not as_is:
        (cleaner,) = load_models([model], [DEFAULTS], 1)
    with console.progress("curating", "files") as progress:
        found = run_curate(
            manifest,
            output,
            None if cleaner is None else lambda name, samples: run(cleaner, name, samples)[0],
            (lambda samples: p835(samples)["ovrl"]) if score else None,
            how=str(model or system or enhanced or ("nothing" if cleaner is None else cleaner.name)),
            limit_db=limit,
            least=least,
            without=[name.strip() for name in without.split(",")] if without else [],
            workers=workers,
            progress=progress,
        )
    kept = sum(one.kept for one in found)
    if not any(one.kept and one.clip.split == "train" for one in found):
        console.warn("no speech is left for training", "Lower --least, or leave out fewer sources.")
    console.note(f"{kept} of {len(found)} utterances kept")
    if score and found:
        means = [sum(getattr(one, when) for one in found) / len(found) for when in ("before", "after")]
        console.note(f"DNSMOS OVRL {means[0]:.2f} before, {means[1]:.2f} after")
    console.data(str(output / MANIFEST))


@app.command("pack")
@for_typer
def pack(
    manifest: Manifests,
    output: Annotated[Path, Knob("Folder of the pack.", "DIR", short="o")],
    shard_mb: Annotated[float, Knob("Largest size of a shard.", "MB", 1)] = 50.0,
    rooms: Annotated[int | None, Knob("Simulated rooms to include.", "N", 1, absent="as many as in a recipe")] = None,
    speeds: Annotated[
        str, Knob("Add the training speech at these speeds, as other voices; as data.speeds does.", "SPEED,...")
    ] = "",
    cache: Annotated[Path, Knob("Folder for decoded corpora.", "DIR")] = Path("runs/cache"),
) -> None:
    """Pack corpora and rooms into a folder for training.

    Reading it takes PyTorch and NumPy alone. Speech and noise for training and validation are stored at 16 kHz in 8
    bits (mu-law). Every shard is a sample of the whole, so that a machine short of space can use just a few.

    \b
    Examples:
      sbm data pack librispeech.csv fsd50k.csv -o packs/mine
      sbm train --config sbm-tiny --set data.pack=packs/mine
    """
    from sbm_cli.data.corpus import open_corpus
    from sbm_cli.data.pack import write_pack
    from sbm_cli.data.room_responses import open_responses
    from sbm_cli.data.sources import ROOM_SEED, DataConfig

    with wrong_usage("--speeds"):
        data = DataConfig(speeds=tuple(map(float, filter(None, speeds.split(",")))))
    with console.progress("decoding", "files") as progress:
        corpus = open_corpus(cache, manifest, speeds=data.speeds, progress=progress)
    with console.progress("simulating", "rooms") as progress:
        bank = open_responses(cache, rooms or data.rooms, ROOM_SEED, corpus, progress=progress)
    with console.progress("packing", "files") as progress:
        made = write_pack(corpus, bank, output, shard_mb=shard_mb, progress=progress)
    for (kind, split), minutes in made.minutes.items():
        console.note(f"{kind:<7}{split:<7}{minutes:>9.1f} min")
    console.note(f"{made.shards} shards, {made.bytes / 1e6:.1f} MB; mu-law SNR {made.snr_db:.1f} dB")
    console.data(str(output))


def _table(rows: Sequence[Row]) -> list[str]:
    lines: list[tuple[object, ...]] = [("kind", "split", "source", "files", "minutes", "speakers", "groups", "Hz")]
    for row in rows:
        numbers = row.files, f"{row.minutes:.1f}", row.speakers or "", row.groups or ""
        lines.append((row.kind, row.split, row.source, *numbers, ", ".join(map(str, row.rates))))
    columns = []
    for side, cells in zip("<<<>>>>>", zip(*lines, strict=True), strict=True):
        width = max(len(str(cell)) for cell in cells)
        columns.append([f"{cell!s:{side}{width}}" for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _some(lines: Sequence[str], shown: int = _SHOWN) -> str:
    more = len(lines) - shown
    shown_lines = [console.printable(line) for line in lines[:shown]]
    return "\n".join([*shown_lines, f"and {more} more"] if more > 0 else shown_lines)
