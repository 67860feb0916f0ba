"""Time streams by the length of their blocks: python benchmarks/blocks.py [--model PATH] [--device D] > table.md

This is how the block length of a file is chosen (BLOCK_SECONDS in sbm_cli/stream). Protocol as in `sbm rtf`: the
lengths take turns within a round, the first round warms up, the median of the others counts.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from functools import partial

from sbm_cli import Enhancer
from sbm_cli.audio.samples import Samples
from sbm_cli.timing.clips import speech_like
from sbm_cli.timing.machine import machine, software
from sbm_cli.timing.rtf import timed


def feed(enhancer: Enhancer, samples: Samples, rate: int, block: float) -> None:
    stream = enhancer.stream(rate)
    size = round(block * rate)
    for start in range(0, samples.size, size):
        stream.feed(samples[start : start + size])
    stream.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, file or folder; the default model without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--blocks", type=float, nargs="+", default=[0.016, 0.1, 0.25, 0.5, 1, 2, 5], help="in s")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    print(f"- machine: {machine()}\n- software: {software()}")
    print(f"- command: `python {shlex.join(sys.argv)}`; median of {arguments.rounds} rounds")
    enhancer = Enhancer.load(arguments.model, arguments.device, arguments.threads)
    rate = enhancer.config.rate
    samples = speech_like(arguments.seconds, rate)
    times: dict[float, list[float]] = {block: [] for block in arguments.blocks}
    for number in range(arguments.rounds + 1):
        for block, taken in times.items():
            took = timed(partial(feed, enhancer, samples, rate, block), enhancer)
            if number:
                taken.append(took)

    print("\n| blocks of, s | threads | time, s | least to most | RTF |\n|---|---|---|---|---|")
    for block, taken in times.items():
        median = statistics.median(taken)
        spread = f"{min(taken):.3f} to {max(taken):.3f}"
        print(f"| {block:g} | {arguments.threads} | {median:.3f} | {spread} | {median / arguments.seconds:.4f} |")


if __name__ == "__main__":
    main()
