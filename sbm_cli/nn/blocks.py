"""Blocks of oSpatialNet-Mamba (Quan & Li, arXiv 2403.07675) with timestep conditioning.

All share one layout, [batch, time, band, channel].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.nn.kernels import kernel
from sbm_cli.nn.sequence import SEQUENCES, SequenceCarry


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of the bridge time, then two layers: [batch] -> [batch, size].

    jumps: whether those of a second time, where a jump ends, join them in the first layer. They begin without effect.
    """

    no_muon = ("layers", "jump")  # most gradients are of a single time, hence of rank one
    frequencies: Tensor

    def __init__(self, size: int, jumps: bool = False, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size // 2) * scale)
        self.layers = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())
        self.jump = nn.Linear(size, size, bias=False) if jumps else None
        if self.jump is not None:
            nn.init.zeros_(self.jump.weight)

    def forward(self, t: Tensor, to: Tensor | None = None) -> Tensor:
        if to is not None and self.jump is None:
            raise ValueError("this network was not trained to jump")
        first, *rest = self.layers
        x = first(self._features(t))
        if self.jump is not None:
            x = x + self.jump(self._features(torch.zeros_like(t) if to is None else to))
        for layer in rest:
            x = layer(x)
        return x

    def _features(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * t[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], -1)


class ModulatedNorm(nn.LayerNorm):
    """LayerNorm whose gain and offset depend on the time embedding; without one, a plain LayerNorm.

    Scale and shift follow the normalisation directly, so that at a fixed time they fold into weight and bias exactly.
    """

    no_muon = ("modulation",)  # as in the time embedding

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__(channels)
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def affine(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return gain and offset, each [batch, channels], at the times of an embedding [batch, size]."""
        assert self.modulation is not None
        scale, shift = self.modulation(embedding).chunk(2, -1)
        return self.weight * (1 + scale), self.bias * (1 + scale) + shift

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if self.modulation is None or embedding is None:
            return super().forward(x)
        gain, offset = self.affine(embedding)
        if len(gain) == 1:  # one time for all needs no extra pass
            return F.layer_norm(x, self.normalized_shape, gain[0], offset[0], self.eps)
        normed = F.layer_norm(x, self.normalized_shape, None, None, self.eps)
        return torch.addcmul(offset[:, None, None], normed, gain[:, None, None])


class FrequencyConv(nn.Module):
    """LayerNorm, grouped convolution along the bands, SiLU (PReLU in oSpatialNet: slower in training); residual."""

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel, groups=groups)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of `reference.band_conv` between x and groups."""
        assert self.conv.bias is not None  # as nn.Conv1d declares it
        return self.norm.weight, self.norm.bias, self.conv.weight, self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return kernel("band_conv", x)(x, *self.weights(), self.conv.groups)


class FullBandLinear(nn.Module):
    """LayerNorm, squeeze to a few channels, one linear map over all bands for each of them, back; residual."""

    def __init__(self, bands: int, channels: int, squeezed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.squeeze = nn.Linear(channels, squeezed)
        self.weight = nn.Parameter(torch.empty(squeezed, bands, bands).uniform_(-(bands**-0.5), bands**-0.5))
        self.bias = nn.Parameter(torch.zeros(bands, squeezed))
        self.unsqueeze = nn.Linear(squeezed, channels)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of `reference.band_linear` after x."""
        # Gain and offset of the norm fold into the squeeze, in float32 inside autocast as well: no matrix product.
        squeeze = self.squeeze.weight * self.norm.weight
        squeeze_bias = self.squeeze.bias + (self.squeeze.weight * self.norm.bias).sum(1)
        return squeeze, squeeze_bias, self.weight, self.bias, self.unsqueeze.weight, self.unsqueeze.bias

    def forward(self, x: Tensor) -> Tensor:
        return kernel("band_linear", x)(x, *self.weights())


class CrossBandBlock(nn.Module):
    """Exchange between the bands of a frame; it sees no other frame and so has no carry."""

    def __init__(self, bands: int, channels: int, kernel: int, groups: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = FrequencyConv(channels, kernel, groups)
        self.full = FullBandLinear(bands, channels, squeezed)
        self.conv2 = FrequencyConv(channels, kernel, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.full(self.conv1(x)))


class NarrowBandBlock(nn.Module):
    """Modulated norm and a sequence model, such as Mamba, along time for each band; residual."""

    def __init__(self, channels: int, state: int, embedding: int, sequence: str = "mamba") -> None:
        super().__init__()
        self.sequence = sequence
        self.norm = ModulatedNorm(channels, embedding)
        self.add_module(sequence, SEQUENCES[sequence](channels, state))

    def forward(
        self, x: Tensor, embedding: Tensor | None, carry: SequenceCarry | None = None
    ) -> tuple[Tensor, SequenceCarry]:
        y, carry = getattr(self, self.sequence)(self.norm(x, embedding), carry)
        return x + y, carry


class FullBandBlock(nn.Module):
    """One sequence model, such as Mamba, over frames of all bands with a few channels each: they share a room's decay.

    The expansion back starts at zero, so that the untrained block is the identity.
    """

    def __init__(
        self, bands: int, channels: int, squeezed: int, state: int, embedding: int, sequence: str = "mamba"
    ) -> None:
        super().__init__()
        self.bands, self.squeezed, self.sequence = bands, squeezed, sequence
        self.squeeze = nn.Linear(channels, squeezed)
        self.norm = ModulatedNorm(bands * squeezed, embedding)
        self.add_module(sequence, SEQUENCES[sequence](bands * squeezed, state))
        self.unsqueeze = nn.Linear(squeezed, channels)
        nn.init.zeros_(self.unsqueeze.weight)
        nn.init.zeros_(self.unsqueeze.bias)

    def forward(
        self, x: Tensor, embedding: Tensor | None, carry: SequenceCarry | None = None
    ) -> tuple[Tensor, SequenceCarry]:
        tokens = self.squeeze(x).flatten(2).unsqueeze(2)  # [batch, time, 1, band * squeezed]
        y, carry = getattr(self, self.sequence)(self.norm(tokens, embedding), carry)
        return x + self.unsqueeze(y.view(*x.shape[:3], self.squeezed)), carry
