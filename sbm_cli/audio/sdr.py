"""Scale-invariant signal-to-distortion ratio: what training validates by and evaluation reports."""

from __future__ import annotations

import numpy as np

from sbm_cli.audio.samples import Samples

LIMIT = 100.0  # dB; keeps exact copies and silence finite


def si_sdr(estimate: Samples, clean: Samples) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB, within ±100; means are not removed.

    Where one of the two is silent nothing of the target is left: -100. Where both are: +100, an exact copy.

    Source: Le Roux et al. 2019 (arXiv 1811.02508), Eq. 3.
    """
    x, y = clean.astype(np.float64), estimate.astype(np.float64)
    energy = np.sum(x * x)
    target = x * (np.sum(x * y) / energy) if energy > 0 else x
    error = y - target
    signal, distortion = np.sum(target * target), np.sum(error * error)
    if distortion == 0 and (signal > 0 or energy == 0):
        return LIMIT
    if signal == 0:
        return -LIMIT
    return float(np.clip(10 * np.log10(signal / distortion), -LIMIT, LIMIT))
