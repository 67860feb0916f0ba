"""Speech made fit to be a target: cleaned within a limit, scored, and only what trains is left out."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpora.curate import MANIFEST, SCORES, Utterance, curate
from sbm_cli.data.manifest import RATE, read_manifest
from sbm_cli.errors import AudioError, ConfigError
from tests.data.test_corpus import manifest, row, tone


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, amplitude in (("a", 0.1), ("b", 0.2), ("poor", 0.01), ("v", 0.01), ("n", 0.3), ("bad", 0.1)):
        tone(tmp_path / f"{name}.wav", 0.3, amplitude=amplitude)
    rows = [row(f"{name}.wav", speaker=name, source="s", snr_db="40") for name in ("a", "b", "poor")]
    rows += [row("v.wav", speaker="v", split="valid"), row("n.wav", "noise", group="g"), row("bad.wav", source="bad")]
    return manifest(tmp_path, [{"rt60_s": "0.4", **one} if one["kind"] == "noise" else one for one in rows])


def loudness(samples: Samples) -> float:
    return float(np.abs(samples).max())


def run(corpus: Path, output: Path, clean: object = None, **more: object) -> list[Utterance]:
    return curate([corpus], output, clean, loudness, **more)  # type: ignore[arg-type]


def test_cleaned_within_the_limit_and_poor_ones_left_out(corpus: Path, tmp_path: Path) -> None:
    found = run(
        corpus, tmp_path / "out", lambda name, samples: 0 * samples, limit_db=20.0, least=0.005, without=["bad"]
    )
    assert [(Path(one.clip.path).stem.split("-")[0], one.kept) for one in found] == [
        ("a", True), ("b", True), ("poor", False), ("v", True),
    ]  # fmt: skip
    assert found[0].before == pytest.approx(0.1, abs=1e-3) and found[0].after == pytest.approx(0.01, abs=1e-3)
    clips = read_manifest(tmp_path / "out" / MANIFEST)
    assert [(clip.kind, clip.speaker, clip.split) for clip in clips] == [
        ("speech", "a", "train"), ("speech", "b", "train"), ("speech", "v", "valid"), ("noise", "", "train"),
    ]  # fmt: skip
    assert clips[0].snr_db == 40 and clips[3].rt60_s == 0.4 and clips[3].path == str(tmp_path / "n.wav")
    samples, rate = soundfile.read(clips[0].path)
    assert rate == RATE and loudness(samples) == pytest.approx(0.01, abs=1e-3)


def test_names_are_those_below_the_manifest(corpus: Path, tmp_path: Path) -> None:
    names: list[str] = []
    run(corpus, tmp_path / "out", lambda name, samples: names.append(name) or samples)
    assert sorted(names) == ["a", "b", "bad", "poor", "v"]


def test_nothing_is_done_twice(corpus: Path, tmp_path: Path) -> None:
    def fail(name: str, samples: Samples) -> Samples:
        if name == "poor":
            raise RuntimeError("no more")
        return samples

    with pytest.raises(RuntimeError):
        run(corpus, tmp_path / "out", fail)
    done: list[str] = []
    run(corpus, tmp_path / "out", lambda name, samples: done.append(name) or samples)
    assert "poor" in done and "a" not in done
    with (tmp_path / "out" / SCORES).open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_what_was_replaced_is_done_again(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out", lambda name, samples: samples)
    later = time.time() + 10
    soundfile.write(tmp_path / "a.wav", np.full(RATE, 0.5), RATE)
    os.utime(tmp_path / "a.wav", (later, later))
    done: list[str] = []
    found = run(corpus, tmp_path / "out", lambda name, samples: done.append(name) or samples)
    assert done == ["a"] and found[0].before == pytest.approx(0.5, abs=0.01)


def test_what_was_not_scored_is_scored_later(corpus: Path, tmp_path: Path) -> None:
    curate([corpus], tmp_path / "out", None, None)
    assert [one.kept for one in run(corpus, tmp_path / "out", least=0.05)] == [True, True, False, True, True]


def test_scored_as_it_is_without_a_cleaner(corpus: Path, tmp_path: Path) -> None:
    found = run(corpus, tmp_path / "out", least=0.05)
    assert [one.kept for one in found] == [True, True, False, True, True]
    assert found[0].clip.path == str(tmp_path / "a.wav") and found[0].before == found[0].after
    assert not list((tmp_path / "out").rglob("*.flac"))


def test_what_would_mix_or_overwrite_is_refused(corpus: Path, tmp_path: Path) -> None:
    def same(name: str, samples: Samples) -> Samples:
        return samples

    run(corpus, tmp_path / "out", same)
    with pytest.raises(ConfigError, match="cleaned in another way"):
        run(corpus, tmp_path / "out", same, limit_db=6.0)
    with pytest.raises(ConfigError, match="a manifest to curate lies in it"):
        run(corpus, tmp_path, same)
    with pytest.raises(ConfigError, match="no speech of nosuch"):
        run(corpus, tmp_path / "other", same, without=["nosuch"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / SCORES).write_text("my,own\n1,2\n")
    with pytest.raises(ConfigError, match="other files of these names"):
        run(corpus, tmp_path / "mine", same)


def test_what_fails_is_named(corpus: Path, tmp_path: Path) -> None:
    def fail(name: str, samples: Samples) -> Samples:
        raise AudioError("it ended with status 1")

    with pytest.raises(AudioError, match=r"a\.wav: it ended with status 1"):
        run(corpus, tmp_path / "out", fail)
