"""What it brings to hear the beginning of a recording twice. docs/benchmarks.md has its table.

    python benchmarks/warm_up.py MANIFEST [--model NAME] [--count 80] [--seconds 1 2 4]

Each mixture of the split `valid` is enhanced without a warm-up, and with its first seconds ahead of it, which are then
cut off. Prints means of the differences, noise only | reverberant, with their standard errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sbm_cli import Enhancer, Options
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.test_sets import evaluation_set
from sbm_cli.evaluation.metrics import METRICS

RATE, COLD = 16_000, Options(warm_up=False)


def scores(estimate: np.ndarray, clean: np.ndarray) -> list[float]:
    si_sdr, pesq, estoi = (METRICS[name].compute for name in ("si_sdr", "pesq", "estoi"))
    return [
        si_sdr(estimate, clean),
        si_sdr(estimate[:RATE], clean[:RATE]),
        pesq(estimate, clean),
        estoi(estimate, clean),
    ]


def mean(column: np.ndarray) -> str:
    return f"{column.mean():+.3f} ± {column.std(ddof=1) / len(column) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="sbm-small")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    given = parser.parse_args()
    enhancer = Enhancer.load(given.model, "cpu")
    found: dict[float, list[list[float]]] = {seconds: [] for seconds in (0.0, *given.seconds)}
    for item in evaluation_set(open_corpus(Path("runs/cache"), [given.manifest], [], [], [], ()), "valid", given.count):
        for seconds, rows in found.items():
            head = item.noisy[: int(seconds * RATE)]
            estimate = enhancer.enhance(np.concatenate([head, item.noisy]), RATE, COLD)[len(head) :]
            rows.append(scores(estimate, item.clean))
    half = (given.count + 1) // 2
    print("| seconds | SI-SDR, dB | in the first second | PESQ | ESTOI |\n|---|---|---|---|---|")
    for seconds in given.seconds:
        change = np.array(found[seconds]) - np.array(found[0.0])
        cells = [" / ".join(map(mean, (column[:half], column[half:]))) for column in change.T]
        print(f"| {seconds:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
