"""Bootstrap 95 % intervals of mean scores and of paired differences between two systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over `count` files and its bootstrap interval; NaN if there is nothing to average or resample."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float | None]) -> Interval:
    """Return the mean of values and its 95 % percentile bootstrap interval.

    None and NaN (a metric that could not be computed) are left out and not counted. One value has a mean but no
    interval. The same values give the same interval.
    """
    from scipy.stats import bootstrap

    given = np.array([value for value in values if value is not None], dtype=np.float64)
    given = given[~np.isnan(given)]
    mean = float(given.mean()) if given.size else float("nan")
    if given.size < 2:
        return Interval(mean, float("nan"), float("nan"), given.size)
    rng = np.random.default_rng(0)
    found = bootstrap((given,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return Interval(mean, float(found.low), float(found.high), given.size)


def difference_interval(values: Sequence[float | None], baseline: Sequence[float | None]) -> Interval:
    """Return the mean of `values` minus `baseline`, paired file by file, and its 95 % percentile bootstrap interval.

    Pairs with a missing side are left out. Raises ValueError if the lengths differ.
    """
    pairs = zip(values, baseline, strict=True)
    return mean_interval([None if a is None or b is None else a - b for a, b in pairs])
