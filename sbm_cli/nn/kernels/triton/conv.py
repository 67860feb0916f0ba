"""The causal convolution along time as Triton kernels for CUDA, forward and backward, in float32."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from sbm_cli.nn.kernels.triton.tensors import empty, load_row, strided

FRAMES, BLOCK, WARPS = 16, 64, 1  # of a program


@triton.jit
def _taps(weight, c, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
    taps = ()
    for i in tl.static_range(TAPS):
        taps = taps + (load_row(weight, i * CHANNELS + c, c < CHANNELS),)
    return taps


@triton.jit
def _inputs(
    x, x1: tl.constexpr, before, start, time, c, CHANNELS: tl.constexpr, TAPS: tl.constexpr, COUNT: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Return the inputs at COUNT frames from `start`, which is at least -EARLY; the carry holds TAPS - 1 before 0."""
    rows = ()
    for j in tl.static_range(COUNT):
        k = start + j
        row = load_row(x, k.to(tl.int64) * x1 + c, (c < CHANNELS) & (k >= 0) & (k < time))
        if j < EARLY:
            past = k + (TAPS - 1)
            row += load_row(before, past * CHANNELS + c, (c < CHANNELS) & (k < 0) & (past >= 0))
        rows = rows + (row,)
    return rows


@triton.jit(do_not_specialize=["time"])
def conv_forward(
    x, x0, x1: tl.constexpr, x2, before, weight, bias, y, time, bands: tl.constexpr,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, FRAMES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program has some frames and channels of one row. weight: [tap, channel]."""
    row = tl.program_id(0).to(tl.int64)
    batch, band = row // bands, row % bands
    start, c = tl.program_id(1) * FRAMES, tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    x += batch * x0 + band * x2
    before += row * (TAPS - 1) * CHANNELS
    taps, offset = _taps(weight, c, CHANNELS, TAPS), load_row(bias, c, c < CHANNELS)
    inputs = _inputs(x, x1, before, start - (TAPS - 1), time, c, CHANNELS, TAPS, FRAMES + TAPS - 1, TAPS - 1)
    for j in tl.static_range(FRAMES):
        k = start + j
        total = offset
        for i in tl.static_range(TAPS):
            total += taps[i] * inputs[j + i]
        at = ((batch * time + k) * bands + band) * CHANNELS + c
        tl.store(y + at, total * tl.sigmoid(total), (c < CHANNELS) & (k < time))


@triton.jit(do_not_specialize=["time"])
def conv_backward(
    x, x0, x1: tl.constexpr, x2, gy, gy0, gy1: tl.constexpr, gy2, before, weight, bias, gx, gbefore, parts,
    time, bands: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, FRAMES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first frames are those of the carry. parts: sums over the program's frames for every tap and the bias."""
    row = tl.program_id(0).to(tl.int64)
    batch, band = row // bands, row % bands
    start, c = tl.program_id(1) * FRAMES - (TAPS - 1), tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    c_in = c < CHANNELS
    x += batch * x0 + band * x2
    gy += batch * gy0 + band * gy2
    before += row * (TAPS - 1) * CHANNELS
    gbefore += row * (TAPS - 1) * CHANNELS
    parts += (row * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1) * CHANNELS + c
    taps, offset = _taps(weight, c, CHANNELS, TAPS), load_row(bias, c, c_in)
    inputs = _inputs(
        x, x1, before, start - (TAPS - 1), time, c, CHANNELS, TAPS, FRAMES + 2 * (TAPS - 1), 2 * (TAPS - 1)
    )
    grads = ()  # before SiLU
    for j in tl.static_range(FRAMES + TAPS - 1):
        k = start + j
        total = offset
        for i in tl.static_range(TAPS):
            total += taps[i] * inputs[j + i]
        gate = tl.sigmoid(total)
        g = load_row(gy, k.to(tl.int64) * gy1 + c, c_in & (k >= 0) & (k < time))
        grads = grads + (g * gate * (1 + total * (1 - gate)),)
    for j in tl.static_range(FRAMES):
        k = start + j
        g = tl.zeros([BLOCK], tl.float32)
        for i in tl.static_range(TAPS):
            g += taps[TAPS - 1 - i] * grads[j + i]
        at = ((batch * time + k) * bands + band) * CHANNELS + c
        tl.store(gx + at, g, c_in & (k >= 0) & (k < time))
        if j < TAPS - 1:
            tl.store(gbefore + (k + (TAPS - 1)) * CHANNELS + c, g, c_in & (k < 0))
    gbias = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(FRAMES):
        gbias += grads[j]
    tl.store(parts + TAPS * CHANNELS, gbias, c_in)
    for i in tl.static_range(TAPS):
        gtap = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(FRAMES):
            gtap += grads[j] * inputs[j + i]
        tl.store(parts + i * CHANNELS, gtap, c_in)


class _Conv(torch.autograd.Function):
    """The convolution with channels last: weight [K, channel], before [batch, band, K - 1, channel]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> Tensor:
        batch, time, band, channel = x.shape
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        grid = batch * band, triton.cdiv(time, FRAMES), triton.cdiv(channel, BLOCK)
        with torch.cuda.device_of(x):
            conv_forward[grid](*strided(x), before, weight, bias, y, time, band, **_sizes(weight))
        ctx.save_for_backward(x, weight, bias, before)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias, before = ctx.saved_tensors
        batch, time, band, channel = x.shape
        taps = len(weight)
        gx, gbefore = torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(before)
        grid = batch * band, triton.cdiv(time + taps - 1, FRAMES), triton.cdiv(channel, BLOCK)
        parts = empty(grid[0] * grid[1], taps + 1, channel, like=x)
        with torch.cuda.device_of(x):
            conv_backward[grid](*strided(x, gy), before, weight, bias, gx, gbefore, parts, time, band, **_sizes(weight))
        gweight, gbias = parts.sum(0).split([taps, 1])
        return gx, gweight, gbias[0], gbefore


def _sizes(weight: Tensor) -> dict[str, int]:
    taps, channel = weight.shape
    return {"CHANNELS": channel, "TAPS": taps, "FRAMES": FRAMES, "BLOCK": BLOCK, "num_warps": WARPS}


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve on a CUDA device (as `reference.causal_conv1d`), in any mixture of float types."""
    batch, time, band, channel = x.shape
    past = weight.shape[-1] - 1
    if carry is None:
        carry = empty(batch, band, channel, past, like=x).zero_()
    y: Tensor = _Conv.apply(x, *(p.float().contiguous() for p in (weight[:, 0].T, bias, carry.mT)))
    last = x[:, max(0, time - past) :].permute(0, 2, 3, 1).float()
    return y, torch.cat([carry, last], -1)[..., -past:] if time < past else last
