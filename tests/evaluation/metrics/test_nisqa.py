"""NISQA against its authors' own scores, and without its weights."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation import metrics as module
from sbm_cli.evaluation.metrics import METRICS, available_metrics, nisqa, score
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.timing.clips import speech_like

SHARED = Path(__file__).parents[3] / "shared" / "models"  # beside the repository of a developer


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    if (SHARED / nisqa.FILE).exists():
        monkeypatch.setenv("SBM_NISQA", str(SHARED))
    if reason := available_metrics()["nisqa"]:
        pytest.skip(f"nisqa: {reason}")


@pytest.mark.parametrize(
    ("hertz", "saw", "expected"),
    [
        (440, False, (1.1243989468, 2.1237702370, 3.6184809208, 1.2584471703, 1.8518198729)),
        (1000, False, (1.2761806250, 1.8802671432, 3.3731021881, 1.2554246187, 1.6879540682)),
        (200, True, (0.8493731022, 2.6398222446, 3.0776870251, 1.1348335743, 1.6034533978)),
    ],
)
def test_nisqa_equals_the_program_of_its_authors(
    hertz: int, saw: bool, expected: tuple[float, ...], weights: None
) -> None:
    """A second of tone; the values stand in torchmetrics' tests, computed with github.com/gabrielmittag/NISQA."""
    turns = torch.arange(RATE) * (2 * hertz / RATE)  # half turns
    tone = (1 + turns) % 2 - 1 if saw else torch.sin(3.14159 * turns)
    assert score(tuple(nisqa.LABELS), tone.numpy()) == pytest.approx(
        dict(zip(nisqa.LABELS, expected, strict=True)), abs=1e-4
    )


def test_what_nisqa_cannot_score_is_none_and_stops_nothing_else(weights: None) -> None:
    clip = speech_like(1.0, RATE)
    for estimate, reason in (
        (clip[:0], "no samples"),
        (np.full_like(clip, np.nan), "samples are not finite"),
        (clip[: RATE // 10], "RuntimeError: Input signal is too short."),
        (np.tile(clip, 53), "RuntimeError: Maximum number of mel spectrogram windows exceeded. Use shorter audio."),
    ):
        scores = score(("nisqa", "si_sdr"), estimate, clip[:1].repeat(estimate.size))
        assert scores["nisqa"] is None and scores.reasons["nisqa"] == reason
    assert score(["nisqa"], np.zeros_like(clip))["nisqa"] is not None  # of silence it has an opinion


def test_the_number_of_threads_changes_nothing_and_stays(weights: None) -> None:
    before = torch.get_num_threads()
    clip = speech_like(1.0, RATE)
    try:
        scores = []
        for count in (1, 2):
            torch.set_num_threads(count)
            scores.append(score(tuple(nisqa.LABELS), clip))
            assert torch.get_num_threads() == count
        assert scores[0] == scores[1]
    finally:
        torch.set_num_threads(before)


def test_the_five_scores_share_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run(samples: Samples) -> dict[str, float]:
        calls.append(samples.size)
        return {name: float(number) for number, name in enumerate(nisqa.LABELS)}

    for name in nisqa.LABELS:
        monkeypatch.setitem(METRICS, name, replace(METRICS[name], compute=run))
    monkeypatch.setattr(module, "_missing", lambda metric: "")
    assert list(score(tuple(nisqa.LABELS), speech_like(0.5, RATE)).values()) == [0, 1, 2, 3, 4]
    assert calls == [RATE // 2]


def test_without_weights_the_reason_says_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: importlib.util.find_spec("numpy"))  # the packages are there
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SBM_NISQA", raising=False)
    scores = score(tuple(nisqa.LABELS), speech_like(0.5, RATE))
    assert set(scores.values()) == {None}
    assert f" to {tmp_path / '.torchmetrics' / 'NISQA'}, or" in scores.reasons["nisqa_loudness"]
    monkeypatch.setenv("SBM_NISQA", str(tmp_path / "mine"))
    assert f" to {tmp_path / 'mine'}, or" in available_metrics()["nisqa"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / nisqa.FILE).touch()
    assert available_metrics()["nisqa"] == ""
