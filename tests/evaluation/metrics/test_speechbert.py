"""SpeechBERTScore by hand, with a stub for its encoder, and with an encoder of random weights where it can be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation import metrics as module
from sbm_cli.evaluation.metrics import score, speechbert
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.evaluation.metrics.speechbert import ENCODER, LABELS, LAYER, bert_score
from sbm_cli.timing.clips import speech_like

CLIP = speech_like(0.5, RATE)


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_missing", lambda metric: "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path / f"models--{ENCODER.replace('/', '--')}"


def test_the_score_by_hand() -> None:
    estimate = np.array([[1, 0], [0, 1]], dtype=np.float32)
    clean = np.array([[3, 0], [2, 2], [-1, 0]], dtype=np.float32)
    # Cosines 1, r, -1 and 0, r, 0, with r = 1 / sqrt 2: the best of each row, then of each column.
    r = 0.5**0.5
    precision, recall = (1 + r) / 2, (1 + r + 0) / 3
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert bert_score(estimate, clean) == pytest.approx(expected)
    assert bert_score(clean, estimate) == pytest.approx((expected[1], expected[0], expected[2]))
    assert bert_score(clean, 5 * clean[::-1]) == pytest.approx((1.0, 1.0, 1.0))


def test_the_three_scores_share_one_run(present: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def features(samples: Samples) -> Samples:
        calls.append(samples.size)
        return samples.reshape(-1, 100)

    monkeypatch.setattr(speechbert, "features", features)
    assert score(tuple(LABELS), CLIP, CLIP) == pytest.approx(dict.fromkeys(LABELS, 1.0))
    assert calls == [CLIP.size, CLIP.size]
    assert (score(tuple(LABELS), CLIP + CLIP[::-1], CLIP)["sbs_f1"] or 1.0) < 0.95


def test_what_cannot_be_compared_is_none_and_says_why(present: None) -> None:
    for estimate, clean, reason in (
        (CLIP, None, "no clean reference"),
        (CLIP[:0], CLIP[:0], "no samples"),
        (np.full_like(CLIP, np.nan), CLIP, "samples are not finite"),
        (CLIP, np.zeros_like(CLIP), "the clean reference is silent"),
    ):
        scores = score(tuple(LABELS), estimate, clean)
        assert scores == dict.fromkeys(LABELS) and scores.reasons == dict.fromkeys(LABELS, reason)


def test_without_the_encoder_the_reason_says_how_to_get_it(cache: Path) -> None:
    assert speechbert.missing_weights() == "no weights: hf download microsoft/wavlm-large"


def test_features_are_those_of_the_named_layer_without_a_network(
    cache: Path, present: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers not installed: SpeechBERTScore's encoder")
    snapshot = cache / "snapshots" / ("0" * 40)
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=32, num_hidden_layers=LAYER + 2, num_attention_heads=2, intermediate_size=32, conv_dim=[16] * 7
    )
    transformers.WavLMModel(config).save_pretrained(snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(speechbert, "_encoder", speechbert._encoder.__wrapped__)
    model = transformers.WavLMModel.from_pretrained(snapshot).eval()
    layers: list[torch.Tensor] = []
    model.encoder.layers[LAYER - 1].register_forward_hook(lambda *call: layers.append(call[-1][0]))
    with torch.inference_mode():
        model(torch.from_numpy(CLIP)[None])
    found = speechbert.features(CLIP)
    assert found.shape == (24, 32)  # 20 ms each
    assert np.allclose(found, layers[0][0].numpy(), atol=1e-5)
    short = score(tuple(LABELS), CLIP[:100], CLIP[:100])
    assert short == dict.fromkeys(LABELS) and "RuntimeError" in short.reasons["sbs_f1"]
