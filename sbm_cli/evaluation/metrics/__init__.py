"""Scores of an enhanced signal at 16 kHz, each optional.

Computed here: SI-SDR, ESTOI, PESQ wide-band. Beside this file: DNSMOS, NISQA, speaker similarity, SpeechBERTScore.
None of them fetches weights by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.sdr import si_sdr
from sbm_cli.evaluation.metrics import dnsmos, nisqa, speaker, speechbert

Samples = NDArray[np.float32]
Pair = tuple[Samples, Samples | None]  # estimate (or noisy), clean

RATE = 16_000  # Hz, at which all of them are defined


@dataclass(frozen=True)
class Metric:
    """What a score means and what it needs.

    extra: of sbm-cli, brings `packages`; "" where nothing is missing.
    missing_weights: says how to get weights that no package brings; "" where they are there.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool
    needs_clean: bool
    extra: str
    packages: tuple[str, ...]
    missing_weights: Callable[[], str] = str


_DNSMOS = ("speechmos", "onnxruntime", "librosa")
_NISQA = ("metrics", ("torchmetrics", "requests"), nisqa.missing_weights)
_SBS = ("speechbert", ("transformers",), speechbert.missing_weights)
METRICS = {
    metric.name: metric
    for metric in (
        Metric("si_sdr", "SI-SDR", "dB", True, True, "", ()),
        Metric("estoi", "ESTOI", "", True, True, "metrics", ("pystoi",)),
        Metric("pesq", "PESQ-wb", "MOS", True, True, "pesq", ("pesq",)),
        Metric("sig", "DNSMOS SIG", "MOS", True, False, "metrics", _DNSMOS),
        Metric("bak", "DNSMOS BAK", "MOS", True, False, "metrics", _DNSMOS),
        Metric("ovrl", "DNSMOS OVRL", "MOS", True, False, "metrics", _DNSMOS),
        Metric("p808", "DNSMOS P.808", "MOS", True, False, "metrics", _DNSMOS),
        Metric("nisqa", "NISQA", "MOS", True, False, *_NISQA),
        Metric("nisqa_noisiness", "NISQA noisiness", "MOS", True, False, *_NISQA),
        Metric("nisqa_discontinuity", "NISQA breaks", "MOS", True, False, *_NISQA),
        Metric("nisqa_coloration", "NISQA coloration", "MOS", True, False, *_NISQA),
        Metric("nisqa_loudness", "NISQA loudness", "MOS", True, False, *_NISQA),
        Metric("speaker", "speaker similarity", "", True, True, "speaker", ("resemblyzer",)),
        Metric("sbs_precision", "SpeechBERTScore", "", True, True, *_SBS),
        Metric("sbs_recall", "SpeechBERTScore recall", "", True, True, *_SBS),
        Metric("sbs_f1", "SpeechBERTScore F1", "", True, True, *_SBS),
    )
}


