"""Time a training step of `sbm-tiny`, say where it goes, and compare it with another checkout.

    python benchmarks/train_step.py [--precision bfloat16] [--against CHECKOUT] [--rounds 40]

A step is one 3-s item, forward and backward through the loss, on one thread with the allocator settings of a
training. With --against, both versions run this script as they have it, in processes of their own, and take turns, step
by step, so that a slow minute of the machine meets both; the ratio is the median of the ratios of the turns. The
precision is that of this version; the other one runs in float32.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 3.0
HERE = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).resolve().relative_to(HERE)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}  # as `train` sets them
CLASSES = {  # the first that occurs in an operator's name; a Function's own time leaves out the operators it calls
    "linear map over bands": ("BandLinear",),
    "matrix products": ("mm", "addmv", "linear", "dot"),
    "scan": ("Scan",),
    "Mamba block": ("Mamba",),
    "convolution along time": ("_Conv",),
    "convolution along bands": ("BandConv",),
    "encoder, skip, head": ("convolution",),
    "normalisation": ("layer_norm", "Norm"),
    "transforms": ("fft", "stft"),
    "optimiser": ("adam",),
    "copies": ("copy_", "cat", "index", "gather", "scatter", "slice", "constant_pad", "unfold", "as_strided"),
    "sums": ("sum", "mean"),
    "element by element": ("mul", "add", "sub", "div", "silu", "exp", "log", "pow", "neg", "sqrt", "where", "clamp"),
    "fills": ("fill_", "zero"),
}


def make_step(precision: str) -> Callable[[], float]:
    """Return a function that runs one step, forward and backward, and returns the loss."""
    import torch

    from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
    from sbm_cli.training.config import load_recipe
    from sbm_cli.training.objectives.objective import STUDENT, Batch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_recipe("sbm-tiny", [] if precision == "float32" else [f"loop.precision={precision}"])
    network = OSpatialNet(config.model.network)
    with torch.no_grad():  # away from the start, where branches are zero
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    clean = 0.1 * torch.randn(1, round(SECONDS * config.model.rate))
    noisy = clean + 0.05 * torch.randn_like(clean)

    items = itertools.count()  # each has a bridge time of its own, and not every time costs the same

    def step() -> float:
        batch = Batch(noisy, clean, 0, torch.tensor([next(items)]))
        loss = config.objective.loss(config, batch, STUDENT, {STUDENT: network})
        network.zero_grad()
        loss.backward()
        return float(loss.detach())

    return step


def work(precision: str) -> None:
    """Run a step for every line that comes in; answer with seconds, loss and peak memory in MiB."""
    import resource

    step = make_step(precision)
    for _ in range(3):
        step()
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        took = time.perf_counter() - start
        print(took, loss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def compare(roots: list[Path], precisions: list[str], rounds: int) -> list[list[tuple[float, float, float]]]:
    """Return what `work` answers, for every checkout and round."""
    processes = [
        subprocess.Popen(
            [sys.executable, root / SCRIPT, "--work"] + (["--precision", precision] if root == HERE else []),
            env=os.environ | ALLOCATOR | {"PYTHONPATH": str(root)},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for root, precision in zip(roots, precisions, strict=True)
    ]
    answers: list[list[tuple[float, float, float]]] = [[] for _ in roots]
    for _ in range(rounds):
        for process, answer in zip(processes, answers, strict=True):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            took, loss, memory = map(float, process.stdout.readline().split())
            answer.append((took, loss, memory))
    for process in processes:
        process.communicate()
    return answers


def breakdown(precision: str, names: bool, steps: int = 8) -> None:
    """Print where the time of a step goes, by class of operator."""
    from torch.profiler import ProfilerActivity, profile

    step = make_step(precision)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            step()
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        name = next((name for name, parts in CLASSES.items() if any(part in event.key for part in parts)), "the rest")
        times[name] = times.get(name, 0.0) + event.self_cpu_time_total / steps / 1e3
        if names:
            print(f"{name:>26} {event.self_cpu_time_total / steps / 1e3:8.2f} {event.count // steps:5d} {event.key}")
    print("\n| part | ms | share |\n|---|---|---|")
    for name, took in sorted(times.items(), key=lambda item: -item[1]):
        print(f"| {name} | {took:.1f} | {took / sum(times.values()):.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="folder of another checkout (git worktree add FOLDER COMMIT)")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--precision", default="float32", help="of the products: float32 or bfloat16")
    parser.add_argument("--names", action="store_true", help="list every operator with its class")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.precision)
        return
    if options.against and not (options.against / SCRIPT).is_file():
        parser.error(f"{options.against} has no {SCRIPT}: compare with a commit from afe620b on")
    roots = [HERE] + ([options.against.resolve()] if options.against else [])
    precisions = [options.precision, "float32"][: len(roots)]
    answers = compare(roots, precisions, options.rounds)
    print("| checkout | precision | ms, median | ms, least | audio s per s | loss | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for root, precision, answer in zip(roots, precisions, answers, strict=True):
        times = [took for took, _, _ in answer]
        middle, best = statistics.median(times), min(times)
        row = f"| {root} | {precision} | {middle * 1e3:.0f} | {best * 1e3:.0f} | {SECONDS / middle:.1f} |"
        print(f"{row} {answer[0][1]:.6f} | {answer[-1][2]:.0f} |")
    if options.against:
        ratios = sorted(b[0] / a[0] for a, b in zip(*answers, strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        print(f"\n{statistics.median(ratios):.2f} times as fast (80 % of the turns: {low:.2f} to {high:.2f})")
    else:
        breakdown(options.precision, options.names)


if __name__ == "__main__":
    main()
