"""Time whole-file and block-wise enhancement: python benchmarks/rtf.py [--model PATH] > table.md

Real-time factor = processing time / audio duration; loading the model and one warm-up are not counted.
Each row is the fastest of several runs, since other work on the machine can only slow a run down. The rows of one
round are run one after another, so that a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sbm_cli import Enhancer

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One row: `block` in seconds, None for one call of `enhance`."""

    threads: int
    seconds: float
    block: float | None


def speech_like(seconds: float, rate: int) -> Samples:
    """Return noise in syllables of 4 Hz with a steady floor: never silent, so that nothing can be skipped."""
    time_axis = np.arange(round(seconds * rate), dtype=np.float32) / rate
    syllables = 0.05 + np.maximum(0, np.sin(2 * np.pi * 4 * time_axis))
    noise = np.random.default_rng(0).standard_normal(time_axis.size, dtype=np.float32)
    return np.asarray(0.05 * syllables * noise, dtype=np.float32)


def feed(enhancer: Enhancer, samples: Samples, rate: int, block: float) -> None:
    stream = enhancer.stream(rate)
    size = round(block * rate)
    for start in range(0, samples.size, size):
        stream.feed(samples[start : start + size])
    stream.flush()


def elapsed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> str:
    """Return the processor's name, its cores that we may use, and the load before the run."""
    names = [platform.processor() or platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")] or names
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    return f"{names[0]}, {cores} cores{load}"


def commit() -> str:
    """Return the commit of this checkout and whether files differ from it."""
    here = Path(__file__).parent
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return run.stdout.strip() or "none"


def heading(enhancer: Enhancer, arguments: argparse.Namespace) -> Iterator[str]:
    parameters = sum(parameter.numel() for parameter in enhancer.network.parameters())
    yield f"- machine: {machine()}"
    yield f"- software: Python {platform.python_version()}, PyTorch {torch.__version__}, commit {commit()}"
    yield f"- model: {arguments.model or 'default'}, {parameters} parameters when folded; {arguments.rate} Hz mono"
    yield f"- command: `python {shlex.join(sys.argv)}`; fastest of {arguments.repeats}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, file or folder; the default model without it")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60, 600], help="lengths for enhance()")
    parser.add_argument("--blocks", type=float, nargs="*", default=[0.016, 0.1, 0.5, 1, 2, 5], help="of a stream, in s")
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    enhancers = {threads: Enhancer.load(arguments.model, "cpu", threads) for threads in arguments.threads}
    first = arguments.seconds[0]
    cases = [Case(threads, seconds, None) for threads in arguments.threads for seconds in arguments.seconds]
    cases += [Case(threads, first, block) for threads in arguments.threads for block in arguments.blocks]
    audio = {seconds: speech_like(seconds, arguments.rate) for seconds in arguments.seconds}

    def run(case: Case) -> None:
        if case.block is None:
            enhancers[case.threads].enhance(audio[case.seconds], arguments.rate)
        else:
            feed(enhancers[case.threads], audio[case.seconds], arguments.rate, case.block)

    print("\n".join(heading(enhancers[arguments.threads[0]], arguments)), flush=True)
    for enhancer in enhancers.values():
        enhancer.enhance(audio[first][: 3 * arguments.rate], arguments.rate)
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(arguments.repeats):
        for case in cases:
            best[case] = min(best[case], elapsed(partial(run, case)))

    print("\n| call | threads | audio, s | time, s | RTF | times real time |\n|---|---|---|---|---|---|")
    for case, took in best.items():
        call = "enhance" if case.block is None else f"stream, blocks of {case.block:g} s"
        row = f"| {call} | {case.threads} | {case.seconds:g} | {took:.3f} | {took / case.seconds:.4f} |"
        print(f"{row} {case.seconds / took:.1f} |")


if __name__ == "__main__":
    main()
