"""Speaker similarity with the encoder of resemblyzer, on one thread.

resemblyzer itself needs webrtcvad, which compiles C and would cut pauses of the noisy and the clean signal
differently. Only its weights are used; the embedding is the same, and a test compares the two.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

if TYPE_CHECKING:
    from torch.nn import ModuleDict

HOP = 160  # samples
BANDS, SIZE, LAYERS = 40, 256, 3
WINDOW, STEP = 160, 77  # frames: of a window, and from one to the next
COVERAGE = 0.75  # of the last window, which is left out if it has less sound
LEVEL = 10 ** (-30 / 20)  # RMS to which quieter signals are raised


def similarity(estimate: Samples, clean: Samples) -> float:
    """Return the cosine of the two speakers' embeddings, 0 to 1, of samples as in `embedding`."""
    return float(embedding(estimate) @ embedding(clean))


def embedding(samples: Samples) -> Samples:
    """Return the speaker's embedding [SIZE] of length 1, the mean over windows of 1.6 s.

    samples: [samples] at 16 kHz, not silent; raised to an RMS of -30 dBFS if quieter.

    Source: Wan et al. 2018 (arXiv 1710.10467), weights and windows of resemblyzer.
    """
    import librosa
    import torch

    from sbm_cli.stream.torch_chain import threads

    samples = samples * max(1.0, LEVEL / np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    starts = list(range(0, max(1, samples.size // HOP + 2 - WINDOW + STEP), STEP))
    if len(starts) > 1 and samples.size - starts[-1] * HOP < COVERAGE * WINDOW * HOP:
        starts.pop()
    samples = np.pad(samples, (0, max(0, (starts[-1] + WINDOW) * HOP - samples.size))).astype(np.float32)
    mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=400, hop_length=HOP, n_mels=BANDS).T
    windows = torch.from_numpy(np.stack([mel[start : start + WINDOW] for start in starts]))  # [windows, frames, bands]
    encoder = _encoder()
    with threads(1), torch.inference_mode():
        _, (hidden, _) = encoder["lstm"](windows)
        each = torch.nn.functional.normalize(encoder["linear"](hidden[-1]).relu())  # [windows, SIZE]
        return torch.nn.functional.normalize(each.mean(0), dim=0).numpy()


@lru_cache
def _encoder() -> ModuleDict:
    import torch

    spec = find_spec("resemblyzer")
    assert spec is not None and spec.origin is not None  # as its metric needs it
    encoder = torch.nn.ModuleDict(
        {"lstm": torch.nn.LSTM(BANDS, SIZE, LAYERS, batch_first=True), "linear": torch.nn.Linear(SIZE, SIZE)}
    )
    state = torch.load(Path(spec.origin).parent / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
    encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith("similarity")})
    return encoder


METRICS = (
    Metric(
        "speaker", "speaker similarity", "", similarity, needs_sound=True, extra="speaker", packages=("resemblyzer",)
    ),
)
