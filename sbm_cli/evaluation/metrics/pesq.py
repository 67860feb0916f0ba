"""Wide-band PESQ, by the package pesq."""

from __future__ import annotations

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

# s. The C code of pesq has tables for 50 utterances and writes beyond them unchecked (seen from 25 s on). An utterance
# and its pause last at least 0.4 s, so that this much is always safe.
SAFE = 20


def pesq_wb(estimate: Samples, clean: Samples) -> float:
    """Return wide-band PESQ as MOS-LQO, 1.04 to 4.64.

    Raises pesq.PesqError if no utterance is found, RuntimeError if a signal over 20 s has too many.

    Source: ITU-T P.862.2, as computed by the package pesq.
    """
    if clean.size <= SAFE * RATE:
        return _pesq(estimate, clean)
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a crash ends the child, not us
        try:
            return pool.submit(_pesq, estimate, clean).result()
        except BrokenProcessPool:
            raise RuntimeError("pesq crashed: it has room for 50 utterances only; cut the signal into clips") from None


def _pesq(estimate: Samples, clean: Samples) -> float:
    from pesq import pesq

    return float(pesq(RATE, clean, estimate, "wb"))


METRICS = (
    Metric("pesq", "PESQ-wb", "MOS", pesq_wb, needs_clean=True, needs_sound=True, extra="pesq", packages=("pesq",)),
)
