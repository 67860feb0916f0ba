"""SpeechBERTScore: how well the frames of two signals match in the features of WavLM-large."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import Metric

ENCODER, LAYER = "microsoft/wavlm-large", 14  # the paper's best
LABELS = {
    "sbs_precision": "SpeechBERTScore",
    "sbs_recall": "SpeechBERTScore recall",
    "sbs_f1": "SpeechBERTScore F1",
}


def speechbert(estimate: Samples, clean: Samples) -> dict[str, float]:
    """Return SpeechBERTScore: precision (which its authors use), recall and F1, at most 1.

    estimate, clean: [samples] at 16 kHz, at the level they have, as in the authors' program.

    Source: Saeki et al. 2024 (arXiv 2401.16812).
    """
    return dict(zip(LABELS, bert_score(features(estimate), features(clean)), strict=True))


def bert_score(estimate: Samples, clean: Samples) -> tuple[float, float, float]:
    """Return precision, recall and F1 of features [frames, dimensions]; the numbers of frames may differ.

    Source: Saeki et al. 2024; Zhang et al. 2020 (arXiv 1904.09675).
    """
    pair = (estimate.astype(np.float64), clean.astype(np.float64))
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pair)
    cosines = a @ b.T  # [frames of the estimate, frames of clean]
    precision, recall = float(cosines.max(1).mean()), float(cosines.max(0).mean())
    return precision, recall, 2 * precision * recall / (precision + recall)


def features(samples: Samples) -> Samples:
    """Return the encoder's features [frames, dimensions], one frame every 20 ms."""
    import torch

    from sbm_cli.stream.torch_chain import threads

    with threads(1), torch.inference_mode():
        layers = _encoder()(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states
        return layers[LAYER][0].numpy()


def missing_weights() -> str:
    """Return "" if the encoder (1.3 GB) is in the Hugging Face cache, otherwise how to get it."""
    return "" if _folder() else f"no weights: hf download {ENCODER}"


def _folder() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(ENCODER, "config.json")
    return Path(config).parent if isinstance(config, str) else None


@lru_cache
def _encoder() -> Callable[..., Any]:
    from transformers import WavLMModel

    # Loaded from its folder, so that the hub is asked neither for the weights nor for a better format.
    return WavLMModel.from_pretrained(_folder())  # in evaluation mode


METRICS = tuple(
    Metric(name, label, "", speechbert, extra="speechbert", packages=("transformers",), missing_weights=missing_weights)
    for name, label in LABELS.items()
)
