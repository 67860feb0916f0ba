"""Systems on a set: records in order whatever the number of workers, and tables of them that can be checked by hand."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable

import numpy as np
import pytest

from sbm_cli.audio.samples import Samples
from sbm_cli.audio.sdr import si_sdr
from sbm_cli.errors import AudioError
from sbm_cli.evaluation import scoring
from sbm_cli.evaluation.folders import Item
from sbm_cli.evaluation.metrics import METRICS, Scores, at_level, score
from sbm_cli.evaluation.metrics.metric import Metric
from sbm_cli.evaluation.report import Evaluation, summarise, tables, to_csv, to_json, to_latex, to_markdown, to_svg
from sbm_cli.evaluation.scoring import evaluate, real_time_factor


class Cut:
    """A system that knows the clean signals and takes a part of the noise away; it fails where it was told to."""

    timed = True

    def __init__(self, name: str, clean: dict[str, Samples], part: float, fails: str = "") -> None:
        self.name, self.clean, self.part, self.fails = name, clean, part, fails

    def enhance(self, id: str, noisy: Samples) -> Samples:
        if id == self.fails:
            raise AudioError(f"{id}: no, thanks")
        return (1 - self.part) * noisy + self.part * self.clean[id]


def unreadable() -> tuple[Samples, Samples | None]:
    raise AudioError("5: damaged")


@pytest.fixture
def items() -> list[Item]:
    rng = np.random.default_rng(0)

    def loader(scale: float) -> Callable[[], tuple[Samples, Samples | None]]:
        clean = rng.standard_normal(8000).astype(np.float32)
        noisy = clean + scale * rng.standard_normal(8000).astype(np.float32)
        return lambda: (noisy, clean)

    subsets = ["noise"] * 3 + ["reverb"] * 2
    made = [Item(str(i), subset, loader(0.3 if subset == "noise" else 1.0)) for i, subset in enumerate(subsets)]
    return [*made, Item("5", "reverb", unreadable)]


@pytest.fixture
def evaluation(items: list[Item]) -> Evaluation:
    clean = {item.id: item.load()[1] for item in items[:-1]}
    systems = [Cut("half", clean, 0.5), Cut("a|b & c", clean, 0.75, fails="4")]  # type: ignore[arg-type]
    records = list(evaluate(items, systems, ["si_sdr"]))
    return Evaluation("set", records, summarise(records, ["si_sdr"]), {"pesq": "not installed"}, ("odd.wav",))


def test_half_of_the_noise_is_six_decibels(evaluation: Evaluation, items: list[Item]) -> None:
    noise, reverb = evaluation.rows
    assert (noise.subset, noise.metric, reverb.subset) == ("noise", "si_sdr", "reverb")
    for row, count in ((noise, 3), (reverb, 2)):
        half, better = row.cells["half"], row.cells["a|b & c"]
        assert half.gain is not None and half.gain.mean == pytest.approx(6.0, abs=0.15)
        assert half.gain.low <= half.gain.mean <= half.gain.high and half.gain.count == count
        assert half.mean.mean - row.cells["noisy"].mean.mean == pytest.approx(half.gain.mean, abs=1e-6)
        assert better.lead is not None and better.lead.mean == pytest.approx(6.0, abs=0.15)
        assert row.cells["noisy"].gain is row.cells["noisy"].lead is half.lead is None
    pairs = [item.load() for item in items[:3]]
    assert noise.cells["noisy"].mean.mean == pytest.approx(np.mean([si_sdr(*pair) for pair in pairs]))  # type: ignore[arg-type]
    assert reverb.cells["a|b & c"].mean.count == 1


def test_failures_are_told_and_do_not_stop_the_others(evaluation: Evaluation) -> None:
    problems = [(record.id, record.system, record.problem) for record in evaluation.problems]
    assert problems == [("4", "a|b & c", "4: no, thanks")] + [
        ("5", system, "5: damaged") for system in ("noisy", "half", "a|b & c")
    ]
    assert all(record.scores == {"si_sdr": None} and record.scores.reasons for record in evaluation.problems)
    assert len(evaluation.records) == 18


def test_tables_show_every_row_and_what_is_absent(evaluation: Evaluation) -> None:
    lines = to_markdown(evaluation).splitlines()
    assert lines[0] == r"| subset | metric | noisy | half | a\|b & c |"
    assert lines[2].startswith("| noise | SI-SDR (dB) | 10.") and " (+6." in lines[2]
    assert lines[-1] == "Absent: PESQ-wb."
    assert lines[5] == "difference to half (95 % interval):"
    latex = to_latex(evaluation)
    assert latex.count(r"\toprule") == latex.count(r"\end{tabular}") == 2 and r"a|b \& c" in latex
    assert [len({len(row) for row in (table.head, *table.rows)}) for table in tables(evaluation)] == [1, 1]


def test_every_file_has_its_row(evaluation: Evaluation) -> None:
    rows = list(csv.DictReader(to_csv(evaluation).splitlines()))
    assert [row["file"] for row in rows] == [str(i) for i in range(6) for _ in range(3)]
    assert rows[1]["system"] == "half" and float(rows[1]["si_sdr"]) == pytest.approx(16.5, abs=1)
    assert (rows[-1]["si_sdr"], rows[-1]["problem"]) == ("", "5: damaged")


def test_json_holds_all_of_it(evaluation: Evaluation) -> None:
    document = json.loads(json.dumps(to_json(evaluation), allow_nan=False))
    assert (document["set"], document["count"], document["unmatched"]) == ("set", 6, ["odd.wav"])
    assert document["scores"]["noise"]["si_sdr"]["half"]["gain"]["mean"] == evaluation.rows[0].cells["half"].gain.mean  # type: ignore[union-attr]
    assert document["scores"]["reverb"]["si_sdr"]["a|b & c"]["mean"]["low"] is None  # one file has no interval
    assert [system["name"] for system in document["systems"]] == ["half", "a|b & c"]
    assert document["absent"] == {"pesq": "not installed"}
    assert len(document["problems"]) == 4 and len(document["files"]) == 18
    assert document["systems"][0]["rtf"] == real_time_factor(evaluation.records, "half") > 0
    assert real_time_factor(evaluation.records, "noisy") is None
    assert "a rough guide" in (to_svg(evaluation) or "")


def test_workers_and_levels(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(**options: float) -> list[dict[str, float | None]]:
        records = evaluate(items, [], ["si_sdr", "ssnr"], **options)  # type: ignore[arg-type]
        return [dict(record.scores) for record in records]

    assert scores(workers=2) == scores(workers=1) == scores(level=-30)  # which is for metrics without a reference
    heard: dict[int, float] = {}
    list(
        evaluate(
            items, [], [], level=-30, on_item=lambda i, _, sounds: heard.update({i: float(np.std(sounds["noisy"]))})
        )
    )
    rms = Metric("rms", "RMS", "", lambda estimate: float(np.std(estimate)), needs_clean=False)
    monkeypatch.setitem(METRICS, "rms", rms)
    loud = [record.scores["rms"] for record in evaluate(items[:5], [], ["rms"], level=-30)]
    assert loud == 5 * [pytest.approx(10 ** (-30 / 20), rel=1e-3)]
    assert heard == {i: pytest.approx(10 ** (-30 / 20), rel=1e-3) for i in range(5)}


def test_one_level_for_all() -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 8000).astype(np.float32)
    assert at_level(noise, None) is noise
    assert 20 * np.log10(np.sqrt(np.mean(at_level(noise, -26) ** 2))) == pytest.approx(-26, abs=1e-3)
    silence = np.zeros(10, np.float32)
    assert at_level(silence, -26) is silence


def test_means_over_fewer_files_say_so(evaluation: Evaluation) -> None:
    noise, reverb = (line.split("|") for line in to_markdown(evaluation).replace(r"\|", "/").splitlines()[2:4])
    assert not any("[" in cell for cell in noise)
    assert [cell.count(" [2 of 3]") for cell in reverb[3:6]] == [1, 1, 0]  # the third cannot be read
    assert " [1 of 3] (+" in reverb[5]  # and this system failed on another one
    assert to_markdown(evaluation).splitlines()[-3].rstrip(" |").endswith(" [1 of 3]")


def die(metrics: list[str], estimate: Samples, clean: Samples | None, noisy: Samples, level: float | None) -> Scores:
    if estimate[0] == 1:
        os._exit(9)
    return score(metrics, estimate, clean, noisy, level)


def test_a_process_that_dies_costs_its_file(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, clean = items[1].load()
    noisy[0] = 1
    monkeypatch.setattr(scoring, "score", die)
    records = list(evaluate([*items[:4], *items[:4]], [], ["si_sdr"], workers=2))
    assert [record.id for record in records] == 2 * ["0", "1", "2", "3"]
    for record in records:
        assert bool(record.problem) == (record.scores["si_sdr"] is None) == (record.id == "1")
    assert "the scoring process died" in records[1].problem == records[1].scores.reasons["si_sdr"]


def test_no_more_processes_than_files_can_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for limits, workers in (((64, 64), 8), ((20, 20), 1), ((resource.RLIM_INFINITY,) * 2, 30), ((1024, 4096), 30)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, found=limits: found)
        assert scoring._openable(30) == workers
