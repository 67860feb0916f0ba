"""Causal convolution along time with SiLU on the CPU, forward and backward, for a kernel of TAPS frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sbm_cli.nn.kernels import reference
from sbm_cli.nn.kernels.cpu.jit import jit
from sbm_cli.nn.kernels.cpu.tensors import CHUNK, SERIAL, Rows, array_of, origin, parts_of, rows_of, run_kernel, sum_of
from sbm_cli.nn.kernels.cpu.vector import LANES, load, sigmoid, splat, store

TAPS = 4


@jit
def conv_sum(x, at, step, taps, bias, i, channels):
    """Return the sum over the taps; at: where the newest input lies, step: how far before it the previous one."""
    total = load(bias, i)
    for j in range(TAPS):
        total = total + load(taps, j * channels + i) * load(x, at - (TAPS - 1 - j) * step)
    return total


@jit
def conv_row(x, at, step, taps, bias, y, out):
    for i in range(0, bias.size, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, bias.size)
        store(y, out + i, total * sigmoid(total))


@jit
def conv_row_backward(x, at, step, taps, bias, gy, gout, scratch, ring, gtaps, grad_taps, gbias, grad_bias):
    """Write the gradient of the sums of a row to the ring; add up those of taps and bias."""
    channels = bias.size
    for i in range(0, channels, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, channels)
        gate = sigmoid(total)
        grad = load(gy, gout + i) * (gate * (1.0 + total * (1.0 - gate)))
        store(scratch, ring + i, grad)
        store(gbias, grad_bias + i, load(gbias, grad_bias + i) + grad)
        for j in range(TAPS):
            t = grad_taps + j * channels + i
            store(gtaps, t, load(gtaps, t) + grad * load(x, at + i - (TAPS - 1 - j) * step))


@jit
def conv_turned(scratch, ring, k, taps, channels, gx, out):
    for i in range(0, channels, LANES):
        result = splat(0.0)
        for j in range(TAPS):
            grad = load(scratch, ring + (k - j) % TAPS * channels + i)
            result = result + grad * load(taps, j * channels + i)
        store(gx, out + i, result)


@jit
def conv_head(group, end, bands, frames, channels, x, before, head):
    """Copy the inputs before the first frame, then the first ones: [sequence, 2 (TAPS - 1), channel]."""
    for sequence in range(group, end):
        for k in range(2 * TAPS - 2):
            for i in range(0, channels, LANES):
                target = ((sequence - group) * (2 * TAPS - 2) + k) * channels + i
                if k < TAPS - 1:
                    store(head, target, load(before, (sequence * (TAPS - 1) + k) * channels + i))
                elif k - TAPS + 1 < frames:
                    store(head, target, load(x.data, origin(x, bands, sequence, k - TAPS + 1) + i))


@jit
def conv_forward(first, last, bands, frames, x, taps, bias, before, y, scratch):
    channels = bias.size
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for k in range(frames):
            for sequence in range(group, end):
                out = origin(y, bands, sequence, k)
                if k < TAPS - 1:
                    at = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels
                    conv_row(scratch, at, channels, taps, bias, y.data, out)
                else:
                    conv_row(x.data, origin(x, bands, sequence, k), x.strides[1], taps, bias, y.data, out)


@jit
def conv_backward(first, last, bands, frames, x, taps, bias, before, gy, gx, gbefore, gtaps, gbias, scratch):
    channels = bias.size
    # The scratch goes on with the gradients of the last sums [sequence, TAPS, channel].
    rings = CHUNK * (2 * TAPS - 2) * channels
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for i in range(0, CHUNK * TAPS * channels, LANES):
            store(scratch, rings + i, splat(0.0))
        grad_taps, grad_bias = group // CHUNK * TAPS * channels, group // CHUNK * channels
        for k in range(frames + TAPS - 1):
            for sequence in range(group, end):
                ring = rings + (sequence - group) * TAPS * channels
                newest = ring + k % TAPS * channels
                if k < min(TAPS - 1, frames):
                    at, step = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels, channels
                    conv_row_backward(
                        scratch, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                elif k < frames:
                    at, step = origin(x, bands, sequence, k), x.strides[1]
                    conv_row_backward(
                        x.data, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                else:
                    for i in range(0, channels, LANES):
                        store(scratch, newest + i, splat(0.0))
                # the input three frames ago is complete: it went into the sums from there to here
                if k < TAPS - 1:
                    conv_turned(scratch, ring, k, taps, channels, gbefore, (sequence * (TAPS - 1) + k) * channels)
                else:
                    out = origin(gx, bands, sequence, k - TAPS + 1)
                    conv_turned(scratch, ring, k, taps, channels, gx.data, out)


def convolve(shape: torch.Size, dtype: torch.dtype, x: Rows, arrays: Sequence[Any], before: Tensor) -> Tensor:
    """Return the convolution of x, of that shape and type; arrays: taps and bias; both and before as in `_Conv`."""
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


class _Conv(torch.autograd.Function):
    """The convolution on whole vectors: taps [K, channel], before [batch, band, K - 1, channel]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, before: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, bias, before)
        return convolve(x.shape, x.dtype, rows_of(x), (array_of(taps), array_of(bias)), before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, taps, bias, before = ctx.saved_tensors
        gx = x.new_empty(x.shape)
        return gx, *conv_gradients(x, taps, bias, before, gy, gx)


def last_inputs(x: Tensor, before: Tensor) -> Tensor:
    """Return the last K - 1 inputs of the convolution, [batch, band, K - 1, channel]."""
    ending = x[:, max(0, x.shape[1] - TAPS + 1) :].permute(0, 2, 1, 3)
    return torch.cat([before[:, :, ending.shape[2] :], ending], 2)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run the compiled convolution in float32 (shapes as in `sbm_cli.nn.kernels.causal_conv1d`)."""
    if weight.shape[2] != TAPS:
        return reference.causal_conv1d(x, weight, bias, carry)
    channel, dtype = x.shape[-1], x.dtype
    x, taps, bias = x.float(), weight[:, 0].t().float(), bias.float()
    before = x.new_zeros(x.shape[0], x.shape[2], TAPS - 1, channel) if carry is None else carry.float().mT
    after, odd = last_inputs(x, before).mT, -channel % LANES
    if odd:
        x, taps, bias, before = (F.pad(part, (0, odd)) for part in (x, taps, bias, before))
    y = _Conv.apply(x, taps, bias, before)
    return (y[..., :channel] if odd else y).to(dtype), after
