"""Room responses: alignment, the early part, decay, and the cache of simulated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.random import Draws
from sbm_cli.data.room_responses import (
    LEAD,
    Responses,
    RoomResponse,
    align,
    early_part,
    first_peak,
    is_flat,
    open_responses,
    scaled,
    simulate_room,
)


def decay_time(response: np.ndarray) -> float:
    """T20 by Schroeder's backward integration."""
    energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    return 3 * float(np.argmax(level < -25) - np.argmax(level < -5)) / RATE


def test_simulated_rooms_start_with_the_direct_sound_and_decay_as_said() -> None:
    ratios = []
    for index in range(12):
        response, rt60_s = simulate_room(9, index)
        assert np.isfinite(response).all() and 0.15 <= rt60_s <= 0.9
        assert not response[:LEAD].any() and response[LEAD] > 0
        assert first_peak(response) == LEAD
        ratios.append(decay_time(response) / rt60_s)
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
    weights = early_part(torch.ones(2, 1000))[1].numpy()
    assert (weights[: LEAD + 97] == 1).all() and weights[LEAD + 144] == pytest.approx(0.5, abs=1e-5)
    assert len(weights) == LEAD + 192 and weights[-1] < 1e-3 and (np.diff(weights) <= 0).all()
    response, _ = simulate_room(4, 0)
    room = scaled(torch.from_numpy(response))
    early = early_part(room)
    assert early.square().sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(early[: LEAD + 97], room[: LEAD + 97])


def test_a_response_that_colours_like_a_device_is_not_flat() -> None:
    pulse = np.zeros(2000, np.float32)
    pulse[LEAD] = 1
    assert is_flat(pulse)
    smooth = np.convolve(pulse, np.ones(40, np.float32) / 40)[:2000]
    assert not is_flat(smooth.astype(np.float32))


def test_bank_caches_simulated_rooms_and_takes_measured_ones_of_its_split(tmp_path: Path) -> None:
    pulse = np.zeros(3200, np.int16)
    pulse[40], pulse[600] = 20000, 9000
    clips = [
        Clip(name, "rir", "s", "", group, split, None, rt60_s, 0, 3200, 1 / 32767)
        for name, group, split, rt60_s in [
            ("a", "hall", "train", 0.5),
            ("b", "hall", "train", None),
            ("c", "other", "valid", 0.5),
            ("d", "church", "train", 4.0),
        ]
    ]
    told: list[tuple[int, int]] = []
    bank = open_responses(tmp_path, 3, 7, Corpus(clips, pulse), progress=lambda *done: told.append(done))
    again = open_responses(tmp_path, 3, 7, progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [(room.name, room.place) for room in bank.responses[3:]] == [("a", "hall"), ("b", "hall")]
    assert again.responses == bank.responses[:3]
    np.testing.assert_array_equal(again.store, bank.store[: len(again.store)])
    fresh, rt60_s = simulate_room(7, 2)
    assert again.responses[2].rt60_s == rt60_s and again.responses[2].name == "shoebox-7-2"
    responses = Responses(bank, torch.device("cpu"))
    read = responses.read(torch.tensor([2, 3]))
    torch.testing.assert_close(read[0, : len(fresh)], scaled(torch.from_numpy(fresh)), atol=1e-3, rtol=0)
    assert not read[0, len(fresh) :].any() and read[1].argmax() == LEAD
    draws = Draws(0, 0, torch.arange(60), 0, 20)
    assert set(responses.draw(draws, 1.0).tolist()) == {3, 4}
    assert set(responses.draw(draws, 0.0).tolist()) == {0, 1, 2}
    assert set(Responses(again, torch.device("cpu")).draw(draws, 1.0).tolist()) == {0, 1, 2}


def test_records_keep_the_words_of_older_caches_and_packs() -> None:
    old = {"name": "shoebox-1-0", "t60_s": 0.4, "start": 7, "samples": 9}
    response = RoomResponse.of(old)
    assert response == RoomResponse("shoebox-1-0", 0.4, "", 7, 9)
    assert response.record() | {"start": 7, "samples": 9} == old | {"place": ""}
