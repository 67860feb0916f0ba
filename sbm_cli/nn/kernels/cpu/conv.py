"""Causal convolution along time with SiLU on tensors of the CPU, and its gradient.

Channels fill whole vectors; taps [K, channel], before [batch, band, K - 1, channel].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sbm_cli.compiled.conv import TAPS, conv_backward, conv_forward
from sbm_cli.compiled.rows import CHUNK, Rows
from sbm_cli.nn.kernels.cpu.tensors import SERIAL, array_of, parts_of, rows_of, run_kernel, sum_of


def convolve(shape: torch.Size, dtype: torch.dtype, x: Rows, arrays: Sequence[Any], before: Tensor) -> Tensor:
    """Return the convolution of x, of that shape and type; arrays: taps and bias."""
    batch, time, band, channel = shape
    y = before.new_empty(shape, dtype=dtype)
    scratch, serial = CHUNK * (2 * TAPS - 2) * channel, y.numel() < SERIAL
    tensors = x, *arrays, array_of(before), *parts_of(y, channel)
    run_kernel(conv_forward, batch * band, scratch, band, time, *tensors, serial=serial)
    return y


def conv_gradients(
    x: Tensor, taps: Tensor, bias: Tensor, before: Tensor, gy: Tensor, gx: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill gx; return the gradients of taps, bias and before."""
    batch, time, band, channel = x.shape
    chunks = -(-batch * band // CHUNK)
    gbefore = bias.new_empty(before.shape)
    gtaps, gbias = bias.new_zeros(chunks, TAPS, channel), bias.new_zeros(chunks, channel)
    inputs = rows_of(x), array_of(taps), array_of(bias), array_of(before), rows_of(gy)
    outputs = rows_of(gx), array_of(gbefore), array_of(gtaps), array_of(gbias)
    run_kernel(conv_backward, batch * band, CHUNK * (3 * TAPS - 2) * channel, band, time, *inputs, *outputs)
    return sum_of(gtaps), sum_of(gbias), gbefore


def last_inputs(x: Tensor, before: Tensor) -> Tensor:
    """Return the last K - 1 inputs of the convolution, [batch, band, K - 1, channel]."""
    ending = x[:, max(0, x.shape[1] - TAPS + 1) :].permute(0, 2, 1, 3)
    return torch.cat([before[:, :, ending.shape[2] :], ending], 2)
