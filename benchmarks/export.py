"""Time a hop of exported graphs beside that of a stream: python benchmarks/export.py MODEL GRAPH.onnx ... > table.md

They take turns, in random order, at every hop of ten seconds of sound, on one thread; a second before them warms up. A
busy machine interrupts most hops, but not the fastest tenth: the ratio is theirs.
"""

from __future__ import annotations

import runpy
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from sbm_cli import Enhancer
from sbm_cli.timing.clips import speech_like
from sbm_cli.timing.machine import machine, software

SECONDS = 10
OnnxStream = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "onnx_stream.py"))["OnnxStream"]


def main() -> None:
    model, *graphs = sys.argv[1:]
    enhancer = Enhancer.load(model, "cpu", threads=1)
    rate, size = enhancer.config.rate, enhancer.config.stft.hop
    feeds = {f"`{model}`, our own": enhancer.stream(rate).feed}
    for path in map(Path, graphs):
        feeds[f"`{path.name}`, {path.stat().st_size / 1e6:.2f} MB"] = OnnxStream(str(path)).feed
    samples = speech_like(1 + SECONDS, rate)
    taken, order = [], np.random.default_rng(0)
    for hop in samples[: len(samples) // size * size].reshape(-1, size):
        times = dict.fromkeys(feeds, 0.0)
        for name in order.permutation(list(feeds)):
            begun = time.perf_counter()
            feeds[name](hop)
            times[name] = time.perf_counter() - begun
        taken.append(list(times.values()))
    hops = 1e3 * np.array(taken[rate // size :])  # [hop, system]

    print(f"- machine: {machine()}\n- software: {software()}\n- command: `python {shlex.join(sys.argv)}`\n")
    print("| | fastest tenth of hops, up to ms | median, ms | times our own |\n|---|---|---|---|")
    fast, median = np.percentile(hops, (10, 50), axis=0)
    for name, least, middle in zip(feeds, fast, median, strict=True):
        print(f"| {name} | {least:.2f} | {middle:.2f} | {least / fast[0]:.2f} |")


if __name__ == "__main__":
    main()
