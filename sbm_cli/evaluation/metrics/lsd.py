"""Log-spectral distance where the input lacks something: above its bandwidth, and in its gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

WINDOW, HOP = 512, 128
MISSING_DB = -20.0  # of the input beside the clean signal, where a band is missing
LEAST_HZ = 500  # of a missing band
LEAST_GAP = RATE // 200  # 5 ms
FLOOR_DB = -80.0  # beside the clean signal's mean power in a bin: what is softer counts as that

Power = NDArray[np.float64]  # [frames, bins]


def lsd_hf(estimate: Samples, clean: Samples, noisy: Samples) -> float:
    """Return the distance in dB above the bandwidth of the input.

    Raises ValueError if less than LEAST_HZ is missing there.
    """
    given, wanted = (_power(x).mean(0) for x in (noisy, clean))
    present = np.flatnonzero(given > 10 ** (MISSING_DB / 10) * wanted)
    first = int(present.max(initial=-1)) + 1
    if (given.size - first) * RATE < LEAST_HZ * WINDOW:
        raise ValueError("the input lacks no band")
    return _distance(estimate, clean, slice(None), slice(first, None))


def lsd_gaps(estimate: Samples, clean: Samples, noisy: Samples) -> float:
    """Return the distance in dB of the frames whose middle lies in a gap.

    A gap is where the input is zero for LEAST_GAP samples or more, and the clean signal is not.

    Raises ValueError if there is none.
    """
    missing = np.zeros(noisy.size, bool)
    edges = np.flatnonzero(np.diff(noisy == 0, prepend=False, append=False)).reshape(-1, 2)
    for start, end in edges[edges[:, 1] - edges[:, 0] >= LEAST_GAP]:
        missing[start:end] = clean[start:end].any()
    frames = missing[::HOP]
    if not frames.any():
        raise ValueError("the input has no gaps")
    return _distance(estimate, clean, frames, slice(None))


def _distance(estimate: Samples, clean: Samples, frames: NDArray[np.bool_] | slice, bins: slice) -> float:
    """Return the root mean square over the bins of the levels' difference, and of that the mean over the frames.

    Source: Gray and Markel 1976, "Distance measures for speech processing".
    """
    powers = [_power(x) for x in (estimate, clean)]
    floor = 10 ** (FLOOR_DB / 10) * powers[1].mean()
    found, wanted = (10 * np.log10(np.maximum(power, floor))[frames, bins] for power in powers)
    return float(np.sqrt(np.square(found - wanted).mean(1)).mean())


def _power(signal: Samples) -> Power:
    """Return the power of Hann windows around every HOP-th sample."""
    padded = np.pad(signal.astype(np.float64), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:-1:HOP]
    return np.asarray(np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2)


METRICS = (
    Metric("lsd_hf", "LSD-HF", "dB, less is better", lsd_hf, needs_noisy=True),
    Metric("lsd_gaps", "LSD in gaps", "dB, less is better", lsd_gaps, needs_noisy=True),
)
