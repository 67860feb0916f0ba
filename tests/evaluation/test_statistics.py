"""The bootstrap against the normal distribution, whose interval is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sbm_cli.evaluation.statistics import Interval, difference_interval, mean_interval


def test_the_interval_of_a_normal_mean_is_that_of_the_formula() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    half = 1.96 * values.std() / math.sqrt(values.size)
    interval = mean_interval(values.tolist())
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval.count == 400


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.normal(0.0, 1.0, 80).tolist()) for _ in range(100)]
    assert 88 <= sum(interval.low <= 0.0 <= interval.high for interval in intervals) <= 99


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(3).random(50).tolist()
    assert mean_interval(values) == mean_interval(values)


def test_a_paired_difference_is_narrower_than_the_scores_are_wide() -> None:
    rng = np.random.default_rng(5)
    noisy = rng.normal(0.0, 10.0, 100)
    estimate = noisy + 1.0 + rng.normal(0.0, 0.1, 100)
    difference = difference_interval(estimate.tolist(), noisy.tolist())
    assert difference.low < 1.0 < difference.high
    assert difference.high - difference.low < 0.1
    assert mean_interval(noisy.tolist()).high - mean_interval(noisy.tolist()).low > 2.0


def test_missing_values_are_left_out_and_not_counted() -> None:
    assert mean_interval([1.0, None, 2.0, float("nan"), 3.0]) == mean_interval([1.0, 2.0, 3.0])
    assert difference_interval([1.0, None, 3.0, 9.0], [0.0, 1.0, 1.0, None]) == mean_interval([1.0, 2.0])


def test_too_few_values_have_no_interval() -> None:
    one, none = mean_interval([2.5]), mean_interval([None])
    assert (one.mean, one.count, none.count) == (2.5, 1, 0)
    assert all(math.isnan(value) for value in (one.low, one.high, none.mean, none.low, none.high))


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.5] * 5) == Interval(0.5, 0.5, 0.5, 5)


def test_lengths_must_match() -> None:
    with pytest.raises(ValueError, match="longer"):
        difference_interval([1.0], [1.0, 2.0])
