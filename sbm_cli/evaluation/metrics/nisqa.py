"""NISQA 2.0 with the network of torchmetrics, but without its automatic download of weights."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric

# Overall MOS, then dimensions on which 5 means no noise, no breaks, no coloration, the right loudness; in the order of
# the network, which is not that of the papers.
LABELS = {
    "nisqa": "NISQA",
    "nisqa_noisiness": "NISQA noisiness",
    "nisqa_discontinuity": "NISQA breaks",
    "nisqa_coloration": "NISQA coloration",
    "nisqa_loudness": "NISQA loudness",
}
FILE = "nisqa.tar"  # the name that torchmetrics uses


def nisqa(samples: Samples) -> dict[str, float]:
    """Return the MOS and its four dimensions, about 1 to 5.

    samples: [samples] at 16 kHz, 0.2 to 52 s. The network takes any rate; at this one its bands above 8 kHz are empty,
    and scores do not compare with those of recordings at 48 kHz.

    Raises RuntimeError if they are too short or too long.

    Source: Mittag et al. 2021 (arXiv 2104.09494), weights of its authors, network of torchmetrics.
    """
    import torch
    from torchmetrics.functional.audio import nisqa as theirs

    from sbm_cli.stream.torch_chain import threads

    theirs.NISQA_DIR = str(_folder())
    with threads(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_fft=4096 is too large", category=UserWarning)  # below 0.26 s
        scores = theirs.non_intrusive_speech_quality_assessment(torch.from_numpy(samples), RATE)
    return dict(zip(LABELS, scores.tolist(), strict=True))


def missing_weights() -> str:
    """Return "" if the weights are present, otherwise how to get them."""
    if (_folder() / FILE).is_file():
        return ""
    return (
        f"no weights: download weights/{FILE} from github.com/gabrielmittag/NISQA (CC BY-NC-SA 4.0, non-commercial) "
        f"to {_folder()}, or set SBM_NISQA to its folder"
    )


def _folder() -> Path:
    return Path(os.path.expanduser(os.environ.get("SBM_NISQA") or "~/.torchmetrics/NISQA"))  # stays ~ without a home


_PACKAGES = ("torchmetrics", "requests")
METRICS = tuple(
    Metric(
        name,
        label,
        "MOS",
        nisqa,
        needs_clean=False,
        extra="metrics",
        packages=_PACKAGES,
        missing_weights=missing_weights,
    )
    for name, label in LABELS.items()
)
