"""An offset is limited where it would drown the sound, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbm_cli.dsp.offset import limit_offset, most_offset
from sbm_cli.dsp.stft import Stft, windows

RATE = 16000
STFT = Stft()
CONSTANT = windows(STFT)[2]


def limited(samples: np.ndarray, low_hz: float = 80) -> tuple[np.ndarray, np.ndarray]:
    """Return the spectrum of samples before and after."""
    spectrum = STFT.analyze(torch.from_numpy(samples.astype(np.float32))[None])[0]
    limits = RATE / STFT.n_fft, most_offset(low_hz)
    found = limit_offset(spectrum, torch.from_numpy(CONSTANT), *limits)
    in_numpy = limit_offset(spectrum.numpy(), CONSTANT, *limits)
    np.testing.assert_allclose(in_numpy, found.numpy(), atol=1e-5)
    return spectrum.numpy(), in_numpy


@pytest.mark.parametrize(("offset", "low_hz"), [(0, 80), (0.005, 80), (0.01, 80), (0, 0), (0.001, 0)])
def test_sound_with_little_offset_stays_bit_for_bit(offset: float, low_hz: float) -> None:
    before, after = limited(np.random.default_rng(0).normal(offset, 0.01, 10 * RATE), low_hz)
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])


@pytest.mark.parametrize("offset", [0.1, -1])
def test_much_of_it_goes_and_the_sound_stays(offset: float) -> None:
    sound = np.random.default_rng(0).normal(0, 0.003, RATE)
    plain = limited(sound)[0]
    before, after = (np.abs(x[:, :, 1:] - plain[:, :, 1:]) for x in limited(sound + offset))  # after the step
    assert (after < 0.1 * before)[:, :20].all()
