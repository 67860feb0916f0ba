"""`sbm data`: from folders on disk to a manifest that a training takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile


def tree(root: Path, *names: str) -> Path:
    """Write a second of noise under each name."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).uniform(-0.3, 0.3, 16000)
        noise[4000:8000] *= 0.001  # a pause
        soundfile.write(path, noise, 16000)
    return root


def voices(root: Path) -> Path:
    return tree(
        root,
        *(f"clean_trainset_28spk_wav/p{n}_001.wav" for n in (226, 227, 228)),
        "clean_testset_wav/p232_001.wav",
        "noisy_trainset_28spk_wav/p227_001.wav",
    )


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_prepare_writes_a_manifest_that_check_accepts(sbm: Any, tmp_path: Path) -> None:
    root = voices(tmp_path / "VoiceBank")
    manifest = tmp_path / "voices.csv"
    result = sbm("data", "prepare", "voicebank-demand", "--root", root, "-o", manifest)
    assert result.status == 0 and result.out == f"{manifest}\n"
    assert "speech train         2 files" in result.err and "speech report        1 files" in result.err
    assert [(row["speaker"], row["split"], row["seconds"]) for row in rows(manifest)] == [
        ("vctk/p232", "report", "1.00"),
        ("vctk/p226", "valid", "1.00"),
        ("vctk/p227", "train", "1.00"),
        ("vctk/p228", "train", "1.00"),
    ]
    assert rows(manifest)[0]["path"] == "VoiceBank/clean_testset_wav/p232_001.wav"

    result = sbm("data", "check", manifest)
    assert result.status == 0 and result.err == ""
    assert result.out.splitlines()[0].split() == [
        "kind",
        "split",
        "source",
        "files",
        "minutes",
        "speakers",
        "groups",
        "Hz",
    ]
    assert result.out.splitlines()[1].split() == ["speech", "train", "voicebank", "2", "0.0", "2", "16000"]


