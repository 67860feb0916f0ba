"""`sbm evaluate`: tables of mixtures and of folders, files of every score, and an exit status."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a corpus of gated tones and noise, all of it `valid`."""
    rng = np.random.default_rng(0)
    rows = ["path,kind,source,speaker,split"]
    for i in range(4):
        time = np.arange(80000) / 16000
        tone = 0.2 * np.sin(2 * np.pi * (200 + 50 * i) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        soundfile.write(tmp_path / f"s{i}.wav", tone, 16000)
        soundfile.write(tmp_path / f"n{i}.wav", 0.1 * rng.standard_normal(80000), 16000)
        rows += [f"s{i}.wav,speech,s,{i % 2},valid", f"n{i}.wav,noise,n,,valid"]
    path = tmp_path / "corpus.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Write a pair of folders: three recordings, the last one of them shorter than its reference."""
    rng = np.random.default_rng(0)
    for i, samples in enumerate((8000, 8000, 4000)):
        clean = np.sin(2 * np.pi * 300 * np.arange(8000) / 16000) / 10
        for name, sound in (("noisy", clean[:samples] + 0.02 * rng.standard_normal(samples)), ("clean", clean)):
            (tmp_path / "pair" / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "pair" / name / f"{i}.wav", sound, 16000)
    return tmp_path / "pair"


def test_an_untrained_model_gains_nothing(sbm: Any, manifest: Path, model_file: Path, tmp_path: Path) -> None:
    common = ["evaluate", manifest, "--model", model_file, "--count", 4, "--workers", 1, "--cache", tmp_path / "cache"]
    result = sbm(*common, "--metrics", "si_sdr", "--json")
    assert (result.status, result.err) == (0, "")
    document = json.loads(result.out)
    assert (document["set"], document["count"], document["absent"]) == ("mixtures valid", 4, {})
    for subset in ("noise", "reverb"):
        assert document["scores"][subset]["si_sdr"]["small"]["gain"]["mean"] == pytest.approx(0, abs=0.1)  # rumble
    without = json.loads(sbm(*common, "--metrics", "si_sdr", "--no-warm-up", "--json").out)
    assert without["scores"]["noise"]["si_sdr"]["small"] != document["scores"]["noise"]["si_sdr"]["small"]
    table = sbm(*common, "--metrics", "si_sdr")
    assert table.out.count("| SI-SDR (dB) |") == 2
    (tmp_path / "scores.json").write_text(result.out)
    release(tmp_path, model_file)


def release(tree: Path, model_file: Path) -> None:
    """Let tools/release.py describe the model by these scores, in a tree of its own."""
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "release.py"))
    (tree / "sbm_cli" / "weights").mkdir(parents=True)
    (tree / "checkpoints.json").write_text('{"models": {}}')
    tool["release"].__globals__["ROOT"] = tree
    tool["release"](model_file, tree / "scores.json", "sbm evaluate")
    scores = json.loads((tree / "checkpoints.json").read_text())["models"]["small"]["scores"]
    assert set(scores["noise"]["si_sdr"]) == {"noisy", "enhanced", "gain"}
    assert scores["reverb"]["si_sdr"]["gain"] == pytest.approx(0, abs=0.1)


def test_programs_and_folders_beside_a_model(sbm: Any, pair: Path, model_file: Path, tmp_path: Path) -> None:
    copy = f'"{sys.executable}" -c "import shutil, sys; shutil.copy(*sys.argv[1:])" {{in}} {{out}}'
    common = ["evaluate", "--set", "pair", pair, "--workers", 1, "--metrics", "si_sdr,estoi", "-o", tmp_path / "out"]
    systems = ["--model", model_file, "--system", f"copy={copy}", "--enhanced", f"best={pair / 'clean'}"]
    result = sbm(*common, *systems)
    assert result.status == 1  # for the file whose reference has another length
    assert result.out.startswith("| subset | metric | noisy | small | copy | best |")
    assert "1 file cannot be scored: 2\n" in result.err and "its reference" in result.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "quality-cost.svg",
        "scores.csv",
        "scores.json",
        "table.md",
        "table.tex",
    }
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["file"], row["system"]) for row in rows] == [
        (str(i), system) for i in range(3) for system in ("noisy", "small", "copy", "best")
    ]
    assert float(rows[3]["si_sdr"]) == 100 and rows[-1]["problem"].endswith("0.500 s.")
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == result.out
    again = sbm(*common, *systems)
    assert again.status == 1 and "scores.csv exists" in again.err and again.out == ""
    (tmp_path / "out" / "report.html").touch()
    alone = sbm(*common, "--overwrite", "--enhanced", f"best={pair / 'clean'}")
    assert alone.out.startswith("| subset | metric | noisy | best |")  # no default model where a system is named
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"scores.csv", "scores.json", "table.md", "table.tex"}  # nothing of the earlier run


