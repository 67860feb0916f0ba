"""Squeeze every band of a frame to a few channels, map all bands linearly for each of them, and expand them again."""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.nn.constant import of_weights
from sbm_cli.nn.scan import differentiates


@functools.cache
def _cpu() -> ModuleType | None:
    try:
        from sbm_cli.nn.band_linear import cpu
    except ImportError:  # no numba: the scan says so
        return None
    return cpu


def band_linear(
    x: Tensor, squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, bias: Tensor, expand: Tensor, expand_bias: Tensor
) -> Tensor:
    """Return x + silu(expand(W silu(squeeze(norm(x))))), norm a LayerNorm without gain and offset, W along the bands.

    x: [batch, time, band, channel]; squeeze: [squeezed, channel]; weight: [squeezed, band, band], from and to; bias:
    [band, squeezed]; expand: [channel, squeezed]; their biases as in nn.Linear. float32 on the CPU with bands and
    channels of whole vectors runs compiled and keeps x alone for backward; everything else is `band_linear_reference`.
    """
    parts = squeeze, squeeze_bias, weight, bias, expand, expand_bias
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() and (cpu := _cpu()) is not None:
        if x.shape[2] % cpu.LANES == x.shape[3] % cpu.LANES == len(squeeze) % cpu.ROWS == 0:
            run = cpu.BandLinear.apply if differentiates(x, *parts) else cpu.mapped
            result: Tensor = run(x, squeeze, squeeze_bias, weight, *turned(bias, expand), expand_bias)
            return result
    return band_linear_reference(x, *parts)


@of_weights
def turned(bias: Tensor, expand: Tensor) -> tuple[Tensor, Tensor]:
    """Return bias [squeezed, band] and expand [squeezed, channel], as the compiled kernels want them."""
    return bias.t().contiguous(), expand.t().contiguous()


def band_linear_reference(
    x: Tensor, squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, bias: Tensor, expand: Tensor, expand_bias: Tensor
) -> Tensor:
    """Return the same in plain PyTorch, for every type and device."""
    narrow = F.silu(F.linear(F.layer_norm(x, x.shape[-1:]), squeeze, squeeze_bias))
    mixed = torch.einsum("btfc,cfg->btgc", narrow, weight) + bias
    return x + F.silu(F.linear(mixed, expand, expand_bias))
