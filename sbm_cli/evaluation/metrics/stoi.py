"""STOI and ESTOI, by pystoi."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric


def intelligibility(estimate: Samples, clean: Samples, extended: bool) -> float:
    """Return the short-time objective intelligibility, about 0 to 1, or its extension for noise that comes and goes.

    Raises RuntimeWarning, where pystoi returns 1e-5, for fewer than 30 frames (0.4 s) of speech without the pauses.

    Source: Taal et al. 2011; Jensen and Taal 2016; as computed by pystoi.
    """
    from pystoi import stoi

    # pystoi adds noise of 1e-16 from NumPy's global generator: make it reproducible and leave no trace.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(stoi(clean, estimate, RATE, extended=extended))
    finally:
        np.random.set_state(state)


METRICS = tuple(
    Metric(name, name.upper(), "", partial(intelligibility, extended=extended), extra="metrics", packages=("pystoi",))
    for name, extended in (("stoi", False), ("estoi", True))
)
