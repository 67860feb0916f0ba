"""The three operations of a cross-band block in one go, where nobody wants a gradient and the kernels are compiled.

On short blocks what lies between them takes longer than they do: checks, look-ups, modules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from sbm_cli.nn.band_linear import turned
from sbm_cli.nn.constant import of_weights
from sbm_cli.nn.scan import chosen

CONV = 4  # weights of a convolution as `band_conv` takes them; those of the linear map lie between two of them


@functools.cache
def _cpu() -> tuple[ModuleType, ModuleType] | None:
    try:
        from sbm_cli.nn.band_conv import cpu as conv
        from sbm_cli.nn.band_linear import cpu as linear
    except ImportError:  # no numba: the scan says so
        return None
    return conv, linear


def cross_band(x: Tensor, *weights: Tensor) -> Tensor | None:
    """Return what `band_conv`, `band_linear` and `band_conv` make of x [batch, time, band, channel] in turn.

    weights: theirs, in the order of their arguments. None where they would not all run compiled, or with a gradient.
    """
    known = x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0 and not torch.is_grad_enabled()
    if not known or chosen(x) != "cpu" or (cpu := _cpu()) is None or x.shape[2] % cpu[1].LANES:
        return None
    y = x
    for stage in _stages(*weights):
        x, y = y, torch.empty_like(x, memory_format=torch.contiguous_format)
        stage(*x.shape[:3], cpu[0]._array(x), cpu[0]._array(y))
    return None if y is x else y


@of_weights
def _stages(*weights: Tensor) -> list[Callable[..., None]]:
    """Return the kernels with their weights at hand; none if one of them is not made for these."""
    assert (cpu := _cpu()) is not None
    conv, linear = cpu
    first, full, last = weights[:CONV], weights[CONV:-CONV], weights[-CONV:]
    squeeze, squeeze_bias, weight, bias, expand, expand_bias = full
    size, channels = squeeze.shape
    odd = any(part[2].shape[1] % conv.LANES for part in (first, last)) or channels % linear.LANES or size % linear.ROWS
    if odd or any(weight.dtype != torch.float32 for weight in weights):
        return []
    mix = linear.stage(squeeze, squeeze_bias, weight, *turned(bias, expand), expand_bias)
    return [conv.stage(*first), mix, conv.stage(*last)]
