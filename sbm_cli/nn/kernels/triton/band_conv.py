"""Grouped convolution along the bands as Triton kernels for CUDA, forward and backward.

The groups become the diagonal blocks of full matrices: one matrix product for every tap, on the tensor cores. They
compute `groups` times too much, and the memory is still what decides in half precision: 2 * 5 * 64 * 64 operations for
256 bytes at 64 channels, 160 a byte where an H200 has 206. (Hence a NaN spreads over all channels of its neighbours.)
float32 is made of three TF32 products, to about 1e-6.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sbm_cli.nn.kernels import reference

ROWS, WARPS, STAGES = 64, 4, 2  # a row is one band of one frame
MOST = 128  # channels that one program can hold
PARTS = 64  # partial sums of the weight's gradient, added in a fixed order

ACTIVATE, DIFFERENTIATE, PLAIN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _shifted(x, row, rows, shift, bands: tl.constexpr, c, c_in):
    """Return x [row, channel] at the same frame, `shift` bands higher, zero where there is none."""
    band = row % bands + shift
    inside = (row < rows) & (band >= 0) & (band < bands)
    return tl.load(x + (row + shift)[:, None] * c_in + c[None, :], inside[:, None] & (c < c_in)[None, :], 0.0)


@triton.jit(do_not_specialize=["rows"])
def convolve(
    x, weight, bias, gy, out, rows, bands: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr,
    LOWER: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weight: [tap, input, output]; its type is the one multiplied in. LOWER: taps below the band itself."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    c_in = c < CHANNELS
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for j in range(KERNEL):  # not unrolled: in float32 the compiler would take a minute
        taps = weight + j * CHANNELS * CHANNELS + c[:, None] * CHANNELS + c[None, :]
        matrix = tl.load(taps, c_in[:, None] & c_in[None, :], 0.0)
        inputs = _shifted(x, row, rows, j - LOWER, bands, c, CHANNELS).to(matrix.dtype)
        total = tl.dot(inputs, matrix, total, input_precision="tf32x3")
    at, inside = row[:, None] * CHANNELS + c[None, :], (row < rows)[:, None] & c_in[None, :]
    if MODE != PLAIN:
        total += tl.load(bias + c, c_in, 0.0)[None, :]
        gate = tl.sigmoid(total)
        if MODE == ACTIVATE:
            total *= gate
        else:
            total = tl.load(gy + at, inside, 0.0) * gate * (1 + total * (1 - gate))
    tl.store(out + at, total, inside)


@triton.jit(do_not_specialize=["rows"])
def correlate(
    x, grad, parts, rows, bands: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, LOWER: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the sum of x[shifted row, input] * grad[row, output] over a program's share of the rows, for one tap."""
    tap, part = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BLOCK)
    c_in = c < CHANNELS
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for i in range(part, tl.cdiv(rows, ROWS), tl.num_programs(1)):
        row = tl.cast(i, tl.int64) * ROWS + tl.arange(0, ROWS)
        grads = tl.load(grad + row[:, None] * CHANNELS + c[None, :], (row < rows)[:, None] & c_in[None, :], 0.0)
        inputs = _shifted(x, row, rows, tap - LOWER, bands, c, CHANNELS).to(grads.dtype)
        total = tl.dot(tl.trans(inputs), grads, total, input_precision="tf32x3")
    parts += (part * KERNEL + tap) * CHANNELS * CHANNELS
    tl.store(parts + c[:, None] * CHANNELS + c[None, :], total, c_in[:, None] & c_in[None, :])


def _sizes(x: Tensor, kernel: int, lower: int) -> dict[str, Any]:
    sizes = {"bands": x.shape[2], "CHANNELS": x.shape[3], "KERNEL": kernel, "LOWER": lower, "ROWS": ROWS}
    return {**sizes, "BLOCK": max(16, triton.next_power_of_2(x.shape[3])), "num_warps": WARPS, "num_stages": STAGES}


class _BandConv(torch.autograd.Function):
    """x [batch, time, band, channel]; weight [tap, input, output] and bias in float32; dtype: to multiply in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        x, weight, kernel = x.contiguous(), weight.to(dtype), len(weight)
        ctx.save_for_backward(x, weight, bias)
        y = torch.empty_like(x, dtype=dtype)
        rows = x.shape[:3].numel()
        with torch.cuda.device_of(x):
            convolve[(triton.cdiv(rows, ROWS),)](
                x, weight, bias, x, y, rows, MODE=ACTIVATE, **_sizes(x, kernel, (kernel - 1) // 2)
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        kernel, rows = len(weight), x.shape[:3].numel()
        grad, gx = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x)
        parts = torch.empty((PARTS, *weight.shape), dtype=torch.float32, device=x.device)
        grid, sizes = (triton.cdiv(rows, ROWS),), _sizes(x, kernel, (kernel - 1) // 2)
        turned = weight.mT.flip(0).contiguous()
        with torch.cuda.device_of(x):
            convolve[grid](x, weight, bias, gy.contiguous(), grad, rows, MODE=DIFFERENTIATE, **sizes)
            convolve[grid](grad, turned, bias, x, gx, rows, MODE=PLAIN, **_sizes(x, kernel, kernel // 2))
            correlate[kernel, PARTS](x, grad, parts, rows, **sizes)
        return gx, parts.sum(0), grad.sum((0, 1, 2), dtype=torch.float32), None


def band_conv(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolve on a CUDA device (as `reference.band_conv`), in the type of x or of autocast."""
    if x.dtype == torch.float64 or len(weight) > MOST:
        return reference.band_conv(x, gain, offset, weight, bias, groups)
    device, (channels, size, kernel) = x.device.type, weight.shape
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    blocks = weight.float().unflatten(0, (groups, size)).permute(3, 2, 1, 0)  # [tap, input, output, group]
    full = blocks.new_zeros(kernel, groups, size, groups, size).diagonal_scatter(blocks, 0, 1, 3)
    normed, matrices = F.layer_norm(x, (channels,), gain, offset), full.view(kernel, channels, channels)
    return x + _BandConv.apply(normed, matrices, bias.float(), dtype)
