"""The three operations of a cross-band block in one go, where nobody wants a gradient and the kernels are compiled.

On short blocks what lies between them takes longer than they do: checks, look-ups, modules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sbm_cli.nn import band_conv, band_linear
from sbm_cli.nn.constant import of_weights
from sbm_cli.nn.scan import chosen

CONV = 4  # weights of a convolution as `band_conv` takes them; those of the linear map lie between two of them


def cross_band(x: Tensor, *weights: Tensor) -> Tensor | None:
    """Return what `band_conv`, `band_linear` and `band_conv` make of x [batch, time, band, channel] in turn.

    weights: theirs, in the order of their arguments. None where they would not all run compiled, or with a gradient.
    """
    known = x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0 and not torch.is_grad_enabled()
    if not known or chosen(x) != "cpu" or (conv := band_conv._cpu()) is None:
        return None
    y = x
    for stage in _stages(*weights):
        x, y = y, torch.empty_like(x, memory_format=torch.contiguous_format)
        stage(*x.shape[:3], conv._array(x), conv._array(y))
    return None if y is x else y


@of_weights
def _stages(*weights: Tensor) -> list[Callable[..., None]]:
    """Return the kernels with their weights at hand; none if one of them is not made for these."""
    conv, linear = band_conv._cpu(), band_linear._cpu()
    assert conv is not None and linear is not None  # both need Numba, and nothing else
    first, full, last = weights[:CONV], weights[CONV:-CONV], weights[-CONV:]
    squeeze, squeeze_bias, weight, bias, expand, expand_bias = full
    (size, channels), bands = squeeze.shape, weight.shape[-1]
    odd = bands % linear.LANES or channels % linear.LANES or size % linear.ROWS
    odd = odd or any(part[2].shape[1] % conv.LANES for part in (first, last))
    if odd or any(weight.dtype != torch.float32 for weight in weights):
        return []
    mix = linear.stage(squeeze, squeeze_bias, weight, *band_linear.turned(bias, expand), expand_bias)
    return [conv.stage(*first), mix, conv.stage(*last)]
