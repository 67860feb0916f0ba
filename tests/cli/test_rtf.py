"""`sbm rtf`: a report, JSON, a chart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sbm_cli.timing import rtf

COPY = f'copy={sys.executable} -c "import shutil, sys; shutil.copy(*sys.argv[1:])" {{in}} {{out}}'


@pytest.fixture(autouse=True)
def short_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtf, "STREAM_SECONDS", 0.5)


def test_a_report_with_its_conditions(sbm: Any, model_file: Path) -> None:
    result = sbm("rtf", "--model", model_file, "--seconds", "0.2,0.4", "--rounds", 1)
    assert result.status == 0
    assert result.err == f"loading {model_file}\n"
    for reported in (
        "machine:",
        "threads 1",
        "scan cpu",
        "float32 on cpu",
        "passes per frame 1;",
        "32 ms",
        "MiB resident",
    ):
        assert reported in result.out
    assert [line.split(" | ")[0] for line in result.out.splitlines()[-2:]] == ["| 0.2 s", "| 0.4 s"]


def test_json_of_a_recording_beside_another_program(sbm: Any, model_file: Path, noisy: Path) -> None:
    result = sbm("benchmark-rtf", noisy, "--model", model_file, "--rounds", 1, "--against", COPY, "--json")
    assert (result.status, result.err) == (0, "")
    report = json.loads(result.out)
    assert [(row["clip"], row["system"]) for row in report["rows"]] == [
        (str(noisy), "small"),
        (str(noisy), "copy"),
    ]
    assert report["passes"] == 1


def test_two_systems_of_one_name_are_refused(sbm: Any, model_file: Path) -> None:
    result = sbm("rtf", "--model", model_file, "--against", COPY.replace("copy", "small", 1))
    assert result.status == 2
    assert "each system needs its own name, got small, small" in result.err


def test_more_than_one_pass_is_warned_of(sbm: Any, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtf, "network_passes", lambda enhancer, clip, options: (5, 10))
    result = sbm("rtf", "--model", model_file, "--seconds", "0.2", "--rounds", 1)
    assert result.status == 0
    assert "warning: each frame passed through the network 5 times" in result.err


def test_a_chart_that_cannot_be_written_is_told_before_the_work(sbm: Any, model_file: Path, tmp_path: Path) -> None:
    result = sbm("rtf", "--model", model_file, "--plot", tmp_path / "none" / "rtf.svg")
    assert (result.status, result.err) == (1, f"sbm: {tmp_path}/none/rtf.svg: no such file or directory\n")


def test_several_steps_are_timed_as_such(sbm: Any, model_file: Path) -> None:
    result = sbm("rtf", "--model", model_file, "--seconds", "0.2", "--rounds", 1, "--steps", 3)
    assert result.status == 0 and "warning" not in result.err
    assert "passes per frame 3;" in result.out


def test_a_chart(sbm: Any, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "rtf.svg"
    result = sbm("rtf", "--model", model_file, "--seconds", "0.2", "--rounds", 1, "--plot", path)
    assert result.status == 0
    drawn = path.read_text(encoding="utf-8")
    assert drawn.startswith("<svg ") and ">small, 0.2 s<" in drawn and "(RTF " in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "1,ten"], "expected lengths of 0.1 to 3600 s, such as 1,10, got '1,ten'"),
        (["--plot", "rtf.png"], "rtf.png: the chart is an SVG, so name it .svg"),
        (["--seconds", "0"], "expected lengths of 0.1 to 3600 s"),
        (["--against", "cp {in} {out}"], "expected NAME=PROGRAM"),
        (["--device", "tpu"], "invalid value for --device: expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_wrong_use_is_one_message(sbm: Any, arguments: list[str], message: str) -> None:
    result = sbm("rtf", *arguments)
    assert result.status == 2
    assert message in result.err and "Traceback" not in result.err
