"""Mamba block along time, for each band (Gu & Dao, arXiv 2312.00752; parameters as in mamba-ssm's `Mamba`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sbm_cli.nn.kernels import MambaCarry, MambaWeights, kernel


class Mamba(nn.Module):
    """Selective state space over the time axis of [batch, time, band, channels]; the bands share the weights.

    Parameter names and shapes are those of `mamba_ssm.modules.mamba_simple.Mamba`: weights are interchangeable.
    """

    carries = ("conv", "scan")
    no_decay = no_muon = ("A_log",)  # a table of rates, not a map between channels

    def __init__(self, channels: int, state: int = 16, kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.inner, self.state, self.rank = expand * channels, state, math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * self.inner, bias=False)
        self.conv1d = nn.Conv1d(self.inner, self.inner, kernel, groups=self.inner)
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(self.inner, 1))
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, channels, bias=False)
        # Step sizes log-uniform in [1e-3, 1e-1], as published; the bias is their inverse softplus.
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        dt = torch.exp(torch.rand(self.inner) * math.log(100) + math.log(1e-3))
        self.dt_proj.bias.data = dt + torch.log(-torch.expm1(-dt))

    def weights(self) -> MambaWeights:
        assert self.conv1d.bias is not None  # as nn.Conv1d declares it
        conv, dt_proj = (self.conv1d.weight, self.conv1d.bias), (self.dt_proj.weight, self.dt_proj.bias)
        A = -self.A_log.float().exp()
        return MambaWeights(self.in_proj.weight, conv, self.x_proj.weight, dt_proj, A, self.D, self.out_proj.weight)

    def forward(self, x: Tensor, carry: MambaCarry | None = None) -> tuple[Tensor, MambaCarry]:
        """Return the output, shaped like x [batch, time, band, channel], and the carry after the last frame."""
        return kernel("mamba", x)(x, self.weights(), carry)
