"""Selective scan on tensors of the CPU, with its gradient.

Sums over sequences (weight, bias, A, D) run in chunks of fixed size: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sbm_cli.compiled.rows import CHUNK, Rows
from sbm_cli.compiled.scan import BACKWARD_ROWS, FORWARD_ROWS, GROUP, KEPT, SEGMENT, scan_backward, scan_forward
from sbm_cli.compiled.vector import LANES, LN2, LOG2E
from sbm_cli.nn.kernels.cpu.tensors import SERIAL, array_of, parts_of, rows_of, run_kernel, sum_of
from sbm_cli.nn.kernels.dispatch import differentiates

NOTHING = torch.empty(0, dtype=torch.float32, device="cpu")


def scan(
    shape: torch.Size, dtype: torch.dtype, rows: Sequence[Rows], arrays: Sequence[Any], before: Tensor, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the states after the last frame, and those that backward starts its segments from.

    shape, dtype: of u and y; rows: u, dt, B, C, z; arrays: weight, bias, rates, D; both as in `_Scan`.
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


class _Scan(torch.autograd.Function):
    """The scan on whole vectors: rates = A log2(e) [state, channel], h [batch, band, state, channel]."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        u, dt, rates, B, C, D, z, h, train = inputs
        rows, arrays = map(rows_of, (u, dt, B, C, z)), map(array_of, (NOTHING, NOTHING, rates, D))
        y, h, kept = scan(u.shape, u.dtype, tuple(rows), tuple(arrays), h, train)
        ctx.save_for_backward(u, dt, rates, B, C, D, z, kept)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gh: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, rates, B, C, D, z, kept = ctx.saved_tensors
        gh = gh.clone(memory_format=torch.contiguous_format)
        gu, gdt, gz, gB, gC = out = [D.new_empty(x.shape) for x in (u, dt, z, B, C)]
        tensors = u, dt, NOTHING, NOTHING, rates, B, C, D, z
        _, _, grates, gD = scan_gradients(tensors, kept, gy, gh, out)
        return gu, gdt, grates * LN2, gB, gC, gD, gz, gh, None


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the compiled scan in float32 (shapes as in `reference.selective_scan`)."""
    (channel, state), dtype = A.shape, u.dtype
    u, dt, A, B, C, D, z = (x.float() for x in (u, dt, A, B, C, D, z))
    odd, odd_state = -channel % LANES, -state % GROUP
    if odd or odd_state:  # the kernels know whole vectors only: fill up with channels and states that stay zero
        u, dt, z, D = (F.pad(x, (0, odd)) for x in (u, dt, z, D))
        B, C = F.pad(B, (0, odd_state)), F.pad(C, (0, odd_state))
        A = F.pad(A, (0, odd_state, 0, odd))
        carry = None if carry is None else F.pad(carry, (0, odd_state, 0, odd))
    h = u.new_zeros(u.shape[0], u.shape[2], *A.t().shape) if carry is None else carry.float().transpose(-1, -2)
    train = differentiates(u, dt, A, B, C, D, z, h)
    y, h = _Scan.apply(u, dt, A.t() * LOG2E, B, C, D, z, h, train)
    if odd or odd_state:  # only then: the gradient of a slice is a copy
        y, h = y[..., :channel], h[..., :state, :channel]
    return y.to(dtype), h.transpose(-1, -2)
