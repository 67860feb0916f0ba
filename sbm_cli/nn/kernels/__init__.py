"""The operations of the network that have kernels of their own, each with several implementations.

`reference.py` specifies them, `dispatch.py` says which implementation computes. Everything is channels last, [batch,
time, band, channel].
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sbm_cli.nn.kernels.dispatch import available, chosen, kernel, use

__all__ = [
    "MambaCarry",
    "MambaWeights",
    "available",
    "chosen",
    "kernel",
    "use",
]


MambaCarry = tuple[Tensor, Tensor]  # of convolution and scan, as these return them


class MambaWeights(NamedTuple):
    """The weights of a Mamba block; conv and dt_proj are weight and bias, A and D as in `reference.selective_scan`."""

    in_proj: Tensor  # [2 inner, channels]
    conv: tuple[Tensor, Tensor]  # as in `reference.causal_conv1d`
    x_proj: Tensor  # [rank + 2 state, inner]
    dt_proj: tuple[Tensor, Tensor]  # from rank to inner
    A: Tensor
    D: Tensor
    out_proj: Tensor  # [channels, inner]
