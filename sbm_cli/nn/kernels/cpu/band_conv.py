"""Normalised convolution along the bands with SiLU on tensors of the CPU, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sbm_cli.compiled.band_conv import LANES, UNIT, kernels
from sbm_cli.nn.kernels import reference
from sbm_cli.nn.kernels.cpu.tensors import array_of, run_kernel, sum_of
from sbm_cli.nn.kernels.dispatch import differentiates


def _convolve(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    (batch, time, bands, channels), (_, size, kernel) = x.shape, weight.shape
    (run, _), frames = kernels(kernel, channels, size), batch * time
    y, arrays = x.new_empty(x.shape), _arrays(gain, offset, weight, bias)
    scratch = (bands + kernel - 1) * channels
    run_kernel(run, -(-frames // UNIT), scratch, frames, bands, array_of(x), *arrays, array_of(y))
    return y


def _arrays(gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    return array_of(gain), array_of(offset), _packed(weight), array_of(bias)


def _packed(weight: Tensor) -> Any:
    """Return a weight [output, input, kernel] as [vector of outputs, input, kernel, lane]."""
    return array_of(weight.unflatten(0, (-1, LANES)).permute(0, 2, 3, 1))


class _BandConv(torch.autograd.Function):
    """The convolution with its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return _convolve(x, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, gain, offset, weight, bias = ctx.saved_tensors
        batch, time, bands, channels = x.shape
        size, kernel = weight.shape[1:]
        frames = batch * time
        units = -(-frames // UNIT)
        turned = weight.unflatten(0, (-1, size)).transpose(1, 2).flatten(0, 1).flip(-1)
        gx, gtaps = x.new_empty(x.shape), x.new_zeros(units, channels * size * kernel)
        ggain, goffset, gbias = (x.new_zeros(units, channels) for _ in range(3))
        parts = array_of(x), *_arrays(gain, offset, weight, bias), array_of(gy), _packed(turned)
        outputs = map(array_of, (gx, ggain, goffset, gtaps, gbias))
        _, run = kernels(kernel, channels, size)
        scratch = 2 * (bands + kernel - 1) * channels
        run_kernel(run, units, scratch, frames, bands, *parts, np.zeros(LANES, np.float32), *outputs)
        gweight = sum_of(gtaps).view(-1, size, kernel, LANES).permute(0, 3, 1, 2).reshape(weight.shape)
        return gx, sum_of(ggain), sum_of(goffset), gweight, sum_of(gbias)


def takes(gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Return whether the kernels support such weights."""
    return weight.shape[1] % LANES == 0 and all(part.dtype == torch.float32 for part in (gain, offset, weight, bias))


def band_conv(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Run the compiled convolution (as `reference.band_conv`); it keeps x alone for backward."""
    weights = gain, offset, weight, bias
    if x.dtype != torch.float32 or not takes(*weights):
        return reference.band_conv(x, *weights, groups)
    # Without a gradient not through autograd, whose call takes as long as a short block.
    return _BandConv.apply(x, *weights) if differentiates(x, *weights) else _convolve(x, *weights)
