"""A whole Mamba block on the CPU, with a joint backward.

Convolution and scan are of float32 [batch, time, band, channel], and channels fill whole vectors: taps [K, channel],
before [batch, band, K - 1, channel]; rates = A log2(e), [state, channel]; states lie as [batch, band, state, channel].
dt is what the steps are projected from, by weight [rank, channel] and bias. Sums over sequences (taps, weight, biases,
A, D) run in chunks of fixed size: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sbm_cli.compiled.conv import TAPS, conv_backward, conv_forward
from sbm_cli.compiled.rows import CHUNK, Rows
from sbm_cli.compiled.scan import BACKWARD_ROWS, FORWARD_ROWS, GROUP, KEPT, SEGMENT, scan_backward, scan_forward
from sbm_cli.compiled.vector import LANES, LN2, LOG2E
from sbm_cli.nn.kernels import MambaCarry, MambaWeights, reference
from sbm_cli.nn.kernels.cpu.tensors import SERIAL, array_of, parts_of, rows_of, run_kernel, sum_of
from sbm_cli.nn.kernels.dispatch import differentiates


def _mamba(
    tensors: Sequence[Tensor], arrays: Sequence[Any], train: bool, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """Run the whole block: x [batch, time, band, channel]; convolution and scan as in `convolve` and `scan`.

    step_weight: [rank, channel]; arrays: taps, conv_bias, step_weight, step_bias, rates and D once more; dtype: of the
    products and of what lies between them, float32 or bfloat16; convolution and scan compute in float32. Returns the
    output, the inputs of the convolution and the last states; and what backward needs.
    """
    x, in_proj, taps, conv_bias, before, x_proj, step_weight, step_bias, rates, D, out_proj, h = tensors
    x, in_proj, x_proj, out_proj = (part.to(dtype) for part in (x, in_proj, x_proj, out_proj))
    inner, rank, state = len(D), len(step_weight), len(rates)
    shape = torch.Size((*x.shape[:3], inner))
    wide = F.linear(x, in_proj)
    v, z = parts_of(wide, inner, inner)
    u = convolve(shape, dtype, v, arrays[:2], before)
    narrow = F.linear(u, x_proj).float()
    low, B, C = parts_of(narrow, rank, state, state)
    y, h, kept = scan(shape, dtype, (*parts_of(u, inner), low, B, C, z), arrays[2:], h, train)
    weights = in_proj, taps, conv_bias, before, x_proj, step_weight, step_bias, rates, D, out_proj
    ending = wide[:, max(0, x.shape[1] - TAPS + 1) :, :, :inner].permute(0, 2, 1, 3)
    after = torch.cat([before[:, :, ending.shape[2] :], ending], 2)
    return (F.linear(y, out_proj), after, h), (x, wide, u, narrow, y, kept, *weights)


class _Mamba(torch.autograd.Function):
    """`_mamba` with a backward that writes every gradient where the next product reads it."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, arrays, train, dtype = inputs
        ctx.types = tensors[0].dtype, tensors[1].dtype
        results, needed = _mamba(tensors, arrays, train, dtype)
        ctx.save_for_backward(*needed)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gout: Tensor | None, gafter: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        x, wide, u, narrow, y, kept, in_proj, taps, conv_bias, before, x_proj, weight, bias, rates, D, out_proj = (
            ctx.saved_tensors
        )
        split, dtype, (x_dtype, weight_dtype) = [len(weight), len(rates), len(rates)], x.dtype, ctx.types
        gh = rates.new_zeros(x.shape[0], x.shape[2], *rates.shape) if gh is None else gh.clone().contiguous()
        gout = x.new_zeros(x.shape) if gout is None else gout.reshape(x.shape)
        gwide, gnarrow = wide.new_empty(wide.shape), narrow.new_empty(narrow.shape)
        (v, z), (gv, gz) = wide.chunk(2, -1), gwide.chunk(2, -1)
        (low, B, C), (glow, gB, gC) = narrow.split(split, -1), gnarrow.split(split, -1)
        gy = gu = gout @ out_proj
        tensors = u, low, weight, bias, rates, B, C, D, z
        gweight, gbias, grates, gD = scan_gradients(tensors, kept, gy, gh, (gu, glow, gz, gB, gC))
        gnarrow = gnarrow.to(dtype)
        _flat(gu).addmm_(_flat(gnarrow), x_proj)
        gtaps, gconv_bias, gbefore = conv_gradients(v, taps, conv_bias, before, gu, gv)
        if gafter is not None:
            own = min(TAPS - 1, x.shape[1])  # of the last inputs; the others came before the first frame
            gv[:, x.shape[1] - own :] += gafter[:, :, TAPS - 1 - own :].transpose(1, 2)
            gbefore[:, :, own:] += gafter[:, :, : TAPS - 1 - own]
        gx = (gwide @ in_proj).to(x_dtype)
        pairs = (gwide, x), (gnarrow, u), (gout, y)
        gin_proj, gx_proj, gout_proj = (
            (grad.flatten(0, -2).t() @ part.flatten(0, -2)).to(weight_dtype) for grad, part in pairs
        )
        return (
            gx, gin_proj, gtaps, gconv_bias, gbefore, gx_proj, gweight, gbias, grates * LN2, gD, gout_proj, gh,
            None, None, None,
        )  # fmt: skip


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def mamba(x: Tensor, weights: MambaWeights, carry: MambaCarry | None = None) -> tuple[Tensor, MambaCarry]:
    """Run a Mamba block (as `reference.mamba`); convolution and scan compute in float32."""
    dtype, (inner, states) = _products_in(x), weights.A.shape
    if dtype is None or weights.conv[0].shape[2] != TAPS or weights.D.dtype != torch.float32:
        return reference.mamba(x, weights, carry)
    more, more_states = -inner % LANES, -states % GROUP
    if more or more_states:
        weights, carry = _filled_up(weights, carry, more, more_states)
    (taps, conv_bias, weight, bias, rates, D), arrays = _turned(weights)
    before, h = _begin(x, rates, carry)
    in_proj, x_proj, out_proj = weights.in_proj, weights.x_proj, weights.out_proj
    tensors = x, in_proj, taps, conv_bias, before, x_proj, weight, bias, rates, D, out_proj, h
    train = differentiates(*tensors)
    # Without a gradient not through autograd, whose call takes as long as a short block.
    with torch.autocast("cpu", enabled=False):  # the products are in `dtype`
        results = _Mamba.apply(*tensors, arrays, train, dtype) if train else _mamba(tensors, arrays, train, dtype)[0]
    y, after, h = results
    if more or more_states:  # only then: the gradient of a slice is a copy
        after, h = after[..., :inner], h[..., :states, :inner]
    return y, (after.mT, h.mT)


