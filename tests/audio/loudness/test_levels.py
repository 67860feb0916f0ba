"""Levels of speech and pauses, before and after."""

from __future__ import annotations

import numpy as np
import pytest

from sbm_cli.audio.loudness.levels import LevelMeter, Levels


def talk(rate: int, speech_db: float, pauses_db: float) -> np.ndarray:
    """Return ten seconds of noise, every other second at the level of speech."""
    noise = np.random.default_rng(0).standard_normal((1, 10 * rate))
    is_speech = np.arange(10 * rate) // rate % 2 == 0
    return np.asarray(noise * 10 ** (np.where(is_speech, speech_db, pauses_db) / 20), np.float32)


@pytest.mark.parametrize("rates", [(16000, 16000), (22050, 44100), (48000, 16000)])
@pytest.mark.parametrize("delay", [0, 3000])
def test_speech_and_pauses_are_told_apart(rates: tuple[int, int], delay: int) -> None:
    before, after = talk(rates[0], -20, -35), talk(rates[1], -22, -70)
    meter = LevelMeter(rates)
    for start in range(0, before.shape[1] + delay, 1777):
        late = start - delay
        meter.feed(before[:, start : start + 1777], after[:, max(0, late) : max(0, late + 1777)])
    meter.feed(before[:, :0], after[:, late + 1777 :])
    found = meter.levels()
    for name, level in zip(Levels.__dataclass_fields__, (-20, -22, -35, -70), strict=True):
        assert getattr(found, name) == pytest.approx(level, abs=1)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.0, Levels(None, None, -120, -120)),
        (0.1, Levels(-20, -20, None, None)),
    ],
)
def test_there_may_be_no_speech_or_no_pause(level: float, expected: Levels) -> None:
    sound = np.full((2, 8000), level, np.float32)
    meter = LevelMeter((8000, 8000))
    meter.feed(sound, sound)
    assert meter.levels() == expected


@pytest.mark.parametrize("rate", [1, 7, 100])
def test_absurd_rates_and_nothing_are_no_harm(rate: int) -> None:
    meter = LevelMeter((rate, rate))
    assert meter.levels() == Levels(None, None, None, None)
    for _ in range(30):
        meter.feed(np.full((1, 1), 1e12, np.float32), np.ones((1, 1), np.float32))
    assert meter.levels().speech_after in (None, 0)
