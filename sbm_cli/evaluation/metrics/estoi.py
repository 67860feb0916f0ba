"""ESTOI, by pystoi."""

from __future__ import annotations

import warnings

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric


def estoi(estimate: Samples, clean: Samples) -> float:
    """Return the extended short-time objective intelligibility, about 0 to 1.

    Raises RuntimeWarning, where pystoi returns 1e-5, for fewer than 30 frames (0.4 s) of speech without the pauses.

    Source: Jensen and Taal 2016, as computed by pystoi.
    """
    from pystoi import stoi

    # pystoi adds noise of 1e-16 from NumPy's global generator: make it reproducible and leave no trace.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(stoi(clean, estimate, RATE, extended=True))
    finally:
        np.random.set_state(state)


METRICS = (Metric("estoi", "ESTOI", "", estoi, needs_clean=True, extra="metrics", packages=("pystoi",)),)
