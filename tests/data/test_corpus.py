"""The corpus: manifests, folders, levels, splits and the cache on disk."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.writer import open_writer
from sbm_cli.data import corpus as module
from sbm_cli.data.corpus import LEVEL_DBFS, active_power, cached_store, find_clips, lengths, open_corpus
from sbm_cli.data.manifest import COLUMNS, RATE, report_set
from sbm_cli.errors import AudioError, ConfigError


def tone(path: Path, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, (amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate, subtype="FLOAT")
    return path


def manifest(folder: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(path: str, kind: str = "speech", **more: str) -> dict[str, str]:
    return {"path": path, "kind": kind, **more}


def test_reads_manifest_at_one_level(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", amplitude=0.01)
    tone(tmp_path / "b.wav", amplitude=0.9)
    rows = [row("a.wav", speaker="anna", split="valid", snr_db="41.5"), row("b.wav", "noise", group="g")]
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, rows)])
    assert [clip.split for clip in corpus.clips] == ["valid", "train"]
    assert corpus.clips[0].snr_db == 41.5 and corpus.clips[0].speaker == "anna" and corpus.clips[1].group == "g"
    assert corpus.where("speech", "valid") == [0] and corpus.where("speech", "train") == []
    for i in (0, 1):
        audio = corpus.clip(i)
        assert audio.dtype == np.float32 and len(audio) == pytest.approx(RATE, abs=20)
        assert 10 * np.log10(active_power(audio)) == pytest.approx(LEVEL_DBFS, abs=0.1)


def test_folders_are_searched_and_resampled(tmp_path: Path) -> None:
    for i in range(30):
        tone(tmp_path / "mine" / f"deep{i % 3}" / f"{i}.wav", 0.3, 44100 if i % 2 else 8000)
    corpus = open_corpus(tmp_path / "cache", speech=[tmp_path / "mine"])
    assert all(clip.samples == 4800 for clip in corpus.clips) and len(corpus.clips) == 30
    splits = [clip.split for clip in corpus.clips]
    assert 1 <= splits.count("valid") <= 6 and set(splits) == {"train", "valid"}
    assert splits == [clip.split for clip in open_corpus(tmp_path / "other", speech=[tmp_path / "mine"]).clips]
    frequency = np.argmax(np.abs(np.fft.rfft(corpus.clip(1)))) * RATE / 4800
    assert frequency == pytest.approx(440, abs=4)


def test_folders_are_searched_as_elsewhere_and_name_their_speakers(tmp_path: Path) -> None:
    voices, elsewhere = tmp_path / "voices", tmp_path / "elsewhere"
    for path in (
        voices / "anna" / "1.wav",
        voices / "anna" / "deep" / "2.wav",
        voices / "loose.wav",
        elsewhere / "3.wav",
    ):
        tone(path)
    (voices / "bert").symlink_to(elsewhere, target_is_directory=True)
    (voices / "anna" / "around").symlink_to(voices, target_is_directory=True)
    (voices / "._1.wav").write_text("a note of macOS")
    tone(voices / ".hidden" / "4.wav")
    (voices / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(voices / "pipe.wav")
    with open_writer(voices / "cleo.m4a", AudioFormat(RATE, 1, RATE, "M4A", "AAC", layout="mono")) as writer:
        writer.write(0.1 * np.sin(np.arange(RATE, dtype=np.float32))[None])
    clips = find_clips(speech=[voices])
    named = {Path(clip.path).name: Path(clip.speaker).name for clip in clips}
    assert named == {"1.wav": "anna", "2.wav": "anna", "3.wav": "bert", "loose.wav": "", "cleo.m4a": ""}
    assert all(seconds == pytest.approx(1, abs=0.1) for seconds in lengths(clips, lambda done, total: None))
    corpus = open_corpus(tmp_path / "cache", speech=[voices], noise=[elsewhere])
    assert all(clip.samples == pytest.approx(RATE, abs=0.1 * RATE) for clip in corpus.clips)
    assert len({clip.group for clip in corpus.clips}) == 6  # the same name in two folders is no common original


def test_silence_and_nan_do_not_spread(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    broken = np.full(RATE, 0.1, np.float32)
    broken[5:9] = np.nan
    soundfile.write(tmp_path / "broken.wav", broken, RATE, subtype="FLOAT")
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, [row("silent.wav"), row("broken.wav")])])
    assert [clip.path for clip in corpus.clips] == [str(tmp_path / "broken.wav")]
    assert np.isfinite(corpus.clip(0)).all()
    assert active_power(np.zeros(1000, np.float32)) == 0 == active_power(np.zeros(0, np.float32))


def test_padding_of_noise_is_trimmed(tmp_path: Path) -> None:
    audio = np.zeros(RATE)
    audio[4000:8000] = 0.1
    soundfile.write(tmp_path / "padded.wav", audio, RATE, subtype="FLOAT")
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, [row("padded.wav", "noise")])])
    assert corpus.clips[0].samples == 4000


def test_a_stereo_response_is_not_summed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "h.wav", np.array([[0.5, -0.5], [0.25, 0.1]]), RATE, subtype="FLOAT")
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, [row("h.wav", "rir", rt60_s="0.4")])])
    np.testing.assert_allclose(corpus.clip(0), [0.5, 0.25], atol=1e-4)
    assert corpus.clips[0].rt60_s == 0.4


def test_report_speakers_and_groups_leave_train_but_not_valid(tmp_path: Path) -> None:
    chosen = report_set()
    speaker, group = sorted(chosen["speakers"])[0], sorted(chosen["noise_groups"])[0]
    for name in "abcd":
        tone(tmp_path / f"{name}.wav", 0.2)
    rows = [
        row("a.wav", speaker=speaker, source="one"),
        row("b.wav", speaker=speaker, source="two"),
        row("c.wav", "noise", group=group),
        row("d.wav", speaker="another", split="valid"),
    ]
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, rows)])
    assert [clip.split for clip in corpus.clips] == ["report", "report", "report", "valid"]


def test_report_set_has_the_promised_size() -> None:
    chosen = report_set()
    assert len(chosen["speakers"]) == 24 and len(chosen["noise_groups"]) >= 20
    assert sum(not group.startswith("esc10") for group in chosen["noise_groups"]) >= 5


def test_cache_is_reused_and_rebuilt_when_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tone(tmp_path / "a.wav")
    listing = manifest(tmp_path, [row("a.wav")])
    cache = tmp_path / "cache"
    first = open_corpus(cache, [listing]).clip(0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode", lambda clip: pytest.fail("decoded again"))
        np.testing.assert_array_equal(open_corpus(cache, [listing]).clip(0), first)
    manifest(tmp_path, [row("a.wav", speaker="anna")])
    assert open_corpus(cache, [listing]).clips[0].speaker == "anna"
    tone(tmp_path / "a.wav", 0.5)
    assert open_corpus(cache, [listing]).clips[0].samples == RATE // 2
    assert len(list(cache.glob("*.json"))) == 3 and not list(cache.glob("*.part"))


def test_a_half_written_cache_is_never_used(tmp_path: Path) -> None:
    def broken() -> object:
        yield {"name": "x"}, np.ones(5, np.int16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_store(tmp_path, "store", broken)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())

    def whole() -> list[tuple[dict[str, object], np.ndarray]]:
        return [({"name": "x"}, np.arange(5, dtype=np.int16)), ({"name": "y"}, np.zeros(2, np.int16))]

    records, store = cached_store(tmp_path, "store", whole)
    assert [(r["start"], r["samples"]) for r in records] == [(0, 5), (5, 2)] and store[4] == 4
    os.truncate(tmp_path / "store.i16", 6)  # the disk was full, say
    assert len(cached_store(tmp_path, "store", whole)[1]) == 7
    (tmp_path / "store.json").write_text(json.dumps({"total": 7})[:5])
    assert len(cached_store(tmp_path, "store", whole)[0]) == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"columns": (*COLUMNS, "loudness")}, ConfigError, "unknown column 'loudness'"),
        ({"columns": ("path",)}, ConfigError, "column 'kind' is missing"),
        ({"kind": "music"}, ConfigError, "line 2: unknown kind 'music'"),
        ({"split": "test"}, ConfigError, "line 2: unknown split 'test'"),
        ({"snr_db": "loud"}, ConfigError, "line 2"),
        ({"path": "gone.wav"}, AudioError, "no such file"),
        ({"path": "text.wav"}, AudioError, "text.wav: not a sound file"),
    ],
)
def test_mistakes_are_named_with_a_hint(
    tmp_path: Path, change: dict[str, object], error: type[ConfigError], words: str
) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "text.wav").write_text("not sound")
    columns = change.pop("columns", COLUMNS)
    values = {"path": "a.wav", "kind": "speech"} | change
    listing = manifest(tmp_path, [{k: str(v) for k, v in values.items() if k in columns}], columns)  # type: ignore[arg-type, operator]
    with pytest.raises(error, match=words) as found:
        open_corpus(tmp_path / "cache", [listing])
    assert found.value.hint
    assert not list((tmp_path / "cache").glob("*"))


def test_missing_places_are_named_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for make in (
        lambda: open_corpus(tmp_path),
        lambda: open_corpus(tmp_path, [tmp_path / "none.csv"]),
        lambda: open_corpus(tmp_path, noise=[tmp_path / "none"]),
        lambda: open_corpus(tmp_path, noise=[tmp_path / "empty"]),
    ):
        with pytest.raises(ConfigError) as found:
            make()
        assert found.value.hint


def test_speeds_make_further_voices_to_train_with(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    tone(tmp_path / "n.wav")
    aside = next(iter(report_set()["speakers"]))
    rows = [row("a.wav", speaker="anna"), row("a.wav", speaker="eve", split="valid"), row("a.wav", speaker=aside)]
    rows += [row("b.wav"), row("n.wav", "noise")]
    corpus = open_corpus(tmp_path / "cache", [manifest(tmp_path, rows)], speeds=[0.8])
    slow = [clip for clip in corpus.clips if clip.speed != 1]
    assert len(corpus.clips) == 7 and [clip.speaker for clip in slow] == ["anna@0.8", "manifest@0.8"]
    assert all(clip.split == "train" and clip.samples == pytest.approx(1.25 * RATE, abs=30) for clip in slow)
    audio = corpus.clip(corpus.clips.index(slow[0]))
    assert np.abs(np.fft.rfft(audio)).argmax() * RATE / len(audio) == pytest.approx(0.8 * 440, abs=1)
