"""Segmental SNR, and the composite measures CSIG, CBAK and COVL of Hu and Loizou.

They predict ratings of the speech, the background and the whole from PESQ, segmental SNR, the log-likelihood ratio of
linear predictors and the weighted spectral slope, all in frames of 30 ms. PESQ is the wide-band one, as in most
tables of VoiceBank+DEMAND.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric
from sbm_cli.evaluation.metrics.pesq import pesq_wb

WINDOW, HOP = 480, 120
ORDER = 16  # of the linear predictors
KEPT = 0.95  # of the frames, the better ones
AT_A_TIME = 4096  # frames, of which half a minute has as many
LABELS = {"csig": "CSIG", "cbak": "CBAK", "covl": "COVL"}
# Hz, of the critical bands: their middles and bandwidths
CENTRES = np.array(
    [50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54]
    + [1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63]
)
WIDTHS = np.array(
    [70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154]
    + [183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136]
)

Array = NDArray[np.float64]


def segmental_snr(estimate: Samples, clean: Samples) -> float:
    """Return the mean over the frames of their SNR in dB, each between -10 and 35.

    Source: Hansen and Pellom 1998; limits and frames as in Loizou's program.
    """
    speech, error = (np.square(_frames(x)).sum(1) for x in (clean, clean.astype(np.float64) - estimate))
    epsilon = np.spacing(1.0)
    return float(np.clip(10 * np.log10(speech / (error + epsilon) + epsilon), -10, 35).mean())


def composite(estimate: Samples, clean: Samples) -> dict[str, float]:
    """Return CSIG, CBAK and COVL, 1 to 5.

    Raises what `pesq_wb` raises.

    Source: Hu and Loizou 2008, "Evaluation of objective quality measures for speech enhancement".
    """
    pesq = pesq_wb(estimate, clean)
    likelihood, slope = (_mean_of_better(x, estimate, clean) for x in (_likelihood_ratios, _spectral_slopes))
    found = (
        3.093 - 1.029 * likelihood + 0.603 * pesq - 0.009 * slope,
        1.634 + 0.478 * pesq - 0.007 * slope + 0.063 * segmental_snr(estimate, clean),
        1.594 + 0.805 * pesq - 0.512 * likelihood - 0.007 * slope,
    )
    return dict(zip(LABELS, np.clip(found, 1, 5).tolist(), strict=True))


def _frames(signal: NDArray[np.floating]) -> Array:
    """Return windowed frames [frames, WINDOW]; like Loizou's program, not the last one that fits."""
    window = np.hanning(WINDOW + 2)[1:-1]
    fitting = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), WINDOW)[::HOP]
    return fitting[: _count(signal)] * window


def _count(signal: NDArray[np.floating]) -> int:
    """Return the number of frames. Raises ValueError if there is none."""
    if signal.size < WINDOW + HOP:
        raise ValueError(f"fewer than {WINDOW + HOP} samples")
    return (signal.size - WINDOW) // HOP


def _mean_of_better(distance: Callable[[Samples, Samples], Array], estimate: Samples, clean: Samples) -> float:
    """Return the mean of a distance over all frames but the worst.

    Raises ValueError if there is none.
    """
    parts = [slice(at * HOP, (at + AT_A_TIME) * HOP + WINDOW) for at in range(0, _count(clean), AT_A_TIME)]
    found = np.sort(np.concatenate([distance(estimate[part], clean[part]) for part in parts]))
    if not found.size:
        raise ValueError("no frame has sound in both signals")
    return float(found[: round(found.size * KEPT)].mean())


def _likelihood_ratios(estimate: Samples, clean: Samples) -> Array:
    """Return for each frame how much worse the estimate's linear predictor predicts the clean frame than its own.

    Frames that are silent in one of the signals, where that is undefined, are left out.
    """
    both = (_frames(clean), _frames(estimate))
    nonzero = both[0].any(1) & both[1].any(1)
    lags, others = (_autocorrelation(frames[nonzero], ORDER) for frames in both)
    return np.log(_error(_predictors(others), lags) / _error(_predictors(lags), lags))


def _autocorrelation(rows: Array, order: int) -> Array:
    """Return the lags 0 to `order` of each row, [rows, order + 1]."""
    size = rows.shape[1]
    return np.stack([(rows[:, : size - lag] * rows[:, lag:]).sum(1) for lag in range(order + 1)], axis=1)


def _predictors(lags: Array) -> Array:
    """Return the error filters [rows, ORDER + 1] of linear predictors, by the recursion of Levinson and Durbin."""
    filters = np.zeros_like(lags)
    filters[:, 0] = 1
    error = lags[:, 0].copy()
    for order in range(1, ORDER + 1):
        reflection = -(filters[:, :order] * lags[:, order:0:-1]).sum(1) / error
        filters[:, : order + 1] += reflection[:, None] * filters[:, order::-1]
        error *= 1 - reflection**2
    return filters


def _error(filters: Array, lags: Array) -> Array:
    """Return the power that filters leave of signals with these autocorrelations."""
    own = _autocorrelation(filters, ORDER)
    return np.asarray(2 * (own * lags).sum(1) - own[:, 0] * lags[:, 0])


def _spectral_slopes(estimate: Samples, clean: Samples) -> Array:
    """Return for each frame the weighted squared difference of the slopes between neighbouring critical bands.

    Source: Klatt 1982, with the weights and the normalisation of Loizou's program.
    """
    slopes, weights = zip(*(_slopes(_frames(x)) for x in (clean, estimate)), strict=True)
    weight = weights[0] + weights[1]
    return np.asarray((weight * np.square(slopes[0] - slopes[1])).sum(1) / weight.sum(1))


def _slopes(frames: Array) -> tuple[Array, Array]:
    """Return the slopes in dB between the critical bands of each frame, [frames, bands - 1], and their weights."""
    power = np.abs(np.fft.rfft(frames, 1024)[:, :-1]) ** 2
    level = 10 * np.log10(np.maximum(power @ _bands(power.shape[1]).T, 1e-10))
    slope, lower = np.diff(level), level[:, :-1]
    rises = slope > 0
    peak = lower.copy()  # of the spectrum, in the direction in which it rises
    for band in range(1, slope.shape[1]):  # a falling slope has its peak on the left
        goes_on = ~rises[:, band] & ~rises[:, band - 1]
        peak[goes_on, band] = peak[goes_on, band - 1]
    for band in reversed(range(slope.shape[1] - 1)):
        goes_on = rises[:, band] & rises[:, band + 1]
        peak[goes_on, band] = peak[goes_on, band + 1]
    return slope, 20 / (20 + level.max(1, keepdims=True) - lower) / (1 + peak - lower)


def _bands(bins: int) -> Array:
    """Return the critical bands as filters of the power spectrum, [bands, bins]."""
    centres, widths = (hertz[:, None] * 2 * bins / RATE for hertz in (CENTRES, WIDTHS))
    filters = np.exp(-11 * np.square((np.arange(bins) - np.floor(centres)) / widths)) * widths[0] / widths
    return np.asarray(np.where(filters > np.exp(-30 / (2 * 2.303)), filters, 0))


METRICS = (
    Metric("ssnr", "segmental SNR", "dB", segmental_snr),
    *(
        Metric(name, label, "MOS", composite, needs_sound=True, extra="pesq", packages=("pesq",))
        for name, label in LABELS.items()
    ),
)
