"""Log-spectral distances above the bandwidth and in the gaps of the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbm_cli.audio.samples import Samples
from sbm_cli.data.filters import band_limited
from sbm_cli.evaluation.metrics import score
from sbm_cli.evaluation.metrics.metric import RATE

NAMES = ("lsd_hf", "lsd_gaps")
CLEAN = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1


def limited(samples: Samples, hz: float) -> Samples:
    low, high = torch.tensor([0.0]), torch.tensor([hz])
    return np.asarray(band_limited(torch.from_numpy(samples)[None], low, high)[0].numpy())


def with_gaps(samples: Samples, length: int = RATE // 10) -> Samples:
    holed = samples.copy()
    for start in (5000, 20000):
        holed[start : start + length] = 0
    return holed


def only_highs(gain: float) -> Samples:
    """Return the clean signal with another gain above 4 kHz."""
    lows = limited(CLEAN, 4000)
    return np.asarray(lows + gain * (CLEAN - lows), dtype=np.float32)


@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_a_gain_of_the_missing_band_is_its_distance(gain_db: float) -> None:
    estimate = only_highs(10 ** (gain_db / 20))
    found = score(["lsd_hf"], estimate, CLEAN, noisy=limited(CLEAN, 4000))["lsd_hf"]
    assert found == pytest.approx(abs(gain_db), abs=0.4)


def test_what_the_input_has_does_not_count() -> None:
    noisy = limited(CLEAN, 4000)
    worse = (CLEAN - 0.9 * limited(CLEAN, 3500)).astype(np.float32)
    assert (score(["lsd_hf"], worse, CLEAN, noisy=noisy)["lsd_hf"] or 0.0) < 0.5
    assert (score(["lsd_hf"], noisy, CLEAN, noisy=noisy)["lsd_hf"] or 0.0) > 40


def test_gaps_alone_count() -> None:
    noisy = with_gaps(CLEAN)
    rows = [score(["lsd_gaps"], x, CLEAN, noisy=noisy)["lsd_gaps"] for x in (CLEAN, 2 * CLEAN, noisy)]
    assert rows[:2] == pytest.approx([0.0, 6.02], abs=0.01) and (rows[2] or 0.0) > 20
    outside = CLEAN * np.where(noisy == 0, 1, 0.5).astype(np.float32)
    inside = CLEAN * np.where(noisy == 0, 0.5, 1).astype(np.float32)
    worse, better = (score(["lsd_gaps"], x, CLEAN, noisy=noisy)["lsd_gaps"] or 0.0 for x in (inside, outside))
    assert worse > 5 > 1 > better


def test_there_is_no_score_where_nothing_is_missing() -> None:
    scores = score(NAMES, CLEAN, CLEAN, noisy=CLEAN)
    assert scores == dict.fromkeys(NAMES)
    assert scores.reasons == {
        "lsd_hf": "ValueError: the input lacks no band",
        "lsd_gaps": "ValueError: the input has no gaps",
    }
    assert score(NAMES, CLEAN, CLEAN).reasons == dict.fromkeys(NAMES, "no noisy input")
    assert score(NAMES, CLEAN).reasons == dict.fromkeys(NAMES, "no clean reference")


def test_silence_of_both_is_no_gap() -> None:
    silent = with_gaps(CLEAN)
    assert score(["lsd_gaps"], silent, silent, noisy=silent)["lsd_gaps"] is None
    short = with_gaps(CLEAN, 70)
    assert score(["lsd_gaps"], short, CLEAN, noisy=short)["lsd_gaps"] is None


def test_a_metric_of_what_lacks_has_no_row_where_nothing_does() -> None:
    from sbm_cli.evaluation.report import summarise
    from sbm_cli.evaluation.scoring import Record

    def rows(noisy: Samples) -> list[str]:
        records = [Record("a", "all", "noisy", 2.0, None, "", score(NAMES, noisy, CLEAN, noisy=noisy))]
        return [row.metric for row in summarise(records, NAMES)]

    assert rows(CLEAN) == [] and rows(with_gaps(CLEAN)) == ["lsd_gaps"]
