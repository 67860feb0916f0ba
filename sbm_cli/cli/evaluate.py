"""`sbm evaluate`: scores of models and other programs, with intervals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sbm_cli.cli.shared import console, errors
from sbm_cli.cli.shared.options import Json, wrong_usage
from sbm_cli.cli.shared.process import interrupted_by_signals
from sbm_cli.errors import exists_error
from sbm_cli.hardware import cores
from sbm_cli.options import Knob, Options

if TYPE_CHECKING:
    from sbm_cli.audio.samples import Samples
    from sbm_cli.evaluation.folders import Item
    from sbm_cli.evaluation.html_report import Player
    from sbm_cli.evaluation.report import Evaluation
    from sbm_cli.evaluation.scoring import Record
    from sbm_cli.evaluation.systems import System

FILES = ("scores.csv", "scores.json", "table.md", "table.tex")
COST = "quality-cost.svg"  # where a system was timed
HTML_REPORT = "report.html"
REPORT = (*FILES, COST, HTML_REPORT)

Set = Literal[
    "mixtures",
    "dns2020-no-reverb",
    "dns2020-with-reverb",
    "dns2020-real",
    "voicebank-demand",
    "ears-wham",
    "pair",
    "folder",
]


def evaluate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...", help="Manifests of `sbm data prepare`, or the folders of --set.", show_default=False
        ),
    ] = None,
    *,
    set_name: Annotated[
        Set, typer.Option("--set", help="Test set in PATH; pair: a noisy and a clean folder; folder: no references.")
    ] = "mixtures",
    split: Annotated[
        Literal["valid", "report"],
        Knob("Split of the mixtures: valid to choose between models, report for published numbers."),
    ] = "valid",
    count: Annotated[int, Knob("Number of mixtures, half noise-only, half reverberant.", "N", 2)] = 160,
    model: Annotated[
        list[str] | None, Knob("Model to score, as for `sbm enhance`; may be repeated.", "NAME|PATH", short="m")
    ] = None,
    steps: Annotated[str, Knob("Numbers of steps; each is scored as a system.", "N,N")] = "1",
    sampler: Annotated[str, Knob("Samplers for several steps; each is scored as a system.", "ode,sde")] = "ode",
    options: Annotated[Options, ("warm_up",)],
    system: Annotated[
        list[str] | None, Knob("Another program to score; may be repeated.", '"NAME=PROGRAM {in} {out}"')
    ] = None,
    enhanced: Annotated[
        list[str] | None, Knob("Files enhanced before, named like the noisy ones; may be repeated.", "NAME=DIR")
    ] = None,
    unprocessed: Annotated[bool, Knob("Score the noisy input alone.")] = False,
    metrics: Annotated[
        str | None,
        Knob(
            "si_sdr, stoi, pesq, covl, ovrl, nisqa, wer, … (see docs/metrics.md).",
            "NAME,NAME",
            absent="all that can be computed",
        ),
    ] = None,
    transcriber: Annotated[
        str | None,
        typer.Option(
            metavar='"PROGRAM {in}"',
            help="Program that prints the words of a WAV, such as Whisper's, for the word error rate.",
            envvar="SBM_TRANSCRIBER",
        ),
    ] = None,
    level: Annotated[
        float | None, Knob("Scale signals to this RMS for metrics without a reference.", "DBFS", most=0)
    ] = None,
    output: Annotated[
        Path | None,
        Knob("Folder for scores.csv, scores.json, table.md, table.tex and quality-cost.svg.", "DIR", short="o"),
    ] = None,
    html: Annotated[bool, Knob("Also write report.html, a self-contained page, to the output folder.")] = False,
    players: Annotated[int, Knob("Files to listen to in report.html, spread evenly over the set.", "N", 0)] = 12,
    overwrite: Annotated[bool, Knob("Replace existing files of a report.", short="y")] = False,
    workers: Annotated[int | None, Knob("Scoring processes.", "N", 1, absent="one per core")] = None,
    threads: Annotated[int, Knob("CPU threads for enhancing.", "N", 1)] = 1,
    cache: Annotated[Path, Knob("Folder for decoded corpora.", "DIR")] = Path("runs/cache"),
    json: Json = False,
) -> None:
    """Score models, other programs and enhanced folders on a test set.

    Without --set, the test set is made of seeded mixtures of speech and noise that training never saw. Every metric is
    reported for the noisy input and each system, with paired gains over the input, differences to the first system and
    95 % intervals. If you name no system, the default model is scored. Scores are of the first channel at
    16 kHz. docs/evaluation.md describes the sets.

    \b
    Examples:
      sbm evaluate corpus.csv
      sbm evaluate corpus.csv --split report --json > scores.json
      sbm evaluate corpus.csv --model mine.safetensors --metrics si_sdr,estoi
      sbm evaluate --set voicebank-demand VoiceBank/ -o scores/ --html
      sbm evaluate --set dns2020-no-reverb test_set/ --steps 1,5 --sampler ode,sde
      sbm evaluate --set pair noisy/ clean/ \\
        --model sbm-tiny --system "afftdn=ffmpeg -y -i {in} -af afftdn {out}"
      sbm evaluate --set pair cleaned/ clean/ --unprocessed
      sbm evaluate --set folder recordings/ --level -26 \\
        --model sbm-tiny --enhanced theirs=cleaned/
    """
    if not paths:
        raise _without_path(set_name)
    if set_name == "mixtures" and (folders := [path for path in paths if path.is_dir()]):
        pair = "sbm evaluate --set pair NOISY CLEAN: a noisy and a clean folder\n"
        raise errors.WrongUsage(
            f"{folders[0]} is a folder; expected a manifest, or --set with the folder of a test set.",
            f"{pair}sbm evaluate --set folder DIR: without references",
        )
    if unprocessed and (model or system or enhanced):
        raise typer.BadParameter("cannot be combined with --model, --system or --enhanced", param_hint="--unprocessed")
    replaced = _check_output(output, html, players, overwrite)
    console.note("loading the test set and the systems")

    from sbm_cli.evaluation.html_report import chosen, make_player
    from sbm_cli.evaluation.metrics import METRICS, available_metrics, wer
    from sbm_cli.evaluation.report import Evaluation, summarise, to_json, to_markdown
    from sbm_cli.evaluation.scoring import evaluate as run

    if transcriber is not None:
        if wer.IN not in transcriber:
            raise typer.BadParameter(f"expected PROGRAM {wer.IN}, got {transcriber!r}", param_hint="--transcriber")
        os.environ[wer.VARIABLE] = transcriber  # for the processes that score, too
    available = available_metrics()
    wanted = [name.strip() for name in metrics.split(",")] if metrics else list(available)
    if unknown := [name for name in wanted if name not in available]:
        raise typer.BadParameter(
            f"unknown {', '.join(unknown)}; choose from {', '.join(available)}", param_hint="--metrics"
        )
    items, total, has_clean, unmatched = _items(set_name, paths, split, count, cache)
    ids = [] if set_name == "mixtures" else [item.id for item in items]  # those of mixtures, made one by one, are names
    systems = [] if unprocessed else _systems(model, steps, sampler, options, system, enhanced, threads, ids)
    absent = {name: available[name] for name in wanted if available[name]}
    if absent and not metrics:
        console.note(f"absent metrics, which `sbm doctor` explains: {', '.join(absent)}")
    reported = {} if not metrics else dict(absent)
    if not has_clean:
        reported |= {name: "the set has no clean references" for name in wanted if METRICS[name].needs_clean}
    absent |= reported
    for reason in dict.fromkeys(reported.values()):
        console.warn(f"absent metrics: {', '.join(name for name in reported if reported[name] == reason)}", reason)
    present = [name for name in wanted if name not in absent]
    if not present:
        raise errors.WrongUsage("none of the metrics can be computed.", "sbm doctor: what each of them needs")
    audible = set(chosen(total, players if html else 0))
    shown: list[Player] = []

    def show(number: int, item: Item, sounds: dict[str, Samples]) -> None:
        if number in audible:
            shown.append(make_player(item, sounds))

    title = f"{set_name} {split}" if set_name == "mixtures" else set_name
    names = [one.name for one in systems] or ["unprocessed"]
    records: list[Record] = []
    interrupted = False
    try:
        with (
            interrupted_by_signals(),
            console.progress(f"{', '.join(names)} on {title}", unit="recordings") as progress,
        ):
            for record in run(items, systems, present, workers or cores(), level, show):
                records.append(record)
                progress(len(records) / (1 + len(systems)), total)
    except KeyboardInterrupt:
        done = len(records) // (1 + len(systems))
        console.note(f"scored {done} of {console.count(total, 'recording')}")
        if not done:
            raise
        if interrupted := done < total:
            title = f"the first {done} of {total} recordings of {title}"
        del records[done * (1 + len(systems)) :]
    result = Evaluation(title, records, summarise(records, present), absent, unmatched, level, interrupted)
    if output is not None and interrupted and replaced:
        console.note(f"{output}: the earlier report was kept, because this one is incomplete")
    elif output is not None:
        _write(output, result, shown if html else None)
    console.result(to_json(result), [to_markdown(result)], json)
    failed = _report_problems(result)
    if interrupted:
        raise KeyboardInterrupt
    if failed:
        raise typer.Exit(errors.FAILED)


def _without_path(set_name: Set) -> errors.WrongUsage:
    from sbm_cli.evaluation.folders import LAYOUTS

    if set_name == "mixtures":
        return errors.WrongUsage(
            "a manifest of speech and noise is missing.",
            "sbm data prepare --help: how to make one.\nFor another test set: sbm evaluate --set NAME FOLDER",
        )
    layout = LAYOUTS[set_name]
    source = f"\nDownload: {layout.source}" if layout.source else ""
    return errors.WrongUsage(
        f"--set {set_name} needs the folder of the test set.",
        f"sbm evaluate --set {set_name} FOLDER\nExpected in it: {layout.says}.{source}",
    )


def _items(
    set_name: Set, paths: list[Path], split: str, count: int, cache: Path
) -> tuple[Iterable[Item], int, bool, Sequence[str]]:
    """Return the items, their number, whether they have references, and the files that belong to none."""
    from sbm_cli.data.corpus import open_corpus
    from sbm_cli.data.test_sets import evaluation_set
    from sbm_cli.evaluation.folders import Item, find_set

    if set_name == "mixtures":
        made = evaluation_set(open_corpus(cache, paths), split, count)
        pair = attrgetter("noisy", "clean")
        return (Item(one.id, one.subset, partial(pair, one)) for one in made), count, True, ()
    found = find_set(set_name, paths)
    if found.unmatched:
        files = console.count(len(found.unmatched), "file")
        console.warn(f"ignored {files} without a counterpart: {console.listed(found.unmatched)}")
    return found.items, len(found.items), found.has_clean, found.unmatched


def _systems(
    models: list[str] | None,
    steps: str,
    samplers: str,
    others: Options,
    programs: list[str] | None,
    folders: list[str] | None,
    threads: int,
    ids: Sequence[str],
) -> list[System]:
    """Return the models, programs and folders that the options name, in this order.

    others: options of models beside steps and samplers. ids: of the items of the set.
    """
    from sbm_cli.evaluation.systems import NOISY, Folder, Program, all_options, load_models
    from sbm_cli.timing.commands import Command

    with wrong_usage():
        counts, kinds = [int(text) for text in steps.split(",")], [text.strip() for text in samplers.split(",")]
        options = all_options(counts, kinds, others)
        commands = [Command.parse(text) for text in programs or ()]
    named = [text.partition("=") for text in folders or ()]
    if wrong := [name for name, _, folder in named if not (name and folder)]:
        raise typer.BadParameter(f"expected NAME=DIR, got {wrong[0]!r}", param_hint="--enhanced")
    wanted: list[str | None] = [*models] if models else [] if commands or named else [None]
    systems: list[System] = [
        *load_models(wanted, options, threads),
        *(Program(command, threads) for command in commands),
        *(Folder(name, Path(folder), ids) for name, _, folder in named),
    ]
    names = [NOISY, *(one.name for one in systems)]
    if len(set(names)) < len(names):
        raise typer.BadParameter(
            f"each system needs its own name, got {', '.join(names)}", param_hint="--model, --system, --enhanced"
        )
    return systems


def _check_output(output: Path | None, html: bool, players: int, overwrite: bool) -> bool:
    """Refuse a report that could not be written in the end, before any work is done; return whether it replaces one."""
    from sbm_cli.evaluation.spectrogram import require_pillow

    if html and output is None:
        raise typer.BadParameter("needs an --output folder", param_hint="--html")
    if html and players:
        require_pillow()
    if output is None:
        return False
    output.mkdir(parents=True, exist_ok=True)
    there = [name for name in REPORT if (output / name).exists()]
    if there and not overwrite:
        raise exists_error(output / there[0])
    return bool(there)


def _write(output: Path, result: Evaluation, shown: Sequence[Player] | None) -> None:
    """Write the files of a report, each whole or not at all; shown: None for no HTML report."""
    from json import dumps

    from sbm_cli.atomic import write_atomically
    from sbm_cli.evaluation.html_report import to_html
    from sbm_cli.evaluation.report import to_csv, to_json, to_latex, to_markdown, to_svg
    from sbm_cli.timing.machine import machine, software

    document = dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    texts = dict(zip(FILES, (to_csv(result), document, to_markdown(result) + "\n", to_latex(result)), strict=True))
    if drawn := to_svg(result):
        texts[COST] = drawn
    if shown is not None:
        level = "" if result.level is None else f", without a reference at {result.level:g} dBFS RMS"
        texts[HTML_REPORT] = to_html(result, shown, f"Scored at 16 kHz{level}. {software()}; {machine()}.")
    for stale in {*REPORT} - {*texts}:
        (output / stale).unlink(missing_ok=True)
    for name, text in texts.items():
        write_atomically(output / name, text.encode("utf-8", "backslashreplace"))  # names of files need not be text
    console.note(f"wrote {', '.join(texts)} to {output}")


def _report_problems(result: Evaluation) -> bool:
    """Report what failed, problems of the input only once, and return whether anything did."""
    from sbm_cli.evaluation.systems import NOISY

    unread = {record.id for record in result.problems if record.system == NOISY}
    for name in result.systems:
        failed = [r for r in result.problems if r.system == name and (name == NOISY or r.id not in unread)]
        if failed:
            what = "cannot be scored" if name == NOISY else f"failed with {name}"
            files = console.count(len(failed), "file")
            console.error(f"{files} {what}: {console.listed([r.id for r in failed])}", failed[0].problem)
    return bool(result.problems)
