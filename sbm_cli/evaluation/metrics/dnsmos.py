"""DNSMOS P.835 and P.808 with the models of speechmos, on one thread.

speechmos.dnsmos itself lets every session take all cores: results would depend on the machine, and parallel workers
would slow each other down. Models and mapping are the same here; a test compares the two.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SECONDS = 9.01  # of a window; the next begins a second later
WINDOW = 144_160  # samples
P835_MAPPING = {  # raw output to MOS: polynomials of speechmos.dnsmos, highest power first
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


def p835(samples: Samples) -> dict[str, float]:
    """Return DNSMOS P.835 as MOS: "sig" (speech), "bak" (background), "ovrl" (overall); means over the windows.

    samples: [samples] at 16 kHz, clamped to ±1 as in a file. Signals shorter than a window are repeated.

    Source: Reddy et al. 2022 (arXiv 2110.01763), models and mapping of speechmos.
    """
    session = _session("sig_bak_ovr.onnx")
    raw = [session.run(None, {"input_1": window[None]})[0][0] for window in windows(samples)]
    columns = zip(P835_MAPPING.items(), np.array(raw, dtype=np.float64).T, strict=True)
    return {name: float(np.mean(np.polyval(mapping, column))) for (name, mapping), column in columns}


def p808(samples: Samples) -> float:
    """Return DNSMOS P.808 as MOS, the mean over the windows; samples as in `p835`.

    Source: Reddy et al. 2021 (arXiv 2010.15258), model of speechmos.
    """
    session = _session("model_v8.onnx")
    raw = [session.run(None, {"input_1": _log_mel(window[:-160])[None]})[0][0][0] for window in windows(samples)]
    return float(np.mean(raw))


_PACKAGES = ("speechmos", "onnxruntime", "librosa")
METRICS = (
    *(
        Metric(name, f"DNSMOS {name.upper()}", "MOS", p835, needs_clean=False, extra="metrics", packages=_PACKAGES)
        for name in P835_MAPPING
    ),
    Metric("p808", "DNSMOS P.808", "MOS", p808, needs_clean=False, extra="metrics", packages=_PACKAGES),
)


def windows(samples: Samples) -> list[Samples]:
    """Return the windows to score, each [WINDOW]."""
    if not samples.size:
        raise ValueError("no samples to score")
    samples = np.clip(samples, -1, 1)
    while samples.size < WINDOW:
        samples = np.concatenate([samples, samples])
    # As in the published script, whose rounding leaves out windows 7 to 23 and a few later ones (a sample short);
    # only the same windows give comparable scores.
    count = int(samples.size // RATE - SECONDS) + 1
    candidates = [samples[index * RATE : int((index + SECONDS) * RATE)] for index in range(count)]
    return [window for window in candidates if window.size == WINDOW]


def _log_mel(samples: Samples) -> Samples:
    import librosa

    with warnings.catch_warnings():
        # 120 bands on 161 bins leave the lowest ones empty, as in the training of the model.
        warnings.filterwarnings("ignore", message="Empty filters detected", category=UserWarning)
        mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=321, hop_length=160, n_mels=120)
    log: Samples = (librosa.power_to_db(mel, ref=np.max) + 40) / 40
    return log.T.astype(np.float32)  # [frames, 120]


@lru_cache
def _session(file: str) -> InferenceSession:
    import onnxruntime

    spec = find_spec("speechmos")  # without importing speechmos.dnsmos and what it imports
    assert spec is not None and spec.origin is not None  # as its metrics need it
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(spec.origin).parent / "dnsmos_models" / file
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
