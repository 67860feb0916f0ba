"""The level follows quickly upwards, slowly downwards, and does not care how frames are cut."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.dsp.level import Level, frame_power
from sbm_cli.dsp.stft import Stft

HOP = 0.016


def test_starts_at_the_first_frame_and_stays_on_constant_power() -> None:
    levels, last = Level().track(torch.full((2, 50), 0.01), HOP)
    torch.testing.assert_close(levels, torch.full((2, 50), 0.01))
    torch.testing.assert_close(last, torch.full((2,), 0.01))


def test_attack_and_release_have_their_time_constants() -> None:
    level = Level(attack=0.075, release=10.0)
    rise, _ = level.track(torch.cat([torch.full((1, 1), 0.01), torch.full((1, 100), 1.0)], 1), 0.001)
    assert (1 - rise[0, 75].item()) / 0.99 == pytest.approx(math.exp(-1), rel=1e-3)
    fall, _ = level.track(torch.cat([torch.full((1, 1), 1.0), torch.full((1, 100), 1e-6)], 1), 0.1)
    assert fall[0, 100].item() == pytest.approx(math.exp(-1), rel=1e-3)


def test_silence_stops_at_the_floor() -> None:
    levels, _ = Level(floor_db=-60).track(torch.zeros(1, 5), HOP)
    torch.testing.assert_close(levels, torch.full((1, 5), 1e-6))


@given(cut=st.integers(1, 39))
def test_carry_makes_blocks_equal_the_whole(cut: int) -> None:
    power = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    whole, end = Level().track(power, HOP)
    first, carry = Level().track(power[:, :cut], HOP)
    second, last = Level().track(power[:, cut:], HOP, carry)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=0)
    torch.testing.assert_close(last, end, rtol=0, atol=0)


def test_frame_power_is_the_mean_over_frequencies() -> None:
    spectrum = torch.tensor([[[3 + 4j], [0j]]])  # [1 batch, 2 bins, 1 frame]
    assert frame_power(spectrum).tolist() == [[12.5]]


def test_refuses_an_attack_slower_than_the_release() -> None:
    with pytest.raises(ValueError):
        Level(attack=11.0, release=10.0)


def test_an_offset_and_rumble_are_no_part_of_the_level() -> None:
    stft, level = Stft(), Level(low_hz=80.0)
    time = torch.arange(16000) / 16000
    speech = 0.01 * torch.sin(2 * math.pi * 400 * time)[None]
    powers = [level.power(stft.forward(speech + more), 31.25)[:, 2:-2] for more in (0.0, 0.1)]
    assert powers[0].mean() == pytest.approx(powers[1].mean().item(), rel=0.5)  # 20 dB more without low_hz
    torch.testing.assert_close(Level().power(stft.forward(speech), 31.25), frame_power(stft.forward(speech)))
