"""Segments of speech and noise: drawn by their sources, never repeated, of one speaker, the same on every device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import MixConfig, Mixer
from sbm_cli.data.room_responses import simulate_room
from sbm_cli.data.segments import (
    Placements,
    Segments,
    _assemble_at_once,
    _assemble_in_turn,
    assemble,
    placements_in,
)
from sbm_cli.data.test_sets import _Segments
from tests.data.conftest import bank_of, corpus_of
from tests.data.test_mixing import CPU, db, distance, draws, noise_of, speech


def test_speech_is_never_repeated_and_keeps_to_one_speaker() -> None:
    ramp = np.arange(1, 3001, dtype=np.int16)
    clips = [
        Clip(f"{i}", "speech", "s", speaker, "", "train", None, None, 0, 3000, 1.0) for i, speaker in enumerate("aab")
    ]
    store = np.concatenate([ramp, np.ones(9000, np.int16)])
    clips.append(Clip("n", "noise", "n", "", "n", "train", None, None, 3000, 9000, 1.0))
    segments = Segments(Corpus(clips, store), "train", 0.0, CPU)
    numbers = draws(60)
    first = segments.utterances.draw(numbers)
    waveforms = assemble(segments.store, segments.speech(numbers, first, 40000), 40000)
    middles = (waveforms == 1500).sum(1)
    assert middles.tolist() == [2 if i < 2 else 1 for i in first.tolist()] and {0, 1, 2} == set(first.tolist())
    assert ((waveforms != 0).sum(1) <= 3000 * middles).all()


def test_long_recordings_are_cropped_anywhere() -> None:
    clips = [Clip("", kind, "s", "", "", "train", None, None, 0, 3000, 1.0) for kind in ("speech", "noise")]
    segments = Segments(Corpus(clips, np.arange(3000, dtype=np.int16)), "train", 0.0, CPU)
    for crops in (speech(segments, draws(400), 2000), noise_of(segments, draws(400), 2000)):
        assert torch.equal(crops, crops[:, :1] + torch.arange(2000))
        assert distance(crops[:, 0], torch.arange(1001.0)) < 1


def test_stated_snr_leaves_speech_out() -> None:
    clips = [
        Clip(str(snr), "speech", "s", f"sp{snr}", "", "train", snr, None, 0, 100, 1.0) for snr in (30.0, 40.0, None)
    ]
    clips.append(Clip("n", "noise", "n", "", "n", "train", None, None, 0, 100, 1.0))
    mine = Corpus(clips, np.ones(100, np.int16))
    assert [len(Segments(mine, "train", bound, CPU).utterances.start) for bound in (38.0, 0.0)] == [2, 3]


def test_short_noise_fills_the_segment(corpus: Corpus) -> None:
    mine = Corpus([c for c in corpus.clips if c.kind == "speech" or c.group == "y1"], corpus.store)
    noise = noise_of(Segments(mine, "train", 0.0, CPU), draws(20), 3 * RATE)
    assert ((noise != 0).float().mean(1) > 0.35).all() and noise[:, -RATE:].any(1).all()


def test_sources_are_drawn_by_the_square_root_of_their_minutes_and_groups_alike() -> None:
    recordings = [("speech", "a", "train", 9.0), ("speech", "b", "train", 1.0)]
    noise = [("noise", group, "train", 1.0) for group in ("x1", "x2", "x2", "x2")]
    segments = Segments(corpus_of([*recordings, *noise]), "train", 0.0, CPU)
    numbers = draws(800)
    assert float((segments.utterances.draw(numbers) == 0).float().mean()) == pytest.approx(0.75, abs=0.06)
    fractions = torch.bincount(segments.noises.draw(numbers)) / 800
    torch.testing.assert_close(fractions, torch.tensor([0.5, 1 / 6, 1 / 6, 1 / 6]), atol=0.06, rtol=0)
    beside = segments.noises.followed(numbers, torch.full((800,), 2), 1)[:, 1]
    torch.testing.assert_close(torch.bincount(beside) / 800, torch.tensor([0, 1, 1, 1]) / 3, atol=0.06, rtol=0)


def test_segments_are_those_of_the_evaluation_sets() -> None:
    """Segments drawn for training and by the older, slower way of the published sets do not differ in distribution."""
    mine = corpus_of(
        [("speech", f"{s}{i}", "valid", t) for s, t in (("a", 0.4), ("b", 0.7), ("c", 3.0)) for i in (1, 1, 1, 2)]
        + [("noise", f"{s}{i}", "valid", t) for s, t in (("x", 0.1), ("y", 0.8), ("z", 4.0)) for i in (1, 1, 2)]
    )
    n, samples, rng = 300, 3 * RATE // 2, np.random.default_rng(0)
    ours, theirs = Segments(mine, "valid", 38.0, CPU), _Segments(mine, "valid")
    numbers = draws(n)
    talk, sound = speech(ours, numbers, samples), noise_of(ours, numbers, samples)
    # the sets' speakers take turns; here both draw them alike
    speakers = [f"{'abc'[i // 2]}{i % 2 + 1}" for i in ours.utterances.name[ours.utterances.draw(draws(n, 1))].tolist()]
    other_talk = torch.cat([theirs.speech(rng, samples, speaker) for speaker in speakers])
    other_sound = torch.cat([theirs.noise(rng, samples) for _ in range(n)])
    measures: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x != 0).float().mean(1),  # fraction of the segment that is filled
        lambda x: (x[:, : RATE // 2] != 0).float().mean(1),
        lambda x: (x[:, -RATE // 2 :] != 0).float().mean(1),
        lambda x: db(x.square().mean(1) + 1e-9),
        lambda x: ((x[:, 1:] != 0).int() - (x[:, :-1] != 0).int() > 0).float().sum(1),  # beginnings
    ]
    for measure in measures:
        for a, b in ((talk, other_talk), (sound, other_sound)):
            assert distance(measure(a), measure(b)) < 1
    assert distance(measures[3](talk), measures[3](sound)) > 1


segments = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 400), st.integers(0, 99), st.sampled_from([0, 1, 2, 5, 40])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(segments, st.integers(-300, 500), st.integers(0, 300), st.integers(1, 700))
def test_placements_are_assembled_alike_on_every_device(
    rows: list[tuple[int, int, int, int]], begin: int, overlap: int, samples: int
) -> None:
    store = torch.from_numpy(np.random.default_rng(0).integers(-30000, 30000, 1300).astype(np.int16))
    start, length, gain, fade = (torch.tensor([list(column)]) for column in zip(*rows, strict=True))
    step = (length - overlap).clamp_min(overlap)  # at most two at once
    placements = Placements(start, gain / 1e6, begin + step.cumsum(1) - step, length, torch.minimum(fade, length // 2))
    expected = np.zeros(samples + 2000)
    for (first, size, factor, ramp), place in zip(rows, placements.place[0].tolist(), strict=True):
        piece = store[first : first + size].numpy() * (factor / 1e6)
        if ramp := min(ramp, size // 2):
            piece[:ramp] *= np.linspace(0, 1, ramp)
            piece[-ramp:] *= np.linspace(1, 0, ramp) if ramp > 1 else 0
        seen = piece[max(0, -place) : max(0, samples - place)]
        expected[max(0, place) : max(0, place) + len(seen)] += seen
    for way in (_assemble_in_turn, _assemble_at_once):
        np.testing.assert_allclose(way(store, placements, samples)[0], expected[:samples], atol=1e-6)


def test_placements_suffice_for_every_length() -> None:
    mine = corpus_of([("speech", "a", "train", 0.4), ("speech", "b", "train", 0.4), ("noise", "n", "train", 0.2)])
    bank = bank_of(torch.from_numpy(simulate_room(5, 1)[0]))
    for seconds in (0.5, 1.3, 6.0):
        config = MixConfig(segment_seconds=seconds, p_second_talker=0.5)
        assert Mixer(mine, bank, config).batch(0, 0, range(2))[0].shape == (2, config.samples)
        assert placements_in(config.samples) >= 4 * seconds
