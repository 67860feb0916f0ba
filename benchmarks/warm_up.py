"""What it brings to hear the beginning of a recording twice. docs/benchmarks.md has its table.

    python benchmarks/warm_up.py MANIFEST [--model NAME] [--count 80]

Each mixture of the split `valid` is enhanced with a warm-up and without. Prints means of the differences, noise only /
reverberant, with their standard errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sbm_cli import Enhancer, Options
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.test_sets import evaluation_set
from sbm_cli.evaluation.metrics import METRICS

RATE = 16_000


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
    given = parser.parse_args()
    enhancer = Enhancer.load(given.model, "cpu")
    corpus = open_corpus(Path("runs/cache"), [given.manifest], [], [], [], ())
    found = []
    for item in evaluation_set(corpus, "valid", given.count):
        cold, warm = (
            scores(enhancer.enhance(item.noisy, RATE, Options(warm_up=warm_up)), item.clean)
            for warm_up in (False, True)
        )
        found.append(np.subtract(warm, cold))
    half = (given.count + 1) // 2
    print("| model | SI-SDR, dB | in the first second | PESQ | ESTOI |\n|---|---|---|---|---|")
    cells = [" / ".join(map(mean, (column[:half], column[half:]))) for column in np.array(found).T]
    print(f"| `{given.model}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
