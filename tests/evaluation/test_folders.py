"""Test sets in folders: the published names find each other, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile

from sbm_cli.cli.evaluate import Set
from sbm_cli.errors import AudioError, SbmError
from sbm_cli.evaluation.folders import LAYOUTS, find_set, read_mono, read_pair

# Names of the published sets: set -> (files, the folders given, the ids found, names of those that do not fit)
TREES: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]] = {
    "dns2020-no-reverb": (
        (
            "synthetic/no_reverb/noisy/clnsp1_train_69005_1_snr15_tl-21_fileid_158.wav",
            "synthetic/no_reverb/noisy/clnsp44_wind_97396_2_snr14_tl-26_fileid_271.wav",
            "synthetic/no_reverb/noisy/clnsp52_amMeH4u6AO4_snr5_tl-18_fileid_19.wav",
            "synthetic/no_reverb/clean/clean_fileid_158.wav",
            "synthetic/no_reverb/clean/clean_fileid_19.wav",
            "synthetic/no_reverb/clean/clean_fileid_9.wav",
            "synthetic/with_reverb/noisy/clnsp1_train_69005_1_snr15_tl-21_fileid_158.wav",
        ),
        (".",),
        ("clnsp1_train_69005_1_snr15_tl-21_fileid_158", "clnsp52_amMeH4u6AO4_snr5_tl-18_fileid_19"),
        ("clean_fileid_9.wav", "clnsp44_wind_97396_2_snr14_tl-26_fileid_271.wav"),
    ),
    "dns2020-with-reverb": (
        (
            "noisy/clnsp126_3Wjw0nadnM4_snr15_tl-22_fileid_0.wav",
            "noisy/notes.wav",
            "clean/clean_fileid_0.wav",
        ),
        (".",),
        ("clnsp126_3Wjw0nadnM4_snr15_tl-22_fileid_0",),
        ("notes.wav",),
    ),
    "dns2020-real": (
        (
            "real_recordings/audioset_realrec_car_-1jJc30Ui6E.wav",
            "real_recordings/ms_realrec_headset_cafe_spk2_3.wav",
            "real_recordings/._ms_realrec_headset_cafe_spk2_3.wav",
            "elsewhere.wav",
        ),
        (".",),
        ("audioset_realrec_car_-1jJc30Ui6E", "ms_realrec_headset_cafe_spk2_3"),
        (),
    ),
    "voicebank-demand": (
        ("noisy_testset_wav/p232_001.wav", "clean_testset_wav/p232_001.wav", "noisy_testset_wav/p257_434.wav"),
        (".",),
        ("p232_001",),
        ("p257_434.wav",),
    ),
    "ears-wham": (
        (
            "test/noisy/p102/00000_12.3dB.wav",
            "test/clean/p102/00000.wav",
            "test/noisy/p103/00001_-2.5dB.wav",
            "test/clean/p103/00001.wav",
            "test/clean/p102/00001.wav",
        ),
        (".",),
        ("p102/00000_12.3dB", "p103/00001_-2.5dB"),
        ("00001.wav",),
    ),
    "pair": (
        ("a/x/one.flac", "a/two.wav", "b/x/one.wav", "b/three.wav"),
        ("a", "b"),
        ("x/one",),
        ("three.wav", "two.wav"),
    ),
    "folder": (("in/b.wav", "in/deep/a.flac", "in/read.txt", "in/b.flac"), ("in",), ("b", "deep/a"), ("b.wav",)),
}


def grow(root: Path, files: Sequence[str]) -> Path:
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt" or path.name.startswith("._"):
            path.write_text("no sound")
        else:
            soundfile.write(path, np.full(800, 0.01 * (1 + number)), 16000)
    return root


@pytest.mark.parametrize("name", TREES)
def test_published_names_find_each_other(name: str, tmp_path: Path) -> None:
    files, given, ids, odd = TREES[name]
    grow(tmp_path, files)
    found = find_set(name, [tmp_path / folder for folder in given])
    assert tuple(item.id for item in found.items) == tuple(ids)
    assert sorted(Path(path).name for path in found.unmatched) == sorted(odd)
    assert {item.subset for item in found.items} == {name}
    for item in found.items:
        noisy, clean = item.load()
        assert noisy.shape == (800,) and (clean is not None) == found.has_clean
        assert found.has_clean == (LAYOUTS[name].clean is not None)


def test_a_pair_may_lie_in_one_folder(tmp_path: Path) -> None:
    grow(tmp_path, ("noisy/a.wav", "clean/a.wav"))
    assert [item.id for item in find_set("pair", [tmp_path]).items] == ["a"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_found_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(SbmError) as caught:
        find_set(name, [tmp_path / "none"])
    assert str(tmp_path / "none") in caught.value.message and LAYOUTS[name].says in caught.value.hint
    for folder in (LAYOUTS[name].noisy, LAYOUTS[name].clean or "."):
        (tmp_path / "empty" / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(SbmError, match="no recordings"):
        find_set(name, [tmp_path / "empty"])
    with pytest.raises(SbmError, match="3 folders given"):
        find_set(name, [tmp_path] * 3)


def test_the_command_knows_the_sets() -> None:
    assert get_args(Set) == ("mixtures", *LAYOUTS)


def test_recordings_are_read_at_16_khz_from_their_first_channel(tmp_path: Path) -> None:
    time = np.arange(48000) / 48000
    tone, other = 0.5 * np.sin(2 * np.pi * 1000 * time), 0.5 * np.sin(2 * np.pi * 3000 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, other], 1), 48000)
    samples = read_mono(tmp_path / "a.wav")
    assert samples.shape == (16000,) and samples.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(samples - expected)[500:-500].max() < 1e-3


def test_a_reference_has_to_be_as_long(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(1000), 16000)
    soundfile.write(tmp_path / "short.wav", np.zeros(990), 16000)
    soundfile.write(tmp_path / "rounded.wav", np.zeros(2999), 48000)
    with pytest.raises(AudioError, match=r"lasts 0.062 s, but its reference .*short.wav 0.062 s"):
        read_pair(tmp_path / "long.wav", tmp_path / "short.wav")
    noisy, clean = read_pair(tmp_path / "long.wav", tmp_path / "rounded.wav")
    assert clean is not None and noisy.size == clean.size
