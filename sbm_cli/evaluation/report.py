"""Score a model on a test set: the noisy input, the enhanced output and their paired difference, per half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from sbm_cli.enhancer import Enhancer
from sbm_cli.evaluation.metrics import METRICS, RATE, score_many
from sbm_cli.evaluation.sets import HALVES, Mixture
from sbm_cli.evaluation.statistics import Interval, difference_interval, mean_interval


@dataclass(frozen=True)
class Row:
    """One metric on one half: means with 95 % intervals; `gain` is enhanced minus noisy, paired file by file."""

    half: str
    metric: str
    noisy: Interval
    enhanced: Interval
    gain: Interval


def evaluate(
    enhancer: Enhancer,
    mixtures: Sequence[Mixture],
    metrics: Sequence[str],
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Return a row for every half and metric. The outputs are scored as they are, at their own level.

    workers: processes that score; progress: called with the number of signals scored, of twice the mixtures.
    """
    estimates = [enhancer.enhance(mixture.noisy, RATE) for mixture in mixtures]
    pairs = [(mixture.noisy, mixture.clean) for mixture in mixtures]
    pairs += [(estimate, mixture.clean) for estimate, mixture in zip(estimates, mixtures, strict=True)]
    scores = score_many(pairs, metrics, workers, RATE, progress)
    rows = []
    for half in HALVES:
        chosen = [i for i, mixture in enumerate(mixtures) if mixture.half == half]
        for metric in metrics if chosen else ():
            noisy = [scores[i][metric] for i in chosen]
            enhanced = [scores[len(mixtures) + i][metric] for i in chosen]
            rows.append(
                Row(half, metric, mean_interval(noisy), mean_interval(enhanced), difference_interval(enhanced, noisy))
            )
    return rows


def to_markdown(rows: Sequence[Row], absent: Sequence[str] = ()) -> str:
    """Return the rows as a Markdown table; metrics that could not be computed here are shown as absent."""
    lines = ["| half | metric | noisy | enhanced | gain (95 % interval) |", "|---|---|---|---|---|"]
    for row in rows:
        gain = f"{row.gain.mean:+.3f} ({row.gain.low:+.3f} to {row.gain.high:+.3f})"
        lines.append(f"| {row.half} | {_name(row.metric)} | {row.noisy.mean:.3f} | {row.enhanced.mean:.3f} | {gain} |")
    lines += [f"| all | {_name(metric)} | absent | absent | absent |" for metric in absent]
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Return the rows as half -> metric -> noisy, enhanced, gain."""
    document: dict[str, dict[str, object]] = {}
    for row in rows:
        values = {key: value for key, value in asdict(row).items() if key not in ("half", "metric")}
        document.setdefault(row.half, {})[row.metric] = values
    return document


def _name(metric: str) -> str:
    found = METRICS[metric]
    return f"{found.label} ({found.unit})" if found.unit else found.label