def test_files_alone_are_scored_as_they_are(sbm: Any, pair: Path, tmp_path: Path) -> None:
    (pair / "noisy" / "2.wav").unlink()
    common = ["evaluate", "--set", "pair", pair / "noisy", pair / "clean", "--unprocessed", "--workers", 1]
    result = sbm(*common, "--metrics", "si_sdr,estoi", "-o", tmp_path / "out", "--html", "--json")
    assert result.status == 0
    document = json.loads(result.out)
    (scores,) = document["scores"].values()
    assert list(scores["si_sdr"]) == ["noisy"] and 10 < scores["si_sdr"]["noisy"]["mean"]["mean"] < 20
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 3
    both = sbm(*common, "--model", "sbm-tiny")
    assert both.status == 2 and "--unprocessed" in both.err


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_what_was_scored(sbm: Any, pair: Path, tmp_path: Path, workers: int) -> None:
    program = tmp_path / "copy.py"  # interrupts us at the third recording
    program.write_text(
        "import os, pathlib, shutil, signal, sys\n"
        "shutil.copy(*sys.argv[1:])\n"
        "with open(pathlib.Path(__file__).with_name('count'), 'a+') as count:\n"
        "    count.write('x')\n"
        "    if count.tell() == 3:\n"
        "        os.kill(os.getppid(), signal.SIGINT)\n"
    )
    for name in ("noisy", "clean"):
        (pair / name / "2.wav").write_bytes((pair / name / "1.wav").read_bytes())
    common = ["evaluate", "--set", "pair", pair, "--workers", workers, "--metrics", "si_sdr", "-o", tmp_path / "out"]
    result = sbm(*common, "--system", f'copy="{sys.executable}" "{program}" {{in}} {{out}}')
    assert result.status == 130 and result.err.endswith("sbm: interrupted\n")
    document = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    done = document["count"]
    assert done in ((1, 2) if workers == 2 else (2,))  # what waits for a process is not begun
    title = f"the first {done} of 3 recordings of pair"
    assert document["partial"] and document["set"] == title and f"scored {done} of 3 recordings\n" in result.err
    assert len(document["files"]) == 2 * done and all(file["scores"]["si_sdr"] > 0 for file in document["files"])
    assert result.out.endswith(f"\n\nPartial: {title}.\n")
    (tmp_path / "count").unlink()
    again = sbm(*common, "--system", f'copy="{sys.executable}" "{program}" {{in}} {{out}}', "--overwrite")
    assert again.status == 130 and "the earlier report was kept" in again.err
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8")) == document


def test_a_system_that_fails_is_listed(sbm: Any, pair: Path, tmp_path: Path) -> None:
    (pair / "clean" / "2.wav").unlink()
    broken = f'"{sys.executable}" -c "exit(3)" {{in}} {{out}}'
    common = ["evaluate", "--set", "pair", pair, "--workers", 1, "--metrics", "si_sdr"]
    result = sbm(*common, "--system", f"broken={broken}", "--enhanced", f"good={pair / 'clean'}")
    cells = result.out.splitlines()[2].split("|")
    assert result.status == 1 and cells[4] == " – " and cells[5].startswith(" 100.000 (+")
    assert "warning: ignored 1 file without a counterpart: " in result.err and "2.wav" in result.err
    assert "2 files failed with broken: 0, 1\n" in result.err and "status 3" in result.err


def test_sets_without_references_have_other_metrics(sbm: Any, pair: Path) -> None:
    common = ["evaluate", "--set", "folder", pair / "noisy", "--enhanced", f"a={pair / 'noisy'}", "--metrics"]
    result = sbm(*common, "pesq,sig")
    assert result.status == 0 and result.out.endswith("\n\nAbsent: PESQ-wb.\n")
    assert "the set has no clean references" in result.err
    alone = sbm(*common, "pesq")
    assert alone.status == 2 and "the set has no clean references" in alone.err and "none of the metrics" in alone.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "beauty"], "unknown beauty"),
        (["--steps", "0"], "steps must be between 1 and 1000"),
        (["--steps", "many"], "many"),
        (["--sampler", "euler"], "sampler must be one of"),
        (["--system", "cp {in} {out}"], "expected NAME=PROGRAM"),
        (["--enhanced", "theirs"], "expected NAME=DIR, got"),
        (["--html"], "needs an --output folder"),
        (["--model", "sbm-tiny", "--enhanced", "sbm-tiny=."], "each system needs its own name"),
    ],
)
def test_wrong_use_is_one_message(sbm: Any, pair: Path, arguments: list[str], message: str) -> None:
    result = sbm("evaluate", "--set", "pair", pair, *(text.replace("=.", f"={pair}") for text in arguments))
    assert result.status == 2 and message in result.err


def test_without_a_folder_it_is_told_what_belongs_in_it(sbm: Any) -> None:
    result = sbm("evaluate", "--set", "voicebank-demand")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "sbm: --set voicebank-demand needs the folder of the test set.\n"
        "     sbm evaluate --set voicebank-demand FOLDER\n"
        "     Expected in it: noisy_testset_wav/NAME.wav and clean_testset_wav/NAME.wav.\n"
        "     Download: https://datashare.ed.ac.uk/handle/10283/2791\n"
    )
    assert "sbm data prepare" in sbm("evaluate").err


def test_what_is_not_there_is_named(sbm: Any, pair: Path) -> None:
    result = sbm("evaluate", pair / "none.csv")
    assert result.status == 1 and "none.csv" in result.err and "Traceback" not in result.err
    result = sbm("evaluate", "--set", "voicebank-demand", pair)
    assert result.status == 1 and "noisy_testset_wav/NAME.wav" in result.err


def test_a_folder_in_place_of_a_manifest_is_told_its_set(sbm: Any, pair: Path) -> None:
    result = sbm("evaluate", pair / "noisy", pair / "clean")
    assert result.status == 2 and "is a folder; expected a manifest" in result.err and "--set pair" in result.err
