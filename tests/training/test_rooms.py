"""Room responses: alignment, the early part, decay, and the cache of simulated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbm_cli.training.data import RATE, Clip, Corpus
from sbm_cli.training.rooms import EARLY_WEIGHTS, LEAD, align, first_peak, is_flat, make_room, open_rooms, simulate_room


def decay_time(response: np.ndarray) -> float:
    """T20 by Schroeder's backward integration."""
    energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    return 3 * float(np.argmax(level < -25) - np.argmax(level < -5)) / RATE


def test_simulated_rooms_start_with_the_direct_sound_and_decay_as_said() -> None:
    ratios = []
    for index in range(12):
        response, t60_s = simulate_room(9, index)
        assert np.isfinite(response).all() and 0.15 <= t60_s <= 0.9
        assert not response[:LEAD].any() and response[LEAD] > 0
        assert first_peak(response) == LEAD
        ratios.append(decay_time(response) / t60_s)
    assert 0.8 < np.median(ratios) < 1.3 and min(ratios) > 0.6 and max(ratios) < 2


def test_rooms_depend_on_seed_and_index_alone() -> None:
    np.testing.assert_array_equal(simulate_room(1, 3)[0], simulate_room(1, 3)[0])
    assert simulate_room(1, 3)[1] != simulate_room(2, 3)[1] != simulate_room(2, 4)[1]


def test_first_peak_is_the_direct_sound_and_not_the_largest_reflection() -> None:
    response = np.zeros(4000, np.float32)
    response[100] = 0.5
    response[700] = -1.0
    response[60] = 0.2  # ringing of a measurement, 14 dB down
    assert first_peak(response) == 100
    response[98:100] = 0.35, 0.4  # the flank of the pulse itself
    assert first_peak(response) == 100


def test_align_makes_the_first_peak_positive_at_lead() -> None:
    rng = np.random.default_rng(0)
    response = (0.01 * rng.standard_normal(4000)).astype(np.float32)
    response[3] = -0.8
    response[500] = 1.0
    aligned = align(response)
    assert aligned[LEAD] == pytest.approx(0.8) and aligned[LEAD + 497] == pytest.approx(-1.0, abs=0.05)
    assert not aligned[: LEAD - 3].any() and len(align(np.ones(5 * RATE, np.float32))) == RATE
    assert abs(aligned[-1]) < 1e-6


def test_early_part_keeps_six_milliseconds_fades_by_twelve_and_has_unit_energy() -> None:
    assert (EARLY_WEIGHTS[: LEAD + 97] == 1).all() and EARLY_WEIGHTS[LEAD + 144] == pytest.approx(0.5)
    assert len(EARLY_WEIGHTS) == LEAD + 192 and EARLY_WEIGHTS[-1] < 1e-3 and (np.diff(EARLY_WEIGHTS) <= 0).all()
    response, _ = simulate_room(4, 0)
    room = make_room("x", 0.4, response)
    assert np.sum(room.early**2) == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(room.early[: LEAD + 97], room.response[: LEAD + 97])


def test_a_response_that_colours_like_a_device_is_not_flat() -> None:
    pulse = np.zeros(2000, np.float32)
    pulse[LEAD] = 1
    assert is_flat(make_room("open", 0.3, pulse))
    smooth = np.convolve(pulse, np.ones(40, np.float32) / 40)[:2000]
    assert not is_flat(make_room("dull", 0.3, smooth))


def test_bank_caches_simulated_rooms_and_takes_measured_ones_of_its_split(tmp_path: Path) -> None:
    pulse = np.zeros(3200, np.int16)
    pulse[40], pulse[600] = 20000, 9000
    clips = [
        Clip(name, "rir", "s", "", group, split, None, t60_s, 0, 3200, 1 / 32767)
        for name, group, split, t60_s in [
            ("a", "hall", "train", 0.5),
            ("b", "hall", "train", None),
            ("c", "other", "valid", 0.5),
            ("d", "church", "train", 4.0),
        ]
    ]
    bank = open_rooms(tmp_path, 3, 7, Corpus(clips, pulse))
    assert len(bank) == 3 and [[room.name for room in place] for place in bank.measured] == [["a", "b"]]
    again = open_rooms(tmp_path, 3, 7)
    np.testing.assert_array_equal(bank.simulated(2).response, again.simulated(2).response)
    fresh, t60_s = simulate_room(7, 2)
    assert again.simulated(2).t60_s == t60_s
    np.testing.assert_allclose(again.simulated(2).response, make_room("", t60_s, fresh).response, atol=1e-3)
    rng = np.random.default_rng(0)
    assert {bank.draw(rng, 1.0).name for _ in range(20)} == {"a", "b"}
    assert {bank.draw(rng).name for _ in range(50)} == {f"shoebox-7-{i}" for i in range(3)}
    assert again.draw(rng, 1.0).name.startswith("shoebox")
    with pytest.raises(ValueError, match="count is 0"):
        open_rooms(tmp_path, 0, 7)
