"""Nothing that we write into a CSV is a formula, and our own reader gives every text back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.cells import cell, text_of
from sbm_cli.data.manifest import Clip, read_manifest, write_manifest
from sbm_cli.evaluation.metrics import Scores
from sbm_cli.evaluation.report import Evaluation, to_csv
from sbm_cli.evaluation.scoring import Record

FORMULAS = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "-inf", "=HYPERLINK(1).wav", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_texts(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-7.3", "+1", "-1e-05", ".5", "1", -7.3, 0, None, "a.wav", "a=b", "", "'quoted'"])
def test_numbers_and_other_texts_stay(value: object) -> None:
    assert cell(value) == value


@given(st.text("=+-@'\t1a", max_size=5))
def test_every_text_comes_back(text: str) -> None:
    assert text_of(str(cell(text))) == text


def test_scores_of_hostile_names() -> None:
    scores = Scores()
    scores["si_sdr"] = -7.5
    records = [Record("=cmd|x", "@half", "+system", 1.0, None, "-problem", scores)]
    row = list(csv.reader(to_csv(Evaluation("set", records, [], {})).splitlines()))[1]
    assert row == ["'=cmd|x", "'@half", "'+system", "1.000", "'-problem"]


def test_manifests_of_hostile_names(tmp_path: Path) -> None:
    (tmp_path / "=1+1.wav").touch()
    clip = Clip(str(tmp_path / "=1+1.wav"), "speech", "@source", "-speaker", "+group", "train")
    write_manifest(tmp_path / "m.csv", [(clip, 1.5)])
    (row,) = csv.DictReader((tmp_path / "m.csv").read_text().splitlines())
    assert [row[key] for key in ("path", "source", "speaker", "group", "seconds")] == [
        "'=1+1.wav", "'@source", "'-speaker", "'+group", "1.50"
    ]  # fmt: skip
    assert read_manifest(tmp_path / "m.csv") == [clip]
