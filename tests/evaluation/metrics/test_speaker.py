"""Speaker similarity against resemblyzer itself."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from sbm_cli.evaluation.metrics import available_metrics, score, speaker
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.timing.clips import speech_like


@pytest.fixture(autouse=True)
def weights() -> None:
    if reason := available_metrics()["speaker"]:
        pytest.skip(f"speaker: {reason}")


@pytest.mark.parametrize("seconds", [0.3, 1.6, 2.8, 3.0, 7.3])  # padded; one window; a last one left out, kept; many
@pytest.mark.parametrize("gain", [0.02, 3.0])  # raised to -30 dB; louder
def test_embedding_equals_that_of_resemblyzer(seconds: float, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webrtcvad", ModuleType("webrtcvad"))  # cuts pauses: not asked for here
    morphology = ModuleType("scipy.ndimage.morphology")  # leaves SciPy with 2.0
    monkeypatch.setattr(morphology, "binary_dilation", None, raising=False)
    monkeypatch.setitem(sys.modules, morphology.__name__, morphology)
    import resemblyzer

    clip = gain * speech_like(seconds, RATE)
    levelled = resemblyzer.normalize_volume(clip, -30, increase_only=True)
    theirs = resemblyzer.VoiceEncoder("cpu", verbose=False).embed_utterance(levelled)
    assert np.allclose(speaker.embedding(clip), theirs, atol=1e-5)


def test_a_speaker_is_like_himself_at_any_low_level_and_less_like_noise() -> None:
    clip = 0.1 * speech_like(2.0, RATE)
    noise = np.random.default_rng(0).standard_normal(clip.size).astype(np.float32)
    assert score(["speaker"], 0.1 * clip, clip)["speaker"] == pytest.approx(1.0, abs=1e-5)
    assert (score(["speaker"], clip + 0.1 * noise, clip)["speaker"] or 1.0) < 0.99


def test_what_cannot_be_compared_is_none_and_says_why() -> None:
    clip = speech_like(1.0, RATE)
    silence, broken = np.zeros_like(clip), np.full_like(clip, np.nan)
    for estimate, clean, reason in (
        (clip, None, "no clean reference"),
        (clip[:0], clip[:0], "no samples"),
        (broken, clip, "samples are not finite"),
        (clip, silence, "the clean reference is silent"),
        (silence, clip, "the estimate is silent"),
    ):
        scores = score(["speaker"], estimate, clean)
        assert scores == {"speaker": None} and scores.reasons == {"speaker": reason}
    assert score(["speaker"], clip[:1], clip[:1])["speaker"] == pytest.approx(1.0, abs=1e-5)
