"""A cross-band block with packed weights: three kernels and nothing between them.

On short blocks, checks, look-ups and modules would take longer than the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sbm_cli.nn.kernels.cpu import band_conv, band_linear
from sbm_cli.nn.kernels.cpu.tensors import array_of


def prepare(
    first: Sequence[Tensor], full: Sequence[Tensor], last: Sequence[Tensor]
) -> Callable[[Tensor], Tensor] | None:
    """Return `band_conv`, `band_linear` and `band_conv` in turn as a function of x; None for unsupported sizes.

    first, full, last: the weights of each, in the order of its arguments.
    """
    if not (band_conv.takes(*first) and band_linear.takes(*full) and band_conv.takes(*last)):
        return None
    convolve, mix, convolve_again = band_conv.stage(*first), band_linear.stage(*full), band_conv.stage(*last)

    def cross_band(x: Tensor) -> Tensor:
        y, shape = torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[:3]
        between, out = np.empty(x.numel(), np.float32), array_of(y)
        convolve(*shape, array_of(x), out)
        mix(*shape, out, between)
        convolve_again(*shape, between, out)
        return y

    return cross_band