def _filled_up(
    weights: MambaWeights, carry: MambaCarry | None, more: int, more_states: int
) -> tuple[MambaWeights, MambaCarry | None]:
    """Return weights and carry with so many more channels and states, which stay zero: kernels know whole vectors."""
    in_proj, (conv, conv_bias), x_proj, (dt_proj, dt_bias), A, D, out_proj = weights
    low, B, C = x_proj.split([dt_proj.shape[1], A.shape[1], A.shape[1]])
    filled = MambaWeights(
        F.pad(in_proj.unflatten(0, (2, -1)), (0, 0, 0, more)).flatten(0, 1),
        (F.pad(conv, (0, 0, 0, 0, 0, more)), F.pad(conv_bias, (0, more))),
        F.pad(torch.cat([low, *(F.pad(part, (0, 0, 0, more_states)) for part in (B, C))]), (0, more)),
        (F.pad(dt_proj, (0, 0, 0, more)), F.pad(dt_bias, (0, more))),
        F.pad(A, (0, more_states, 0, more)),
        F.pad(D, (0, more)),
        F.pad(out_proj, (0, more)),
    )
    if carry is not None:
        carry = F.pad(carry[0], (0, 0, 0, more)), F.pad(carry[1], (0, more_states, 0, more))
    return filled, carry


def _products_in(x: Tensor) -> torch.dtype | None:
    """Return the type of the products, in autocast to float16 too float32; None if the kernels do not support it."""
    if torch.is_autocast_enabled("cpu"):
        return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else torch.float32
    return x.dtype if x.dtype in (torch.float32, torch.bfloat16) else None


def _begin(x: Tensor, rates: Tensor, carry: MambaCarry | None) -> MambaCarry:
    """Return what came before the first frame, as convolution and scan want it."""
    if carry is not None:
        return carry[0].mT, carry[1].mT
    shape = x.shape[0], x.shape[2]
    return rates.new_zeros(*shape, TAPS - 1, rates.shape[1]), rates.new_zeros(*shape, *rates.shape)


def _turned(weights: MambaWeights) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Return taps [K, channel] and bias, weight [rank, channel] and bias of the steps, rates [state, channel], and D.

    All of them as tensors, and for the kernels.
    """
    (conv, conv_bias), (step_weight, step_bias) = weights.conv, weights.dt_proj
    tensors = conv[:, 0].t(), conv_bias, step_weight.t(), step_bias, weights.A.t() * LOG2E, weights.D
    return tensors, tuple(map(array_of, tensors))


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
