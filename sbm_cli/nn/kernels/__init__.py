"""The operations of the network that have kernels of their own, each one function with several implementations.

`sbm_cli.nn.kernels.dispatch` says which of them computes; everything is channels last, [batch, time, band, channel].
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
    "causal_conv1d",
    "chosen",
    "mamba",
    "prepared",
    "selective_scan",
    "use",
]


MambaCarry = tuple[Tensor, Tensor]  # of convolution and scan, as these return them


class MambaWeights(NamedTuple):
    """The weights of a Mamba block; conv and dt_proj are weight and bias, A and D as in `selective_scan`."""

    in_proj: Tensor  # [2 inner, channels]
    conv: tuple[Tensor, Tensor]  # as in `causal_conv1d`
    x_proj: Tensor  # [rank + 2 state, inner]
    dt_proj: tuple[Tensor, Tensor]  # from rank to inner
    A: Tensor
    D: Tensor
    out_proj: Tensor  # [channels, inner]


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the gated selective scan: h_k = exp(s_k A) h_{k-1} + s_k u_k B_k, y_k = (<C_k, h_k> + D u_k) silu(z_k).

    u, dt, z: [batch, time, band, channel], s = softplus(dt); A: [channel, state], negative; D: [channel];
    B, C: [batch, time, band, state]; carry: h before the first frame, [batch, band, channel, state], zeros if absent.
    Slices of wider tensors are read in place. Returns y, shaped like u, and h after the last frame.
    Differentiable in everything; only with "mamba_ssm" the returned carry has no gradient. Half precision is computed
    in float32.

    Source: Gu & Dao 2023 (arXiv 2312.00752), Algorithm 2.
    """
    y, after = kernel("selective_scan", u)(u, dt, A, B, C, D, z, carry)
    return y, after


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve every channel over its own past and apply SiLU.

    x: [batch, time, band, channel]; weight: [channel, 1, K], the last tap meets the present frame; bias: [channel];
    carry: the K - 1 inputs before the first frame, [batch, band, channel, K - 1], zeros if absent.
    Returns y, shaped like x, and the last K - 1 inputs. Differentiable in everything. Half precision is computed in
    float32.
    """
    y, after = kernel("causal_conv1d", x)(x, weight, bias, carry)
    return y, after


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

    Raises ValueError if the shapes do not fit together.
    """
    parts = gain, offset, weight, bias
    channels, size, _ = weight.shape
    vectors = gain.shape == offset.shape == bias.shape == (channels,)
    if not (vectors and x.ndim == 4 and x.shape[-1] == channels == size * groups):
        shapes = ", ".join(str(list(part.shape)) for part in (x, *parts))
        raise ValueError(f"{shapes} do not fit [batch, time, band, channel] and {groups} groups")
    y: Tensor = kernel("band_conv", x)(x, *parts, groups)
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
