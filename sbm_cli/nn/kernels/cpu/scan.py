"""Selective scan on tensors of the CPU, and its gradient: float32 [batch, time, band, channel] of whole vectors.

rates = A log2(e), [state, channel]; states lie as [batch, band, state, channel]. dt is what the steps are projected
from, by weight [rank, channel] and bias.

Sums over sequences (weight, bias, A, D) run in chunks of fixed size: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sbm_cli.compiled.rows import CHUNK, Rows
from sbm_cli.compiled.scan import BACKWARD_ROWS, FORWARD_ROWS, KEPT, SEGMENT, scan_backward, scan_forward
from sbm_cli.compiled.vector import LANES
from sbm_cli.nn.kernels.cpu.tensors import SERIAL, array_of, parts_of, rows_of, run_kernel, sum_of


def scan(
    shape: torch.Size, dtype: torch.dtype, rows: Sequence[Rows], arrays: Sequence[Any], before: Tensor, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the states after the last frame, and those that backward starts its segments from.

    shape, dtype: of u and y; rows: u, dt, B, C, z; arrays: weight, bias, rates, D.
    """
    (batch, time, band, channel), (u, dt, B, C, z), (weight, bias, rates, D) = shape, rows, arrays
    kept = before.new_empty(batch * band * -(-time // SEGMENT) * rates.size if train else 0)
    y, h = before.new_empty(shape, dtype=dtype), before.new_empty(before.shape)
    inputs = u, dt, weight, bias, rates, B, C, D, z
    scratch, serial = FORWARD_ROWS * SEGMENT * channel, y.numel() < SERIAL
    outputs = array_of(before), array_of(h), array_of(kept), *parts_of(y, channel)
    run_kernel(scan_forward, batch * band, scratch, band, time, *inputs, *outputs, serial=serial)
    return y, h, kept


def scan_gradients(
    tensors: Sequence[Tensor], kept: Tensor, gy: Tensor, gh: Tensor, out: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Fill out, the gradients of u, dt, z, B and C; return those of weight, bias, rates and D.

    gh becomes the gradient of the first state. The gradient of u may take the place of gy.
    """
    u, dt, weight, bias, rates, B, C, D, z = tensors
    batch, time, band, channel = u.shape
    state, rank = rates.shape[0], weight.numel() // channel
    chunks = -(-batch * band // CHUNK)
    sums = [D.new_zeros(chunks, *x.shape) for x in (weight, bias, rates, D)]
    weights = map(array_of, (weight, bias, rates))
    inputs = rows_of(u), rows_of(dt), *weights, rows_of(B), rows_of(C), array_of(D), rows_of(z)
    outputs = array_of(gh), *map(rows_of, out), *map(array_of, sums)
    lanes = max(2 * state, rank) * LANES + max(2 * state, rank)
    scratch = SEGMENT * (BACKWARD_ROWS * channel + lanes + 2 * KEPT)
    run_kernel(scan_backward, batch * band, scratch, band, time, *inputs, array_of(kept), rows_of(gy), *outputs)
    return tuple(map(sum_of, sums))
