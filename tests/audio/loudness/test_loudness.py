"""Loudness and its limit of the true peak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.audio.loudness.limiter import Limiter
from sbm_cli.audio.loudness.meter import LoudnessMeter
from sbm_cli.errors import DependencyError

RATE = 16000


def bursts(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Return soft noise with loud moments."""
    count = round(seconds * rate)
    noise = np.random.default_rng(0).normal(0, 0.03, (channels, count))
    noise[:, :: rate // 3] = 0.9
    return np.asarray(noise, np.float32)


def loudness(samples: np.ndarray, rate: int) -> float | None:
    meter = LoudnessMeter(rate, len(samples))
    for start in range(0, samples.shape[1], 7001):
        meter.feed(samples[:, start : start + 7001])
    return meter.loudness


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize(("channels", "expected"), [(1, -23.0), (2, -20.0)])
def test_a_tone_is_as_loud_as_the_standard_says(rate: int, channels: int, expected: float) -> None:
    """ITU-R BS.1770: 997 Hz at -20 dBFS, peak, in one channel is -23 LKFS."""
    tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)
    found = loudness(np.tile(tone, (channels, 1)).astype(np.float32), rate)
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("samples", [np.zeros((1, RATE), np.float32), bursts(0.2), np.zeros((2, 0), np.float32)])
def test_silence_and_short_sounds_have_none(samples: np.ndarray) -> None:
    assert loudness(samples, RATE) is None


def test_an_older_av_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frame: ...

    monkeypatch.setattr("av.AudioFrame", Frame)
    with pytest.raises(DependencyError, match="version 18"):
        LoudnessMeter(RATE, 1)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (44100, 2), (300, 1)])
def test_peaks_stay_below_the_ceiling(rate: int, channels: int) -> None:
    noisy = bursts(3, rate, channels)
    limiter = Limiter(rate, channels, gain_db=12)
    found = np.concatenate([limiter.feed(noisy), limiter.flush()], axis=1)
    assert found.shape == noisy.shape
    peak = np.abs(soxr.resample(found.T.astype(float), rate, 8 * rate, "VHQ")).max()
    assert 10 ** (-1.5 / 20) < peak <= 10 ** (-1.0 / 20)


def test_what_is_soft_enough_is_only_amplified() -> None:
    noisy = 0.05 * bursts(1)
    limiter = Limiter(RATE, 1, gain_db=6)
    found = np.concatenate([limiter.feed(noisy), limiter.flush()], axis=1)
    np.testing.assert_allclose(found, 10 ** (6 / 20) * noisy, rtol=1e-6)


@given(cuts=st.lists(st.integers(0, 5000), max_size=5), length=st.integers(0, 5000))
def test_the_limiter_does_not_depend_on_the_blocks(cuts: list[int], length: int) -> None:
    noisy = bursts(0.4)[:, :length]

    def limited(blocks: list[Any]) -> np.ndarray:
        limiter = Limiter(RATE, 1, gain_db=9)
        return np.concatenate([*map(limiter.feed, blocks), limiter.flush()], axis=1)

    found = limited(np.split(noisy, sorted(cuts), axis=1))
    assert found.shape == noisy.shape
    np.testing.assert_array_equal(found, limited([noisy]))
