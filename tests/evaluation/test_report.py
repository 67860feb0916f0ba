"""A model's table: noisy, enhanced and their paired gain, for each half."""

from __future__ import annotations

import numpy as np
import pytest

from sbm_cli.evaluation.metrics import si_sdr
from sbm_cli.evaluation.report import evaluate, to_json, to_markdown
from sbm_cli.evaluation.sets import Mixture


class Halving:
    """In place of an enhancer: knows the clean signal of each mixture and takes half of the noise away."""

    def __init__(self, mixtures: list[Mixture]) -> None:
        self.clean = {mixture.noisy.tobytes(): mixture.clean for mixture in mixtures}

    def enhance(self, noisy: np.ndarray, rate: int) -> np.ndarray:
        return (noisy + self.clean[noisy.tobytes()]) / 2


@pytest.fixture
def mixtures() -> list[Mixture]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        clean = rng.standard_normal(8000).astype(np.float32)
        noise = rng.standard_normal(8000).astype(np.float32) * (0.3 if i < 4 else 1.0)
        half = "noise" if i < 4 else "reverb"
        made.append(Mixture(str(i), half, clean + noise, clean, 0.0, 0.0, "speaker", "group"))
    return made


def test_half_of_the_noise_is_six_decibels(mixtures: list[Mixture]) -> None:
    rows = evaluate(Halving(mixtures), mixtures, ["si_sdr"])  # type: ignore[arg-type]
    assert [(row.half, row.metric, row.gain.count) for row in rows] == [("noise", "si_sdr", 4), ("reverb", "si_sdr", 2)]
    for row in rows:
        assert row.gain.mean == pytest.approx(6.0, abs=0.15)
        assert row.gain.low <= row.gain.mean <= row.gain.high
        assert row.enhanced.mean - row.noisy.mean == pytest.approx(row.gain.mean, abs=1e-6)
    noisy = np.mean([si_sdr(mixture.noisy, mixture.clean) for mixture in mixtures[:4]])
    assert rows[0].noisy.mean == pytest.approx(noisy)


def test_tables_show_every_row_and_what_is_absent(mixtures: list[Mixture]) -> None:
    rows = evaluate(Halving(mixtures), mixtures, ["si_sdr"])  # type: ignore[arg-type]
    table = to_markdown(rows, ["pesq"]).splitlines()
    assert table[2].startswith("| noise | SI-SDR (dB) | ") and " | +6." in table[2]
    assert table[-1] == "| all | PESQ-wb (MOS) | absent | absent | absent |"
    document = to_json(rows)
    assert document["noise"]["si_sdr"]["gain"]["mean"] == rows[0].gain.mean  # type: ignore[index]
