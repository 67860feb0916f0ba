"""Grouped convolution along the bands of every frame with all that is around it, channels last."""

from __future__ import annotations

import functools
from types import ModuleType

from torch import Tensor, float32, float64
from torch.nn import functional as F

from sbm_cli.nn.scan import chosen, differentiates

LANES = 8  # the compiled kernels hold this many channels of a group in a register
MOST = 128  # channels that one program of the Triton kernels can hold


@functools.cache
def _cpu() -> ModuleType | None:
    try:
        from sbm_cli.nn.band_conv import cpu
    except ImportError:  # no numba: the scan says so
        return None
    return cpu


def band_conv(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return x + silu(conv(norm(x))): a LayerNorm over the channels, a convolution along the bands, residual.

    x: [batch, time, band, channel]; gain, offset: [channel], of the LayerNorm; weight: [channel, channel // groups,
    kernel] and bias: [channel] as in nn.Conv1d, padded with zeros to the same length. float32 on the CPU with groups of
    a multiple of 8 channels runs compiled and keeps x alone for backward; parameter gradients do not depend on the
    number of threads. Where the scan is "triton", so is the convolution, for up to 128 channels of any type but
    float64, in autocast's type if there is one. Everything else is `band_conv_reference`.

    Raises ValueError if the shapes do not fit together.
    """
    parts = gain, offset, weight, bias
    channels, size, _ = weight.shape
    vectors = gain.shape == offset.shape == bias.shape == (channels,)
    if not (vectors and x.ndim == 4 and x.shape[-1] == channels == size * groups):
        shapes = ", ".join(str(list(part.shape)) for part in (x, *parts))
        raise ValueError(f"{shapes} do not fit [batch, time, band, channel] and {groups} groups")
    if x.dtype != float64 and x.numel() and channels <= MOST and chosen(x) == "triton":
        from sbm_cli.nn.band_conv import triton

        return x + triton.band_conv(F.layer_norm(x, (channels,), gain, offset), weight, bias, groups)
    known = x.dtype == gain.dtype == offset.dtype == weight.dtype == bias.dtype == float32 and x.device.type == "cpu"
    if not known or size % LANES or x.numel() == 0 or (cpu := _cpu()) is None:
        return band_conv_reference(x, *parts, groups)
    # Without a gradient not through autograd, whose call takes as long as a short block.
    result: Tensor = (cpu.BandConv.apply if differentiates(x, *parts) else cpu.convolved)(x, *parts)
    return result


def band_conv_reference(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return the same in plain PyTorch, for every type and device."""
    kernel, normed = weight.shape[-1], F.layer_norm(x, x.shape[-1:], gain, offset)
    rows = normed.flatten(0, 1).transpose(1, 2)  # [batch * time, channel, band]
    if kernel % 2 == 0:  # PyTorch warns about "same" there
        rows = F.pad(rows, ((kernel - 1) // 2, kernel // 2))
    padding = (kernel - 1) // 2 if kernel % 2 else 0
    return x + F.silu(F.conv1d(rows, weight, bias, padding=padding, groups=groups)).transpose(1, 2).reshape(x.shape)
