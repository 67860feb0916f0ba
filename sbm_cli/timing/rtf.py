"""How fast an enhancer is on this machine: the timing protocol of `sbm rtf` and `benchmarks/`.

Every round times one clip of each length with each system in turn, so that a slow minute of the machine affects all of
them; the first round warms up and is not counted. Real-time factor (RTF) = processing time / audio duration. Our times
are from array to array with the model loaded; those of other programs from file to file, minus their time for a tenth
of a second of audio, which is their start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sbm_cli.audio.resample import resampling_delay
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import DEFAULTS, Options
from sbm_cli.stream import block_samples
from sbm_cli.timing.clips import Clip, speech_like, write_clip
from sbm_cli.timing.commands import Command
from sbm_cli.timing.machine import machine, peak_memory, software

START_SECONDS = 0.1  # of the clip that measures a program's start
STREAM_SECONDS = 10.0
STREAM_WARM_UP = 20  # hops


@dataclass(frozen=True)
class Row:
    """One system on the clips of one name: seconds over the rounds, and of the start, which RTF leaves out."""

    system: str
    clip: str
    seconds: float
    median: float
    least: float
    most: float
    start: float
    rtf: float


@dataclass(frozen=True)
class Latency:
    """In seconds; median, p99 and most: processing time of one hop of a stream at the model's rate.

    algorithmic: delay between a sample and its output, from window and look-ahead. resampler, resampler_44_khz: what
    conversion from 48 or 44.1 kHz to the model's rate and back adds at most.
    """

    hop: float
    median: float
    p99: float
    most: float
    algorithmic: float
    resampler: float
    resampler_44_khz: float


@dataclass(frozen=True)
class Report:
    """What was measured under which conditions; in seconds, and bytes of memory."""

    machine: str
    software: str
    model: str
    parameters: int  # of the folded network
    device: str
    dtype: str
    scan: str
    threads: int
    rounds: int
    import_seconds: float
    load_seconds: float
    passes: int  # of each frame through the network
    calls: int  # of the network for the first clip, one per block
    latency: Latency
    peak_memory: int | None
    peak_device_memory: int | None
    rows: tuple[Row, ...]


def benchmark(
    enhancer: Enhancer,
    clips: Callable[[int], Sequence[Clip]],
    rounds: int,
    commands: Sequence[Command] = (),
    *,
    options: Options = DEFAULTS,
    scan: str,
    import_seconds: float,
    load_seconds: float,
    progress: Callable[[float, float], object] = lambda done, total: None,
) -> Report:
    """Measure an enhancer and other programs beside it.

    clips: returns those of a round, with the same names in every round. commands: names differ from each other and from
    the model's. options: how the enhancer enhances. scan, import_seconds, load_seconds: only reported.
    progress is called with the seconds of audio done and their total.

    Raises SbmError if a program fails.
    """
    plan, cuda = enhancer.model.plan(options.steps), _cuda(enhancer)
    where = machine()  # before our own load
    passes, calls = network_passes(enhancer, clips(0)[0], options)
    rows = measure(enhancer, (clips(number) for number in range(rounds + 1)), rounds + 1, commands, progress, options)
    return Report(
        machine=where,
        software=software(),
        model=enhancer.config.name,
        parameters=plan.parameters if plan else sum(p.numel() for p in enhancer.model.folded().parameters()),
        device=f"{enhancer.device} ({cuda.get_device_name(enhancer.device)})" if cuda else enhancer.model.device,
        dtype="float32",
        scan=scan,
        threads=enhancer.threads,
        rounds=rounds,
        import_seconds=import_seconds,
        load_seconds=load_seconds,
        passes=passes,
        calls=calls,
        latency=stream_latency(enhancer, options),
        peak_memory=peak_memory(),
        peak_device_memory=cuda.max_memory_allocated(enhancer.device) if cuda else None,
        rows=tuple(rows),
    )


def measure(
    enhancer: Enhancer,
    rounds: Iterable[Sequence[Clip]],
    count: int,
    commands: Sequence[Command] = (),
    progress: Callable[[float, float], object] = lambda done, total: None,
    options: Options = DEFAULTS,
) -> list[Row]:
    """Return a row for every clip and system; the first of the `count` rounds warms up."""
    names = [enhancer.config.name, *(command.name for command in commands)]
    start = Clip("", speech_like(START_SECONDS, enhancer.config.rate)[None], enhancer.config.rate)
    times: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.wav", Path(folder) / "out.wav"
        for number, clips in enumerate(rounds):
            for clip in (start, *clips) if commands else clips:
                seconds[clip.name] = clip.seconds
                works: list[Callable[[], object]] = [partial(enhancer.enhance, clip.samples, clip.rate, options)]
                if commands:
                    write_clip(source, clip)
                    works += [partial(command.run, source, target, enhancer.threads) for command in commands]
                for name, work in zip(names, works, strict=True):
                    took = timed(work, enhancer)
                    if number:
                        times.setdefault((name, clip.name), []).append(took)
            done = sum(clip.seconds for clip in clips)
            progress((number + 1) * done, count * done)
    # Nothing is subtracted from ours: the model is loaded.
    starts = {name: float(np.median(times[name, start.name])) for name in names[1:]}
    return [
        _row(name, clip, seconds[clip], times[name, clip], starts.get(name, 0.0))
        for clip in seconds
        if clip != start.name
        for name in names
    ]


def timed(work: Callable[[], object], enhancer: Enhancer) -> float:
    """Return how many seconds a call takes, with no GPU work pending before or after."""
    cuda = _cuda(enhancer)
    synchronize = partial(cuda.synchronize, enhancer.device) if cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def stream_latency(enhancer: Enhancer, options: Options = DEFAULTS) -> Latency:
    """Return the latency of a stream that is fed one hop at a time, as live sound arrives."""
    rate, hop = enhancer.config.rate, enhancer.config.stft.hop
    samples, stream = speech_like(STREAM_SECONDS, rate), enhancer.stream(rate, options=options)
    blocks = [samples[start : start + hop] for start in range(0, samples.size - hop + 1, hop)]
    times = [timed(partial(stream.feed, block), enhancer) for block in blocks][STREAM_WARM_UP:]
    return Latency(
        hop=hop / rate,
        median=float(np.median(times)),
        p99=float(np.quantile(times, 0.99)),
        most=max(times),
        algorithmic=stream.latency_seconds,
        resampler=resampling_delay(48_000, rate, 48_000),
        resampler_44_khz=resampling_delay(44_100, rate, 44_100),
    )


def network_passes(enhancer: Enhancer, clip: Clip, options: Options = DEFAULTS) -> tuple[int, int]:
    """Return how often each frame of a clip passes through the network (1: a single step), and in how many calls."""
    frames = calls = 0
    samples = round(clip.seconds * enhancer.config.rate)
    if enhancer.model.plan(options.steps) is not None:  # which takes a block in one call for each step
        blocks = -(-samples // block_samples(enhancer.model.device, enhancer.config.rate))
        return options.steps, options.steps * blocks

    def count(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal frames, calls
        frames += inputs[1].shape[-1]  # noisy: [batch, freq, frames]
        calls += 1

    networks = {enhancer.model.folded(), enhancer.model.network}  # for one step, and for several
    hooks = [network.register_forward_hook(count) for network in networks]
    try:
        enhancer.enhance(clip.samples, clip.rate, replace(options, warm_up=False))
    finally:
        for hook in hooks:
            hook.remove()
    return round(frames / enhancer.config.stft.frames(samples)), calls


def to_markdown(report: Report) -> str:
    """Return the conditions as a list and the times as a table."""
    return "\n".join([*_conditions(report), "", *_table(report.rows)])


def to_svg(report: Report) -> str:
    """Return a chart with a bar for every row: times real time, longer is faster."""
    from sbm_cli.plot.chart import bars

    rows = [row for row in report.rows if row.rtf]  # 0: work too short to tell from the start of the program
    drawn = [(f"{row.system}, {row.clip}", 1 / row.rtf, f"{1 / row.rtf:.1f} (RTF {row.rtf:.4f})") for row in rows]
    ours = sum(row.system == report.model for row in rows)
    return bars(f"{report.machine.split(', load')[0]}, threads {report.threads}", drawn, "times real time", ours)


def _conditions(report: Report) -> Iterator[str]:
    latency = report.latency
    yield f"- machine: {report.machine}"
    yield f"- software: {report.software}"
    yield (
        f"- model: {report.model}, {report.parameters} parameters when folded, {report.dtype} on {report.device}, "
        f"scan {report.scan}, threads {report.threads}"
    )
    yield (
        f"- protocol: median of {report.rounds} rounds after one to warm up, systems and clips taking turns; models "
        "from array to array, other programs from file to file less their start"
    )
    yield f"- start, not counted: imports {report.import_seconds:.2f} s, model {report.load_seconds:.2f} s"
    yield f"- network: passes per frame {report.passes}; calls for the first clip {report.calls}, one per block"
    yield (
        f"- stream, hop by hop: median {1e3 * latency.median:.2f} ms, 99th percentile {1e3 * latency.p99:.2f} ms, "
        f"maximum {1e3 * latency.most:.2f} ms, per hop of {1e3 * latency.hop:g} ms"
    )
    yield (
        f"- algorithmic latency: {1e3 * latency.algorithmic:g} ms (window and look-ahead); "
        f"the resampler adds up to {1e3 * latency.resampler:.0f} ms at 48 kHz, "
        f"{1e3 * latency.resampler_44_khz:.0f} ms at 44.1 kHz"
    )
    memory = {"resident": report.peak_memory, "on the device": report.peak_device_memory}
    known = [f"{held / 2**20:.0f} MiB {where}" for where, held in memory.items() if held is not None]
    yield f"- peak memory: {', '.join(known) or 'unknown'}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| clip | system | median, s | least to most, s | start, s | RTF | times real time |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        start = f"{row.start:.3f}" if row.start else "apart"
        spread = f"{row.least:.3f} to {row.most:.3f}"
        speed = f"{1 / row.rtf:.1f}" if row.rtf else ""
        yield f"| {row.clip} | {row.system} | {row.median:.3f} | {spread} | {start} | {row.rtf:.4f} | {speed} |"


def _row(system: str, clip: str, seconds: float, times: Sequence[float], start: float) -> Row:
    median = float(np.median(times))
    return Row(system, clip, seconds, median, min(times), max(times), start, max(0.0, median - start) / seconds)


def _cuda(enhancer: Enhancer) -> ModuleType | None:
    """Return torch.cuda if the enhancer is on a GPU: on a CPU it may do without PyTorch."""
    return import_module("torch.cuda") if enhancer.model.device.startswith("cuda") else None
