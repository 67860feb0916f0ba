"""PESQ, wide-band and narrow-band, by the package pesq."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

# s. The C code of pesq has tables for 50 utterances and writes beyond them unchecked (seen from 25 s on). An utterance
# and its pause last at least 0.4 s, so that this much is always safe.
SAFE = 20


def pesq_wb(estimate: Samples, clean: Samples) -> float:
    """Return wide-band PESQ as MOS-LQO, 1.04 to 4.64; see `pesq_nb`.

    Source: ITU-T P.862.2, as computed by the package pesq.
    """
    return _pesq(estimate.tobytes(), clean.tobytes(), "wb")


def pesq_nb(estimate: Samples, clean: Samples) -> float:
    """Return narrow-band PESQ as MOS-LQO, 1.02 to 4.55.

    Raises pesq.PesqError if no utterance is found, RuntimeError if a signal over 20 s has too many.

    Source: ITU-T P.862 and P.862.1, as computed by the package pesq.
    """
    return _pesq(estimate.tobytes(), clean.tobytes(), "nb")


@lru_cache(maxsize=2)  # the composite measures want the same one again
def _pesq(estimate: bytes, clean: bytes, band: str) -> float:
    pair = (np.frombuffer(clean, np.float32), np.frombuffer(estimate, np.float32))
    if pair[0].size <= SAFE * RATE:
        return _run(pair, band)
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a crash ends the child, not us
        try:
            return pool.submit(_run, pair, band).result()
        except BrokenProcessPool:
            raise RuntimeError("pesq crashed: it has room for 50 utterances only; cut the signal into clips") from None


def _run(pair: tuple[Samples, Samples], band: str) -> float:
    from pesq import pesq

    return float(pesq(RATE, *pair, band))


METRICS = tuple(
    Metric(name, label, "MOS", compute, needs_sound=True, extra="pesq", packages=("pesq",))
    for name, label, compute in (("pesq", "PESQ-wb", pesq_wb), ("pesq_nb", "PESQ-nb", pesq_nb))
)
