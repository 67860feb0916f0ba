"""Segmental SNR and the composite measures, against numbers of the program that papers use."""

from __future__ import annotations

import numpy as np
import pytest

from sbm_cli.evaluation.metrics import available_metrics, composite, score
from tests.evaluation.metrics.test_metrics import need, noise_like, speech_like

NAMES = ("ssnr", "csig", "cbak", "covl")

# By compute_metrics.py of CMGAN, whose authors compared it with Loizou's MATLAB, typed anew in float64.
REFERENCE = {
    0.0: (-2.782678, 4.132293, 2.425787, 3.250502),
    10.0: (5.486924, 4.914446, 3.480875, 4.136173),
    20.0: (14.470391, 5.0, 4.432714, 4.776293),
}


@pytest.mark.parametrize("snr", REFERENCE)
def test_the_numbers_are_those_of_the_usual_program(snr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    need(*NAMES)
    clean = speech_like(3.0)
    scores = score(NAMES, clean + noise_like(clean, snr), clean)
    assert tuple(scores.values()) == pytest.approx(REFERENCE[snr], abs=2e-5)
    monkeypatch.setattr(composite, "AT_A_TIME", 100)
    assert score(NAMES, clean + noise_like(clean, snr), clean) == pytest.approx(scores, abs=1e-9)


def test_a_copy_is_best_and_segmental_snr_has_limits() -> None:
    clean = speech_like(1.0)
    assert composite.segmental_snr(clean, clean) == 35
    assert composite.segmental_snr(-9 * clean, clean) == -10
    if not available_metrics()["covl"]:
        assert score(NAMES[1:], clean, clean) == {"csig": 5.0, "cbak": 5.0, "covl": 5.0}


def test_silent_frames_do_not_count_and_too_little_is_said() -> None:
    clean = speech_like(1.0)
    clean[:4000] = 0
    assert np.isfinite(composite._mean_of_better(composite._likelihood_ratios, clean / 2, clean))
    assert score(["ssnr"], clean[:500], clean[5000:5500]).reasons == {"ssnr": "ValueError: fewer than 600 samples"}
    with pytest.raises(ValueError, match="no frame has sound in both signals"):
        composite._mean_of_better(
            composite._likelihood_ratios, np.where(clean, 0, 1).astype(np.float32)[:4000], clean[:4000]
        )