class Scores(dict[str, float | None]):
    """Metric name → score, None where it could not be computed; `reasons` then says why, by the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}


def available_metrics() -> dict[str, str]:
    """Return for every metric "" if it can be computed here, otherwise what is missing and how to get it."""
    return {name: _missing(metric) for name, metric in METRICS.items()}


def score(metrics: Sequence[str], estimate: Samples, clean: Samples | None = None, rate: int = RATE) -> Scores:
    """Return the scores of one estimate (or of the noisy input), in the order of `metrics`.

    estimate, clean: [samples], full scale ±1, of equal length; scored at the level they have.
    rate: Hz; anything but 16 kHz is resampled first (soxr VHQ).
    A metric that cannot be computed (package or clean missing, signal silent, too short or not finite)
    is None with its reason; it never stops the others, and a score never depends on which others are asked for.

    Raises ValueError for an unknown metric or shapes that do not fit.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known are {', '.join(METRICS)}")
    if estimate.ndim != 1 or (clean is not None and clean.shape != estimate.shape):
        shapes = f"{estimate.shape} and {None if clean is None else clean.shape}"
        raise ValueError(f"estimate and clean must be [samples] of equal length, not {shapes}")
    estimate = _at_metric_rate(estimate, rate)
    clean = None if clean is None else _at_metric_rate(clean, rate)
    scores = Scores()
    shared = _shared_runs(estimate, clean)
    for name in metrics:
        metric = METRICS[name]
        reason = _missing(metric) or _unfit(metric, estimate, clean)
        value: float | None = None
        if not reason:
            try:
                value = _compute(name, estimate, clean, shared)
            except Exception as error:  # third-party code on one signal: the other metrics and files go on
                reason = f"{type(error).__name__}: {_text(error)}"
        if value is not None and not np.isfinite(value):
            value, reason = None, f"{metric.label} is not a number for this signal"
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
    """Return the scores of each (estimate, clean), in order; the result does not depend on `workers`.

    workers: processes (started by spawn, one thread each); 1 scores in this process.
    progress: called with the number of finished pairs after each of them.
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


def estoi(estimate: Samples, clean: Samples) -> float:
    """Return the extended short-time objective intelligibility, about 0 to 1.

    Raises RuntimeWarning if less than 30 frames (0.4 s) of speech are left without the pauses, where pystoi says 1e-5.

    Source: Jensen and Taal 2016, as computed by pystoi.
    """
    from pystoi import stoi

    # pystoi adds noise of 1e-16 from NumPy's global generator: make it the same every time and leave no trace.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(stoi(clean, estimate, RATE, extended=True))
    finally:
        np.random.set_state(state)


def pesq_wb(estimate: Samples, clean: Samples) -> float:
    """Return wide-band PESQ as MOS-LQO, 1.04 to 4.64.

    Raises pesq.PesqError if no utterance is found, RuntimeError if a signal over 20 s has too many of them.

    Source: ITU-T P.862.2, as computed by the package pesq.
    """
    if clean.size <= _PESQ_SAFE * RATE:
        return _pesq(estimate, clean)
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a crash ends the child, not us
        try:
            return pool.submit(_pesq, estimate, clean).result()
        except BrokenProcessPool:
            raise RuntimeError("pesq crashed: it has room for 50 utterances; cut the signal into clips") from None


# s. The C code of pesq keeps utterances in tables of 50 and writes beyond them without a check (seen from 25 s on).
# An utterance and its pause last at least 0.4 s, so that this much is always safe.
_PESQ_SAFE = 20


def _pesq(estimate: Samples, clean: Samples) -> float:
    from pesq import pesq

    return float(pesq(RATE, clean, estimate, "wb"))


Run = Callable[[], dict[str, float]]


def _shared_runs(estimate: Samples, clean: Samples | None) -> dict[str, Run]:
    """Return, for the metrics that several at a time come from one run of a model, that run: at most one is made."""
    runs: list[tuple[Iterable[str], Run]] = [
        (dnsmos.P835_MAPPING, partial(dnsmos.p835, estimate)),
        (nisqa.NAMES, partial(nisqa.nisqa, estimate)),
    ]
    if clean is not None:
        runs.append((speechbert.NAMES, partial(speechbert.speechbert, estimate, clean)))
    return {name: once for names, run in runs for once in [lru_cache(run)] for name in names}


def _compute(name: str, estimate: Samples, clean: Samples | None, shared: dict[str, Run]) -> float:
    if name in shared:
        return shared[name]()[name]
    if name == "p808":
        return dnsmos.p808(estimate)
    assert clean is not None
    return {"si_sdr": si_sdr, "estoi": estoi, "pesq": pesq_wb, "speaker": speaker.similarity}[name](estimate, clean)


def _missing(metric: Metric) -> str:
    absent = [package for package in metric.packages if find_spec(package) is None]
    if absent:
        return f'{", ".join(absent)} not installed: pip install "sbm-cli[{metric.extra}]"'
    return metric.missing_weights()


def _unfit(metric: Metric, estimate: Samples, clean: Samples | None) -> str:
    if metric.needs_clean and clean is None:
        return "no clean reference"
    signals = [estimate] if clean is None or not metric.needs_clean else [estimate, clean]
    if estimate.size == 0:
        return "no samples"
    if not all(np.isfinite(signal).all() for signal in signals):
        return "samples are not finite"
    if metric.needs_clean and clean is not None and not clean.any():
        return "the clean reference is silent"
    if metric.name in ("pesq", "speaker") and not estimate.any():
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
