"""What `check` finds in files that were spoiled on purpose, and that it finds nothing in good ones."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbm_cli.data.corpora import check as module
from sbm_cli.data.corpora.check import Finding, Row, Sound, check, examine
from sbm_cli.data.manifest import COLUMNS, report_set

Rows = list[dict[str, str]]
RATE = 16000


def talk(seed: int = 0, floor_db: float = -60.0, rate: int = RATE) -> NDArray[np.float64]:
    """Make two seconds of noise, loud and quiet in turn, at -20 dBFS and floor_db below that."""
    noise = np.random.default_rng(seed).uniform(-0.17, 0.17, 2 * rate)
    loud = np.arange(len(noise)) // (rate // 4) % 2 == 0
    return np.where(loud, noise, noise * 10 ** (floor_db / 20))


def write(path: Path, samples: NDArray[np.float64], rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def copied(source: Path, path: Path) -> Path:
    """Store the samples of a file in another format; libsndfile rounds differently in each if given floats."""
    soundfile.write(path, soundfile.read(source, dtype="int16")[0], RATE, format="FLAC")
    return path


def manifest(folder: Path, rows: Rows, name: str = "manifest.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def quiet(done: int, total: int) -> None:
    pass


def found(folder: Path, rows: Rows, limit: int | None = None) -> dict[str, Finding]:
    return {finding.what: finding for finding in check([manifest(folder, rows)], limit, quiet)[1]}


def good(folder: Path) -> Rows:
    """Write speech and noise for all splits with nothing wrong in them."""
    rows = []
    for seed, (kind, split) in enumerate((k, s) for k in ("speech", "noise") for s in ("train", "valid", "report")):
        name = f"{kind}-{split}.wav"
        write(folder / name, talk(seed))
        who = {"speaker": f"one-{split}"} if kind == "speech" else {"group": f"one-{split}"}
        rows.append({"path": name, "kind": kind, "source": "mine", "split": split, **who})
    return rows


def test_nothing_is_found_in_good_files(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    rows, findings = check([manifest(tmp_path, good(tmp_path))], None, lambda *done: calls.append(done))
    assert findings == [] and calls[-1] == (6, 6)
    assert rows[1] == Row("speech", "mine", "valid", 1, pytest.approx(2 / 60), 1, 0, [RATE])
    assert rows[5] == Row("noise", "mine", "report", 1, pytest.approx(2 / 60), 0, 1, [RATE])


def clipped(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(samples * 8, -0.7, 0.7)  # flat tops below full scale


SPOILED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "silent": ("warning", lambda path: write(path, np.zeros(RATE))),
    "samples that are no numbers": (
        "warning",
        lambda path: write(path, np.append(talk(8), [np.nan]), subtype="FLOAT"),
    ),
    "clipped, over 0.01% of samples": ("warning", lambda path: write(path, clipped(talk(8)))),
    "noisy speech, pauses less than 28 dB down": ("warning", lambda path: write(path, talk(8, -20.0))),
    "offset, mean over 10% of the RMS": ("warning", lambda path: write(path, talk(8) + 0.02)),
    "below 16000 Hz: no treble": ("warning", lambda path: write(path, talk(8, rate=8000), 8000)),
    "will be resampled to 16000 Hz": ("note", lambda path: write(path, talk(8, rate=48000), 48000)),
    "of several channels": ("note", lambda path: write(path, np.stack([talk(8), talk(8)], axis=1))),
    "the same audio again": ("warning", lambda path: copied(path.with_name("speech-train.wav"), path)),
    "cannot be read": ("error", lambda path: path),  # it is not there
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_file_is_found_and_nothing_else(tmp_path: Path, what: str) -> None:
    level, spoil = SPOILED[what]
    rows = good(tmp_path)
    spoil(tmp_path / "odd.wav")
    rows = [*rows, {"path": "odd.wav", "kind": "speech", "source": "mine", "speaker": "one-train"}]
    result = found(tmp_path, rows)
    if what.startswith("offset"):  # pauses on an offset are not quiet
        result.pop("noisy speech, pauses less than 28 dB down")
    assert set(result) == {what}
    assert result[what].level == level and len(result[what].where) == 1
    if level != "note":
        assert "odd.wav" in result[what].where[0]


def test_full_scale_is_clipping_and_one_peak_is_none(tmp_path: Path) -> None:
    samples = talk(1) / 0.17 * 0.9
    samples[100] = 1.0  # brought to full scale by its highest peak
    once = examine(str(write(tmp_path / "a.wav", samples)))
    often = examine(str(write(tmp_path / "b.wav", np.clip(2 * samples, -1, 1))))
    assert isinstance(once, Sound) and isinstance(often, Sound)
    assert once.clipped < module.CLIPPED < often.clipped and once.peak > 0.999


@given(st.floats(20, 4000), st.floats(0.001, 0.99))
def test_a_tone_is_not_clipped(frequency: float, amplitude: float) -> None:
    tone = amplitude * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
    block = (np.round(tone * 32768) / 32768).astype(np.float32)[:, None]
    below = module._listen(Sound(RATE, 1, 1.0), [block]).clipped
    assert below < module.CLIPPED or frequency < 60  # the top of a hum is flat for three samples of 16 bits


@given(st.integers(0, 3 * RATE), st.integers(1, 3 * RATE))
def test_what_is_found_does_not_depend_on_blocks(cut: int, samples: int) -> None:
    waveform = talk(2).astype(np.float32)[:samples, None]
    whole = module._listen(Sound(RATE, 1, 1.0), [waveform])
    parts = module._listen(Sound(RATE, 1, 1.0), [waveform[: cut // 320 * 320], waveform[cut // 320 * 320 :]])
    assert parts.digest == whole.digest and parts.peak == whole.peak and parts.clipped == whole.clipped
    assert parts.floor_db == pytest.approx(whole.floor_db) and parts.offset == pytest.approx(whole.offset, abs=1e-5)


def test_floor_is_what_was_put_there(tmp_path: Path) -> None:
    for floor_db in (-15, -30, -45):
        sound = examine(str(write(tmp_path / "a.wav", talk(3, floor_db))))
        assert isinstance(sound, Sound) and sound.floor_db == pytest.approx(-floor_db, abs=1.5)


@pytest.mark.parametrize(
    ("kind", "column", "what"),
    [
        ("speech", "speaker", "speaker in several splits"),
        ("noise", "group", "noise in several splits"),
        ("rir", "group", "room in several splits"),
    ],
)
def test_splits_that_share_a_name(tmp_path: Path, kind: str, column: str, what: str) -> None:
    write(tmp_path / "a.wav", talk(10))
    write(tmp_path / "b.wav", talk(11))
    names = [{"path": "a.wav", "split": "train"}, {"path": "b.wav", "split": "valid"}]
    rows = [*good(tmp_path), *({**name, "kind": kind, column: "shared"} for name in names)]
    result = found(tmp_path, rows, limit=0)  # names are looked at without listening
    assert set(result) == {what} and result[what].level == "error"
    assert result[what].where == ["shared: train, valid"]
    rows[-1][column] = "other"
    assert what not in found(tmp_path, rows)


def test_same_audio_in_two_splits_and_two_manifests(tmp_path: Path) -> None:
    rows = good(tmp_path)
    copied(tmp_path / "noise-train.wav", tmp_path / "copy.flac")
    second = manifest(tmp_path, [{"path": "copy.flac", "kind": "noise", "split": "report", "group": "x"}], "second.csv")
    _, findings = check([manifest(tmp_path, rows), second], None, quiet)
    assert [(finding.level, finding.what) for finding in findings] == [("error", "the same audio in several splits")]
    assert "copy.flac" in findings[0].where[0] and findings[0].where[0].endswith("(report, train)")


def test_recordings_without_a_name_share_none(tmp_path: Path) -> None:
    manifests = []
    for seed, split in enumerate(("train", "valid")):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "a.wav", talk(seed))
        manifests.append(manifest(tmp_path / split, [{"path": "a.wav", "kind": "noise", "split": split}]))
    assert [finding.level for finding in check(manifests, None, quiet)[1]] == ["note"]  # nothing to report on


def test_the_report_set_counts_as_report(tmp_path: Path) -> None:
    rows = good(tmp_path)
    rows[0]["speaker"] = sorted(report_set()["speakers"])[0]
    table, _ = check([manifest(tmp_path, rows)], None, quiet)
    assert [row.split for row in table if row.kind == "speech"] == ["valid", "report"]


def test_limit_listens_to_some_and_counts_all(tmp_path: Path) -> None:
    rows = good(tmp_path)
    for i in range(8):
        write(tmp_path / f"{i}.wav", np.zeros(RATE))
        rows.append({"path": f"{i}.wav", "kind": "speech", "source": "mine", "speaker": "one-train"})
    table, findings = check([manifest(tmp_path, rows)], 7, quiet)
    assert table[0].files == 9 and table[0].minutes == pytest.approx(10 / 60)
    assert 1 <= len(findings[0].where) <= 7 and findings[0].what == "silent"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    rows = [row for row in good(tmp_path) if row["split"] == "train"]
    rows[0]["speaker"] = ""
    result = found(tmp_path, rows)
    assert result["nothing to validate on or to report"].where == [
        f"{kind} in {split}" for kind in ("speech", "noise") for split in ("valid", "report")
    ]
    assert result["speech without a speaker's name"].where == ["1 files of mine"]
    assert {finding.level for finding in result.values()} == {"note"}


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF????")
    assert examine(str(tmp_path / "none.wav")) == "there is no such file"
    assert examine(str(tmp_path / "a.wav")) == "Format not recognised."


def test_an_empty_file_is_silent(tmp_path: Path) -> None:
    sound = examine(str(write(tmp_path / "a.wav", np.zeros(0))))
    assert isinstance(sound, Sound) and sound.seconds == 0 and sound.peak == 0