def test_manifest_lies_here_and_is_not_replaced(sbm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    voices(tmp_path / "VoiceBank")
    command = ("data", "prepare", "voicebank-demand", "--root", "VoiceBank", "-q")
    assert sbm(*command) == sbm(*command, "--overwrite")
    assert Path("voicebank-demand.csv").is_file()
    result = sbm(*command)
    assert result.status == 1 and "voicebank-demand.csv exists" in result.err and "--overwrite" in result.err


def test_check_fails_when_splits_share_a_voice(sbm: Any, tmp_path: Path) -> None:
    root = voices(tmp_path / "VoiceBank")
    manifest = tmp_path / "voices.csv"
    sbm("data", "prepare", "voicebank-demand", "--root", root, "-o", manifest)
    manifest.write_text(manifest.read_text().replace("vctk/p227", "vctk/p232"))
    result = sbm("data", "check", manifest)
    assert result.status == 1
    assert "error: speaker in several splits: 1\n  vctk/p232: train, report" in result.out
    result = sbm("data", "check", manifest, "--json")
    report = json.loads(result.out)
    assert result.status == 1 and result.err == "" and report["ok"] is False
    assert report["findings"][0]["where"] == ["vctk/p232: train, report"] and report["table"][0]["files"] == 2


def test_check_names_some_places_and_all_when_verbose(sbm: Any, tmp_path: Path) -> None:
    root = tree(tmp_path / "mine", *(f"noise/{i}.wav" for i in range(9)))
    for path in root.rglob("*.wav"):
        soundfile.write(path, np.zeros(16000), 16000)
    sbm("data", "prepare", "folder", "--root", root, "-o", tmp_path / "mine.csv")
    short, long = (sbm("data", "check", tmp_path / "mine.csv", *more).out for more in ((), ("-v",)))
    assert "warning: silent: 9" in short and "and 6 more" in short
    assert short.count("mine/noise") == 3 and long.count("mine/noise") == 9


def test_unreadable_files_are_left_out_and_said(sbm: Any, tmp_path: Path) -> None:
    root = voices(tmp_path / "VoiceBank")
    (root / "clean_trainset_28spk_wav/p228_001.wav").write_bytes(b"no sound")
    result = sbm("data", "prepare", "voicebank-demand", "--root", root, "-o", tmp_path / "voices.csv", "-q")
    assert result.status == 0 and len(rows(tmp_path / "voices.csv")) == 3
    assert "warning: 1 unreadable or empty files are left out" in result.err and "p228_001.wav" in result.err


def test_a_corpus_follows_another(sbm: Any, tmp_path: Path) -> None:
    libri = tree(
        tmp_path / "libri", "train-clean-100/19/198/19-198-0000.flac", "test-clean/61/70968/61-70968-0000.flac"
    )
    dns = tree(tmp_path / "dns", *(f"clean/book_1_chp_1_reader_{n:05}_1.wav" for n in (19, 61, 70, 80)))
    sbm("data", "prepare", "librispeech", "--root", libri, "-o", tmp_path / "libri.csv")
    both = (tmp_path / "libri.csv", tmp_path / "dns.csv")
    sbm("data", "prepare", "dns", "--root", dns, "-o", both[1], "--follow", both[0])
    splits = {row["speaker"]: row["split"] for row in rows(both[1])}
    assert splits["librispeech/19"] == "train" and splits["librispeech/61"] == "report"
    assert "several splits" not in sbm("data", "check", *both, "--limit", "0").out


def test_few_responses_of_each_room(sbm: Any, tmp_path: Path) -> None:
    names = [f"smallroom/Room00{room}/Room00{room}-0000{n}.wav" for room in range(3) for n in range(5)]
    root = tree(tmp_path / "simulated_rirs_16k", *names)
    sbm("data", "prepare", "slr26", "--root", root, "-o", tmp_path / "rooms.csv", "--per-group", 2)
    assert len(rows(tmp_path / "rooms.csv")) == 6


def test_pack_holds_what_the_manifest_names(sbm: Any, tmp_path: Path) -> None:
    root = tree(
        tmp_path / "mine", *(f"{kind}/{name}.wav" for kind in ("speech/a", "speech/b", "noise") for name in "xyz")
    )
    manifest, pack = tmp_path / "mine.csv", tmp_path / "pack"
    sbm("data", "prepare", "folder", "--root", root, "-o", manifest)
    command = ("data", "pack", manifest, "-o", pack, "--rooms", 2, "--cache", tmp_path / "cache")
    result = sbm(*command)
    assert result.status == 0 and result.out == f"{pack}\n"
    assert "speech train" in result.err and "noise  valid" in result.err and "shards" in result.err

    from sbm_cli.data.pack import open_pack

    corpus, _ = open_pack(pack)
    assert len(corpus.where("speech", "train")) == 3
    result = sbm(*command[:3], "-o", tmp_path / "fast", *command[5:], "--speeds", "0.9,1.12")
    assert result.status == 0
    corpus, _ = open_pack(tmp_path / "fast")
    assert sorted(corpus.clips[i].speed for i in corpus.where("speech", "train")) == [0.9] * 3 + [1.0] * 3 + [1.12] * 3
    wrong = sbm(*command, "--speeds", "9")
    assert wrong.status == 2 and "invalid value for --speeds: speeds lie between 0.5 and 2" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("timit", "--root", "."), 2, "unknown corpus 'timit'; choose one of voicebank-demand, dns"),
        (("musan", "--root", ".", "--licence", "mit"), 2, "unknown mit; choose from cc0, cc-by"),
        (("musan", "--root", ".", "--licence", "cc0"), 1, "musan does not say the licence of each file"),
        (("musan", "--root", "no-such-folder"), 1, "not a folder"),
        (("ears", "--root", "."), 1, "Found odd.wav"),
        (("ears",), 2, "--root"),
    ],
)
def test_what_is_wrong_is_said(
    sbm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, words: str
) -> None:
    monkeypatch.chdir(tree(tmp_path, "odd.wav"))
    result = sbm("data", "prepare", *arguments)
    assert result.status == status and words in result.err and "Traceback" not in result.err


def test_help_names_every_corpus(sbm: Any) -> None:
    from sbm_cli.data.corpora.layouts import LAYOUTS, LICENCES

    words = " ".join(sbm("data", "prepare", "-h").out.split()).replace("- ", "-")
    assert all(name in words for name in (*LAYOUTS, *LICENCES.values()))


def test_curate_writes_what_a_training_takes(sbm: Any, tmp_path: Path) -> None:
    tree(tmp_path, "speech/anna/a.wav", "speech/eve/b.wav", "noise/n.wav", "cleaned/speech/anna/a.wav")
    tree(tmp_path, "cleaned/speech/eve/b.wav")
    manifest, out = tmp_path / "own.csv", tmp_path / "out"
    assert sbm("data", "prepare", "folder", "--root", tmp_path, "-o", manifest).status == 0
    result = sbm("data", "curate", manifest, "-o", out, "--enhanced", tmp_path / "cleaned", "--no-score")
    assert result.status == 0 and result.out == f"{out / 'manifest.csv'}\n" and "utterances kept" in result.err
    found = {row["kind"]: row["path"] for row in rows(out / "manifest.csv")}
    assert found["speech"].endswith(".flac") and (out / found["speech"]).exists()
    assert sbm("data", "check", out / "manifest.csv").status == 0
    assert sbm("data", "curate", manifest, "-o", out, "--as-is", "--model", "sbm-tiny").status == 2
    (tmp_path / "cleaned/speech/eve/b.wav").rename(tmp_path / "cleaned/speech/anna/b.wav")  # of another speaker
    result = sbm("data", "curate", manifest, "-o", tmp_path / "no", "--enhanced", tmp_path / "cleaned", "--no-score")
    assert result.status == 1 and "no enhanced file for speech/eve/b" in result.err
    assert sbm("data", "curate", manifest, "-o", out, "--least", "3", "--no-score").status == 2
