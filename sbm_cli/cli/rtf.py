"""`sbm rtf`: how fast a model is on this machine, alone or beside other programs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli import hub
from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Device, Json, Model, check_writable, chosen_device, load_enhancer, wrong_usage
from sbm_cli.options import Knob, Options

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer


def rtf(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Recordings to time.", show_default="generated speech-like noise"),
    ] = None,
    *,
    options: Annotated[Options, ("steps",)],
    model: Model = None,
    device: Device = "auto",
    threads: Annotated[int, Knob("CPU threads, for other programs too.", "N", 1)] = 1,
    seconds: Annotated[str, Knob("Lengths of the generated clips in seconds.", "S,S")] = "1,10,60",
    rounds: Annotated[int, Knob("Timed rounds, after one to warm up.", "N", 1)] = 10,
    against: Annotated[
        list[str] | None, Knob("Time another program on the same clips; may be repeated.", '"NAME=PROGRAM {in} {out}"')
    ] = None,
    plot: Annotated[Path | None, Knob("Draw the real-time factors as a bar chart.", "FILE.svg")] = None,
    json: Json = False,
) -> None:
    """Measure the real-time factor (RTF) of models and programs.

    It is the processing time over the duration of the audio: smaller is faster. The report names the machine and the
    conditions, so that you can quote it. Every round times each clip with each system in turn; the result is the median
    over the rounds. Programs named by --against read and write WAV files, run without a shell, and get the number of
    threads in OMP_NUM_THREADS and the like.

    \b
    Examples:
      sbm rtf
      sbm rtf --steps 10
      sbm rtf --seconds 10 --plot rtf.svg \\
        --against "ffmpeg=ffmpeg -v error -y -i {in} -af afftdn {out}"
      sbm rtf meeting.wav --threads 2 --json | jq '.rows[].rtf'
    """
    device = chosen_device(device)
    lengths = _lengths(seconds)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise typer.BadParameter(f"{plot}: the chart is an SVG, so name it .svg", param_hint="--plot")
    if plot is not None:
        check_writable(plot)

    console.note(f"loading {model or hub.default_name()}")
    begun = time.perf_counter()
    from sbm_cli.atomic import write_atomically
    from sbm_cli.timing.clips import made_clips, read_clip
    from sbm_cli.timing.commands import Command
    from sbm_cli.timing.rtf import benchmark, to_markdown, to_svg

    imported = time.perf_counter()
    with wrong_usage("--against"):
        commands = [Command.parse(text) for text in against or ()]
    recordings = [read_clip(path) for path in files or ()]
    begun_loading = time.perf_counter()
    enhancer = load_enhancer(model, device, threads)
    loaded = time.perf_counter()
    names = [enhancer.config.name, *(command.name for command in commands)]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"each system needs its own name, got {', '.join(names)}", param_hint="--against")
    with console.progress(enhancer.config.name) as progress:
        report = benchmark(
            enhancer,
            lambda number: recordings or made_clips(lengths, enhancer.config.rate, number),
            rounds,
            commands,
            options=options,
            scan=_scan(enhancer),
            import_seconds=imported - begun,
            load_seconds=loaded - begun_loading,
            progress=progress,
        )
    if report.passes > options.steps:
        console.warn(f"each frame passed through the network {report.passes} times, more often than there are steps")
    console.result(dataclasses.asdict(report), [to_markdown(report)], json)
    if plot is not None:
        write_atomically(plot, to_svg(report).encode())


def _scan(enhancer: Enhancer) -> str:
    """Name the implementation of the network, or else of its scan."""
    if enhancer.model.plan() is not None:
        return "compiled"
    from sbm_cli.nn import kernels

    return kernels.chosen(next(enhancer.model.folded().parameters()))


def _lengths(text: str) -> list[float]:
    try:
        lengths = [float(part) for part in text.split(",")]
    except ValueError:
        lengths = [0.0]
    if not all(0.1 <= length <= 3600 for length in lengths):
        raise typer.BadParameter(
            f"expected lengths of 0.1 to 3600 s, such as 1,10, got {text!r}", param_hint="--seconds"
        )
    return lengths
