"""Arrays of any numeric type become samples by one rule, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sbm_cli.audio.samples import full_scale_one, usable, whole_rate


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-(2**15), 0, 2**14], np.int16), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-(2**7), 0, 2**6], np.int8), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),  # WAV files of 8 bits
        (np.array([-1, 0, 0.5], np.float64), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], np.float16), [-1, 0, 0.5]),
        ([-1.0, 0.0, 0.5], [-1, 0, 0.5]),
    ],
)
def test_integers_are_scaled_by_their_range(samples: Any, expected: list[float]) -> None:
    found = full_scale_one(samples)
    assert found.dtype == np.float32 and found.tolist() == expected


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.complex64, object, "U1"])
def test_what_has_no_scale_is_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match="samples must be float, with full scale 1, or int8"):
        full_scale_one(np.zeros(3, dtype))


def test_usable_samples() -> None:
    samples = full_scale_one(np.array([0.5, -9e11, 2e12, np.nan, np.inf, -np.inf, 1e300]))
    assert usable(samples).tolist() == [True, True] + 5 * [False]


@pytest.mark.parametrize("rate", [44100, 44100.0, np.int32(44100), np.float64(44100), np.array(44100)])
def test_rates_of_any_type(rate: Any) -> None:
    assert whole_rate(rate) == 44100 and type(whole_rate(rate)) is int


@pytest.mark.parametrize("rate", [0, -1, 44100.5, float("nan"), float("inf"), "16000", None])
def test_rates_that_are_none(rate: Any) -> None:
    with pytest.raises(ValueError, match="the sampling rate must be a whole number of Hz"):
        whole_rate(rate)
