"""Levels of speech and pauses."""

from __future__ import annotations

import numpy as np
import pytest

from sbm_cli.audio.loudness.levels import LevelMeter


def talk(rate: int, speech_db: float, pauses_db: float) -> np.ndarray:
    """Return ten seconds of noise, every other second at the level of speech."""
    noise = np.random.default_rng(0).standard_normal((1, 10 * rate))
    is_speech = np.arange(10 * rate) // rate % 2 == 0
    return np.asarray(noise * 10 ** (np.where(is_speech, speech_db, pauses_db) / 20), np.float32)


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
@pytest.mark.parametrize(("speech", "pauses"), [(-20, -70), (-20, -45), (-20, -28)])  # the last: too loud to tell
def test_speech_and_pauses_are_told_apart(rate: int, speech: float, pauses: float) -> None:
    sound = talk(rate, speech, pauses)
    meter = LevelMeter(rate)
    for start in range(0, sound.shape[1], 1777):
        meter.feed(sound[:, start : start + 1777])
    assert meter.levels() == (pytest.approx(speech, abs=1 if pauses < -35 else 3), pytest.approx(pauses, abs=1))


@pytest.mark.parametrize(("level", "expected"), [(0.0, (None, -120)), (0.1, (-20, -20))])
def test_there_may_be_no_speech_or_no_pause(level: float, expected: tuple[float | None, float]) -> None:
    meter = LevelMeter(8000)
    meter.feed(np.full((2, 8000), level, np.float32))
    assert meter.levels() == expected


@pytest.mark.parametrize("rate", [1, 7, 100])
def test_absurd_rates_and_nothing_are_no_harm(rate: int) -> None:
    meter = LevelMeter(rate)
    assert meter.levels() == (None, None)
    for _ in range(30):
        meter.feed(np.full((1, 1), 1e12, np.float32))
    assert meter.levels()[0] in (None, 0)
