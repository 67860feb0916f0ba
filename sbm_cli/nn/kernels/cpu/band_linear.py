"""The linear map over all bands on tensors of the CPU, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sbm_cli.compiled.band_linear import ROWS, UNIT, backward, forward
from sbm_cli.compiled.vector import LANES
from sbm_cli.nn.kernels import reference
from sbm_cli.nn.kernels.cpu.tensors import array_of, run_kernel, sum_of
from sbm_cli.nn.kernels.dispatch import differentiates


def _mix(x: Tensor, *weights: Tensor) -> Tensor:
    (batch, time, bands, channels), size = x.shape, len(weights[0])
    y, frames = x.new_empty(x.shape), batch * time
    scratch = bands * (channels + 1 + 3 * size) + ROWS * max(channels, bands) * LANES
    run_kernel(forward, -(-frames // UNIT), scratch, frames, bands, array_of(x), *_arrays(*weights), array_of(y))
    return y


def _arrays(
    squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, bias: Tensor, expand: Tensor, expand_bias: Tensor
) -> tuple[Any, ...]:
    """Return the weights as the kernels want them: bias [squeezed, band] and expand [squeezed, channel]."""
    return tuple(map(array_of, (squeeze, squeeze_bias, weight, bias.t(), expand.t(), expand_bias)))


class _BandLinear(torch.autograd.Function):
    """The map with its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return _mix(x, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        batch, time, bands, channels = x.shape
        size, frames = len(weights[0]), batch * time
        units, gx = -(-frames // UNIT), x.new_empty(x.shape)
        shapes = (size, channels), (size, bands), weights[2].shape, (size, bands), (size, channels), (channels,)
        sums = [x.new_zeros(units, *shape) for shape in shapes]
        scratch = bands * (2 * channels + 3 + 4 * size) + ROWS * max(channels, bands) * LANES
        run_kernel(
            backward, units, scratch, frames, bands, array_of(x), *_arrays(*weights), array_of(gy), array_of(gx),
            *map(array_of, sums),
        )  # fmt: skip
        gsqueeze, gsqueeze_bias, gweight, gbias, gexpand, gexpand_bias = map(sum_of, sums)
        return gx, gsqueeze, gsqueeze_bias.sum(1), gweight, gbias.t(), gexpand.t(), gexpand_bias


def takes(squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Return whether the kernels support such weights."""
    (size, channels), bands = squeeze.shape, weight.shape[-1]
    whole = bands % LANES == channels % LANES == size % ROWS == 0
    return whole and all(part.dtype == torch.float32 for part in (squeeze, squeeze_bias, weight, *others))


def band_linear(x: Tensor, *weights: Tensor) -> Tensor:
    """Run the compiled map (as `reference.band_linear`); it keeps x alone for backward."""
    if x.dtype != torch.float32 or not takes(*weights):
        return reference.band_linear(x, *weights)
    return _BandLinear.apply(x, *weights) if differentiates(x, *weights) else _mix(x, *weights)
