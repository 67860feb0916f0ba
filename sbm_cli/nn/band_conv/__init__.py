"""Grouped convolution along the bands of every frame, SiLU included, channels last."""

from __future__ import annotations

import functools
from types import ModuleType

from torch import Tensor, float32, float64
from torch.nn import functional as F

from sbm_cli.nn.scan import chosen

LANES = 8  # the compiled kernels hold this many channels of a group in a register
MOST = 128  # channels that one program of the Triton kernels can hold


@functools.cache
def _cpu() -> ModuleType | None:
    try:
        from sbm_cli.nn.band_conv import cpu
    except ImportError:  # no numba: the scan says so
        return None
    return cpu


def band_conv(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return silu(conv(x)) along the bands, padded with zeros to the same length.

    x: [batch, time, band, channel]; weight: [channel, channel // groups, kernel] and bias: [channel] as in nn.Conv1d.
    float32 on the CPU with groups of a multiple of 8 channels runs compiled and keeps x alone for backward; parameter
    gradients do not depend on the number of threads. Where the scan is "triton", so is this, for up to 128 channels of
    any type but float64, in autocast's type if there is one. Everything else is `band_conv_reference`.

    Raises ValueError if the shapes do not fit together.
    """
    channels, size = weight.shape[:2]
    if x.ndim != 4 or x.shape[-1] != channels or channels != size * groups or bias.shape != (channels,):
        shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes} do not fit [batch, time, band, channel] and {groups} groups")
    if x.dtype != float64 and x.numel() and channels <= MOST and chosen(x) == "triton":
        from sbm_cli.nn.band_conv import triton

        return triton.band_conv(x, weight, bias, groups)
    plain = any(part.device.type != "cpu" or part.dtype != float32 for part in (x, weight, bias))
    if plain or size % LANES or x.numel() == 0 or (cpu := _cpu()) is None:
        return band_conv_reference(x, weight, bias, groups)
    result: Tensor = cpu.BandConv.apply(x, weight, bias)
    return result


def band_conv_reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return the same in plain PyTorch, for every type and device."""
    kernel = weight.shape[-1]
    rows = x.flatten(0, 1).transpose(1, 2)  # [batch * time, channel, band]
    if kernel % 2 == 0:  # PyTorch warns about "same" there
        rows = F.pad(rows, ((kernel - 1) // 2, kernel // 2))
    padding = (kernel - 1) // 2 if kernel % 2 else 0
    return F.silu(F.conv1d(rows, weight, bias, padding=padding, groups=groups)).transpose(1, 2).reshape(x.shape)
