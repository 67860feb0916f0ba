"""Metrics of an enhanced signal at 16 kHz, all optional; none downloads weights by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics import composite, dnsmos, lsd, nisqa, pesq, si_sdr, speaker, speechbert, stoi, wer
from sbm_cli.evaluation.metrics.metric import Metric

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
    noisy: Samples | None = None,
    level: float | None = None,
) -> Scores:
    """Return the scores of one estimate (or of the noisy input), in the order of `metrics`.

    estimate, clean, noisy: [samples] at 16 kHz, full scale ±1, of equal length; compared at the level they have.
    level: RMS in dBFS to which the estimate is scaled for metrics without a reference, None: leave it.
    A metric that cannot be computed (package, clean or noisy missing, signal silent, too short or not finite) is None
    with its reason. Metrics do not affect each other.
    """
    given = [None if signal is None else signal.astype(np.float32, copy=False) for signal in (estimate, clean, noisy)]
    scaled = at_level(estimate.astype(np.float32, copy=False), level)
    scores = Scores()
    runs: dict[Callable[..., object], float | Mapping[str, float]] = {}
    for name in metrics:
        metric = METRICS[name]
        signals = given[: 1 + metric.needs_clean + metric.needs_noisy] if metric.needs_clean else [scaled]
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


def at_level(samples: Samples, dbfs: float | None) -> Samples:
    """Return the samples scaled to an RMS in dBFS (0: always ±1); silence is unchanged, and all if dbfs is None."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0
    return samples if dbfs is None or rms == 0 else samples * np.float32(10 ** (dbfs / 20) / rms)


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


def _text(error: Exception) -> str:
    message = error.args[0] if error.args else ""
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)  # pesq raises bytes
