"""The picture of before and after: tones stand where they belong, at any length, and both in one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.evaluation import spectrogram as room
from sbm_cli.evaluation.spectrogram import LABELS, LINE, MARGIN, WIDTH, Spectrogram, draw, spectrogram


def record(path: Path, seconds: float, rate: int = 16000, channels: int = 1) -> Path:
    """Write 1 kHz in the first half and 3 kHz in the second, both with an RMS of 0.1."""
    time = np.arange(round(seconds * rate)) / rate
    hertz = np.where(time < seconds / 2, 1000, 3000)
    wave = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * hertz * time)
    soundfile.write(path, np.stack([wave] * channels, 1), rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"), [(0.3, 16000, 2), (3, 16000, 1), (50, 8000, 1), (3, 44100, 2)]
)
def test_tones_stand_at_their_time_and_frequency(tmp_path: Path, seconds: float, rate: int, channels: int) -> None:
    found = spectrogram(record(tmp_path / "a.wav", seconds, rate, channels))
    assert (found.rate, found.seconds) == (rate, pytest.approx(seconds, abs=1 / rate))
    columns, bins = found.power.shape
    assert columns == WIDTH
    peaks = found.power.argmax(1) * (rate / 2 / (bins - 1))
    for part, hertz in ((0.25, 1000), (0.75, 3000)):
        assert peaks[round(part * columns)] == pytest.approx(hertz, abs=35)
    levels = found.power.sum(1)
    assert levels[columns // 4] == pytest.approx(levels[3 * columns // 4], rel=0.1)


@given(samples=st.integers(0, 3000), channels=st.integers(1, 2))
def test_any_length_has_a_picture(samples: int, channels: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("short") / "a.wav"
    soundfile.write(path, np.full((samples, channels), 0.1), 16000)
    found = spectrogram(path)
    assert 1 <= len(found.power) <= WIDTH and np.isfinite(found.power).all()
    assert bool(found.power.any()) == (samples > 1)  # the window begins at zero
    draw(found, found, path.with_suffix(".png"))


def test_memory_is_that_of_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(room.np.fft, "rfft", lambda cut, rfft=np.fft.rfft: (sizes.append(cut.size), rfft(cut))[1])
    for seconds in (20, 100):
        assert len(spectrogram(record(tmp_path / "a.wav", seconds, 8000)).power) == WIDTH
    assert max(sizes) <= 2 * 8000 * 2


def test_before_stands_above_after_in_one_scale(tmp_path: Path) -> None:
    from PIL import Image

    silent, loud = np.full((10, 5), 1e-12), np.full((10, 5), 1e-2)
    draw(Spectrogram(loud, 16000, 1.0), Spectrogram(loud * 1e-4, 8000, 1.0), tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png").convert("L")
    middle, upper, panel = LABELS + WIDTH // 2, MARGIN + LINE, LINE + room.HEIGHT + LINE
    before, after = picture.getpixel((middle, upper + 10)), picture.getpixel((middle, upper + panel + room.HEIGHT - 10))
    assert before > after > 20
    assert picture.getpixel((middle, upper + panel + 10)) == 0  # no sound above 4 kHz at a rate of 8 kHz
    draw(Spectrogram(silent, 16000, 0.0), Spectrogram(silent, 16000, 0.0), tmp_path / "b.png")
