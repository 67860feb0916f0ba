"""Metrics of an enhanced signal at 16 kHz, all optional; none downloads weights by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics import composite, dnsmos, lsd, nisqa, pesq, si_sdr, speaker, speechbert, stoi, wer
from sbm_cli.evaluation.metrics.metric import RATE, Metric

Pair = tuple[Samples, Samples | None]  # estimate (or noisy), clean

METRICS = {
    metric.name: metric
    for family in (si_sdr, stoi, pesq, composite, dnsmos, nisqa, speaker, speechbert, wer, lsd)
    for metric in family.METRICS
}


class Scores(dict[str, float | None]):
    """Scores by metric name, None if not computed; `reasons` then says why, by the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}


def available_metrics() -> dict[str, str]:
    """Return for every metric "" if it can be computed, otherwise what is missing and how to get it."""
    return {name: _missing(metric) for name, metric in METRICS.items()}


def score(
    metrics: Sequence[str],
    estimate: Samples,
    clean: Samples | None = None,
    rate: int = RATE,
    noisy: Samples | None = None,
) -> Scores:
    """Return the scores of one estimate (or of the noisy input), in the order of `metrics`.

    estimate, clean, noisy: [samples], full scale ±1, of equal length; scored at the level they have.
    rate: Hz; anything but 16 kHz is resampled first (soxr VHQ).
    A metric that cannot be computed (package, clean or noisy missing, signal silent, too short or not finite) is None
    with its reason. Metrics do not affect each other.

    Raises ValueError for an unknown metric or shapes that do not fit.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known are {', '.join(METRICS)}")
    shapes = [None if signal is None else signal.shape for signal in (estimate, clean, noisy)]
    if estimate.ndim != 1 or not {*shapes} <= {estimate.shape, None}:
        raise ValueError(f"estimate, clean and noisy must be [samples] of equal length, not {shapes}")
    estimate = _at_metric_rate(estimate, rate)
    clean, noisy = (None if signal is None else _at_metric_rate(signal, rate) for signal in (clean, noisy))
    scores = Scores()
    runs: dict[Callable[..., object], float | Mapping[str, float]] = {}
    for name in metrics:
        metric = METRICS[name]
        signals = (estimate, clean, noisy)[: 1 + metric.needs_clean + metric.needs_noisy]
        reason = _missing(metric) or _unfit(metric, signals)
        value: float | None = None
        if not reason:
            try:
                if metric.compute not in runs:
                    runs[metric.compute] = metric.compute(*signals)
                found = runs[metric.compute]
                value = found[name] if isinstance(found, Mapping) else found
            except Exception as error:  # third-party code on one signal: the other metrics and files go on
                reason = f"{type(error).__name__}: {_text(error)}"
        if value is not None and not np.isfinite(value):
            value, reason = None, f"{metric.label} is undefined for this signal"
        scores[name] = value
        if reason:
            scores.reasons[name] = reason
    return scores


def score_many(
    pairs: Sequence[Pair],
    metrics: Sequence[str],
    workers: int = 1,
    rate: int = RATE,
    progress: Callable[[int], None] | None = None,
) -> list[Scores]:
    """Return the scores of each (estimate, clean) in order, whatever the `workers`.

    workers: spawned processes of one thread each; 1 scores in this process.
    progress: called after each pair with the number of those done.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    work = partial(_score_pair, tuple(metrics), rate)
    if workers == 1:
        return _collect(map(work, pairs), progress)
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(workers, max(1, len(pairs))), get_context("spawn")) as pool:
        return _collect(pool.map(work, pairs), progress)


def _missing(metric: Metric) -> str:
    absent = [package for package in metric.packages if find_spec(package) is None]
    if absent:
        return f'{", ".join(absent)} not installed: pip install "sbm-cli[{metric.extra}]"'
    return metric.missing_weights()


def _unfit(metric: Metric, signals: Sequence[Samples | None]) -> str:
    """Say why a metric cannot score the signals it needs: an estimate, clean, noisy."""
    present = [signal for signal in signals if signal is not None]
    if len(present) < len(signals):
        return "no clean reference" if signals[1] is None else "no noisy input"
    if present[0].size == 0:
        return "no samples"
    if not all(np.isfinite(signal).all() for signal in present):
        return "samples are not finite"
    if metric.needs_clean and not present[1].any():
        return "the clean reference is silent"
    if metric.needs_sound and not present[0].any():
        return "the estimate is silent"
    return ""


def _at_metric_rate(samples: Samples, rate: int) -> Samples:
    if rate == RATE:
        return samples.astype(np.float32, copy=False)
    import soxr

    resampled: Samples = soxr.resample(samples.astype(np.float32, copy=False), rate, RATE, quality="VHQ")
    return resampled


def _text(error: Exception) -> str:
    message = error.args[0] if error.args else ""
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)  # pesq raises bytes


def _score_pair(metrics: tuple[str, ...], rate: int, pair: Pair) -> Scores:
    return score(metrics, *pair, rate)


def _collect(rows: Iterable[Scores], progress: Callable[[int], None] | None) -> list[Scores]:
    scores = []
    for done, row in enumerate(rows, 1):
        scores.append(row)
        if progress is not None:
            progress(done)
    return scores
