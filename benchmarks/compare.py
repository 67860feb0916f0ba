"""Compare two ways of training on seeded mixtures, with as many seeds of each as there are.

    python benchmarks/compare.py corpus.csv bridge=runs/bridge-0,runs/bridge-1 mapping=runs/mapping-0,runs/mapping-1

Prints, for every subset and metric, the mean of each model, and the difference of the second way to the first: paired
by mixture, averaged over seeds, with a 95 % interval over mixtures. `seeds` is the larger of the two ways'
differences between their own first two seeds: what is not larger than that is no difference.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.test_sets import SUBSETS, evaluation_set
from sbm_cli.enhancer import Enhancer
from sbm_cli.evaluation.metrics import METRICS, available_metrics, score
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.evaluation.statistics import difference_interval
from sbm_cli.hardware import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("ways", nargs=2, metavar="NAME=MODEL,MODEL", help="one model per seed")
    parser.add_argument("--split", default="valid", choices=["valid", "report"])
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    options = parser.parse_args()

    mixtures = list(evaluation_set(open_corpus(options.cache, [options.manifest]), options.split, options.count))
    metrics = [name for name, missing in available_metrics().items() if not missing]
    names, models = zip(*(way.split("=", 1) for way in options.ways), strict=True)
    seeds = [paths.split(",") for paths in models]
    pairs: list[tuple[Samples, Samples]] = []
    for path in [path for paths in seeds for path in paths]:
        enhancer = Enhancer.load(path)
        pairs += [(enhancer.enhance(mixture.noisy, RATE), mixture.clean) for mixture in mixtures]
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        scores = list(pool.map(partial(score, metrics), *zip(*pairs, strict=True)))

    single = [f"{name} {seed}" for name, paths in zip(names, seeds, strict=True) for seed in range(len(paths))]
    print(f"| subset | metric | {' | '.join(single)} | {names[1]} - {names[0]} (95 % interval) | seeds |")
    print("|" + "---|" * (len(single) + 4))
    for subset in SUBSETS:
        chosen = [i for i, mixture in enumerate(mixtures) if mixture.subset == subset]
        for metric in metrics:
            table = np.array([score[metric] for score in scores], np.float64).reshape(len(single), -1)[:, chosen]
            first, second = table[: len(seeds[0])], table[len(seeds[0]) :]
            gain = difference_interval(list(second.mean(0)), list(first.mean(0)))
            apart = max(np.ptp(way[:2].mean(1)) if len(way) > 1 else np.nan for way in (first, second))
            means = " | ".join(f"{mean:.3f}" for mean in table.mean(1))
            difference = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
            print(f"| {subset} | {METRICS[metric].label} | {means} | {difference} | {apart:.3f} |")


if __name__ == "__main__":
    main()
