"""The operations of the network that have kernels of their own, each with several implementations.

`reference.py` specifies them, `dispatch.py` says which implementation computes. Everything is channels last, [batch,
time, band, channel].
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sbm_cli.nn.kernels.dispatch import at_rest, available, chosen, kernel, prepared, use

__all__ = [
    "MambaCarry",
    "MambaWeights",
    "at_rest",
    "available",
    "band_conv",
    "band_linear",
    "chosen",
    "kernel",
    "mamba",
    "prepared",
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


def mamba(x: Tensor, weights: MambaWeights, carry: MambaCarry | None = None) -> tuple[Tensor, MambaCarry]:
    """Run a Mamba block: projection, convolution, scan, projection.

    x: [batch, time, band, channels]. Returns the output, shaped like x, in autocast's type if there is one, and the
    carry after the last frame.
    """
    y, after = kernel("mamba", x)(x, weights, carry)
    return y, after


def band_conv(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return x + silu(conv(norm(x))): a LayerNorm over the channels, a convolution along the bands, residual.

    x: [batch, time, band, channel]; gain, offset: [channel], of the LayerNorm; weight: [channel, channel // groups,
    kernel] and bias: [channel] as in nn.Conv1d, padded with zeros to the same length.
    """
    y: Tensor = kernel("band_conv", x)(x, gain, offset, weight, bias, groups)
    return y


def band_linear(
    x: Tensor, squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, bias: Tensor, expand: Tensor, expand_bias: Tensor
) -> Tensor:
    """Return x + silu(expand(W silu(squeeze(norm(x))))), norm a LayerNorm without gain and offset, W along the bands.

    x: [batch, time, band, channel]; squeeze: [squeezed, channel]; weight: [squeezed, band, band], from and to; bias:
    [band, squeezed]; expand: [channel, squeezed]; their biases as in nn.Linear.
    """
    y: Tensor = kernel("band_linear", x)(x, squeeze, squeeze_bias, weight, bias, expand, expand_bias)
    return y
