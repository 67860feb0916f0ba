"""Operations as Triton kernels for CUDA, in float32 inside whatever float types come."""

from __future__ import annotations

import torch
import triton

from sbm_cli.nn.kernels.triton import band_conv, conv, scan

OPERATIONS = {
    "selective_scan": scan.selective_scan,
    "causal_conv1d": conv.causal_conv1d,
    "band_conv": band_conv.band_conv,
}


def missing() -> str:
    """Return "" if the kernels can run, otherwise why not."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):  # no tuples in kernels
        return f"the Triton scan needs Triton 3.3, found {triton.__version__}: pip install --upgrade torch"
    if torch.cuda.is_available() or not isinstance(scan.scan_forward, triton.JITFunction):  # or in Triton's interpreter
        return ""
    return "the Triton scan needs an NVIDIA GPU"
