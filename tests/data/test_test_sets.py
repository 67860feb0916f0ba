"""The seeded test sets: reproducible, of their own split, at the stated level and SNR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbm_cli.data.corpus import Corpus, active_power
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.test_sets import SNR_DB, evaluation_set
from sbm_cli.errors import ConfigError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Three speakers and two noises each for train, valid and report; one utterance of valid is too noisy."""
    rng = np.random.default_rng(0)
    length = 5 * RATE
    speech = rng.standard_normal(length) * (np.sin(2 * np.pi * 2 * np.arange(length) / RATE) > -0.3)
    clips = []
    for split in ("train", "valid", "report"):
        for i in range(3):
            clips.append(Clip(f"{split}{i}", "speech", "s", f"{split}-{i}", "", split, 40.0, None, 0, length, 1e-5))
        for i in range(2):
            clips.append(
                Clip(f"{split}n{i}", "noise", "n", "", f"{split}-n{i}", split, None, None, length, length, 1e-5)
            )
    clips.append(Clip("rough", "speech", "s", "valid-rough", "", "valid", 20.0, None, 0, length, 1e-5))
    store = np.concatenate([speech, rng.standard_normal(length)])
    return Corpus(clips, (5000 * store).clip(-32767, 32767).astype(np.int16))


@pytest.mark.parametrize("split", ["valid", "report"])
def test_items_hold_what_they_promise(corpus: Corpus, split: str) -> None:
    items = list(evaluation_set(corpus, split, 12))
    assert [item.subset for item in items] == ["noise"] * 6 + ["reverb"] * 6
    assert len({item.id for item in items}) == 12
    assert {item.speaker for item in items} == {f"{split}-{i}" for i in range(3)}
    for item in items:
        assert 4 * RATE <= len(item.noisy) <= 6 * RATE and len(item.clean) == len(item.noisy)
        assert item.noisy.dtype == item.clean.dtype == np.float32
        assert SNR_DB[0] <= item.snr_db <= SNR_DB[1]
        assert 10 * np.log10(np.mean(item.noisy**2)) == pytest.approx(-26, abs=0.01)
        assert np.abs(item.noisy).max() < 1
        assert (item.rt60_s > 0.1) == (item.subset == "reverb")
        if item.subset == "noise":
            noise = item.noisy - item.clean
            measured = 10 * np.log10(active_power(item.clean) / np.mean(noise**2))
            assert measured == pytest.approx(item.snr_db, abs=0.05)


def test_a_set_is_a_function_of_split_and_seed(corpus: Corpus) -> None:
    first, again = list(evaluation_set(corpus, "valid", 4)), list(evaluation_set(corpus, "valid", 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.noisy, b.noisy)
        np.testing.assert_array_equal(a.clean, b.clean)
    other, report = (next(evaluation_set(corpus, *key)) for key in (("valid", 4, 1), ("report", 4, 0)))
    assert len({len(first[0].noisy), len(other.noisy), len(report.noisy)}) == 3


def test_rooms_of_the_splits_differ(corpus: Corpus) -> None:
    valid, report = (
        [m.rt60_s for m in evaluation_set(corpus, split, 6) if m.subset == "reverb"] for split in ("valid", "report")
    )
    assert not set(valid) & set(report)


def test_peaks_of_impulsive_noise_do_not_clip(corpus: Corpus) -> None:
    store = np.array(corpus.store)
    store[5 * RATE :] = 0
    store[5 * RATE :: RATE // 2] = 32000
    items = list(evaluation_set(Corpus(corpus.clips, store), "valid", 8))
    assert max(np.abs(item.noisy).max() for item in items) <= 0.9901


def test_mistakes_are_refused(corpus: Corpus) -> None:
    speech_only = Corpus([clip for clip in corpus.clips if clip.kind == "speech"], corpus.store)
    with pytest.raises(ConfigError, match="no noise in the valid split"):
        evaluation_set(speech_only, "valid")
    noisy = [replace(clip, snr_db=30.0) if clip.kind == "speech" else clip for clip in corpus.clips]
    with pytest.raises(ConfigError, match="no speech whose snr_db is empty or at least 38 in the valid split"):
        evaluation_set(Corpus(noisy, corpus.store), "valid")
