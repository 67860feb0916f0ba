"""Rows of channels: how kernels load them, and how tensors with any strides reach the kernels."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def load_row(x, at, inside, other=0.0):
    return tl.load(x + at, inside, other).to(tl.float32)


def strided(*tensors: Tensor) -> list[Any]:
    """Return every tensor with the strides of its first three axes; channels must adjoin."""
    rows = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    return [argument for x in rows for argument in (x, *x.stride()[:3])]


def empty(*shape: int, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
