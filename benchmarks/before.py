"""Compare enhancement on a CPU with another checkout, in turns.

    git worktree add BEFORE COMMIT
    python benchmarks/before.py BEFORE [--models sbm-small sbm-live sbm-tiny] [--rounds 11]

Both versions run on one thread in processes of their own and take turns, so that a slow minute of the machine meets
both: files of ten seconds, then hops of a stream; then the whole command `sbm enhance`, and `import torch` beside it.
Times are those of the processor, which count when others use it as well; with --wall, those of the clock. A ratio is
the median of the ratios of the turns; below 1 this version is faster.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
HOPS = 200  # of a turn
WORKER = """
import sys, time
import numpy as np
from sbm_cli import Enhancer
clock = getattr(time, sys.argv[2])
enhancer = Enhancer.load(sys.argv[1], device="cpu")
rate, hop = enhancer.config.rate, enhancer.config.stft.hop
noise = np.random.default_rng(0).normal(0, 0.05, 10 * rate).astype(np.float32)
stream = enhancer.stream(rate)
for line in sys.stdin:
    if line.strip() == "file":
        start = clock()
        enhancer.enhance(noise, rate)
        print(clock() - start, flush=True)
    else:
        times = []
        for k in range(int(line)):
            block = noise[k * hop : (k + 1) * hop]
            start = clock()
            stream.feed(block)
            times.append(clock() - start)
        print(*times, flush=True)
"""


class Version:
    """A process that enhances with the code of a checkout."""

    def __init__(self, root: Path, model: str, clock: str) -> None:
        weights = str(root / "sbm_cli" / "weights" / f"{model}.safetensors")
        command = [sys.executable, "-c", WORKER, weights, clock]
        self._process = subprocess.Popen(
            command, cwd=root, env=environment(root), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> list[float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        return [float(number) for number in self._process.stdout.readline().split()]

    def end(self) -> None:
        self._process.communicate()


def environment(root: Path) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return os.environ | threads | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": ""}  # bytecode, as at a user's


def started(root: Path, clock: str, *command: str) -> float:
    """Return the seconds that a Python takes from its start to its end."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=root, env=environment(root), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if clock == "perf_counter":
        return time.perf_counter() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compared(name: str, before: list[float], here: list[float], unit: float = 1.0) -> str:
    ratios = sorted(b / a for a, b in zip(before, here, strict=True))
    middle = [statistics.median(times) * unit for times in (before, here)]
    spread = f"{ratios[len(ratios) // 10]:.2f} to {ratios[-1 - len(ratios) // 10]:.2f}"
    return f"| {name} | {middle[0]:.4g} | {middle[1]:.4g} | {statistics.median(ratios):.2f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of another checkout")
    parser.add_argument("--models", nargs="+", default=["sbm-small", "sbm-live", "sbm-tiny"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--wall", action="store_true", help="time by the clock, on a machine that does nothing else")
    options = parser.parse_args()
    clock = "perf_counter" if options.wall else "process_time"
    roots = [options.before.resolve(), HERE]
    print("| | before | here | ratio, median | 80 % of the turns |\n|---|---|---|---|---|")
    for model in options.models:
        versions = [Version(root, model, clock) for root in roots]
        for version in versions:
            version.ask("file")
        files: list[list[float]] = [[], []]
        hops: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for times, version in zip(files, versions, strict=True):
                times += version.ask("file")
            for times, version in zip(hops, versions, strict=True):
                times += version.ask(str(HOPS))
        for version in versions:
            version.end()
        print(compared(f"{model}: real-time factor at 10 s", *files, unit=0.1))
        print(compared(f"{model}: hop, ms", *hops, unit=1e3))
        tails = [f"{sorted(times)[int(0.99 * len(times))] * 1e3:.2f}" for times in hops]
        print(f"| {model}: 99th percentile of a hop, ms | {tails[0]} | {tails[1]} | | |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "sbm_cli", "enhance", str(HERE / "examples" / "noisy.wav"), "-y", "-o", f"{folder}/clean.wav"]
        starts: list[list[float]] = [[], [], []]
        for number in range(options.rounds + 1):
            takes = [
                started(roots[0], clock, *command),
                started(HERE, clock, *command),
                started(HERE, clock, "-c", "import torch"),
            ]
            if number:  # the first finds what is not in the machine's memory yet
                for times, took in zip(starts, takes, strict=True):
                    times.append(took)
    print(compared("sbm enhance of 6 s, whole command, s", starts[0], starts[1]))
    print(compared("the same against `import torch`, s", starts[2], starts[1]))


if __name__ == "__main__":
    main()
