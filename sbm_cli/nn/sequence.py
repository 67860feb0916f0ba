"""Sequence models along time: Mamba, and those the paper compares it with, at about the same number of parameters.

Each is causal, maps [batch, time, band, channels] to the same shape, and returns two tensors as the carry for the next
block of frames; the bands share the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.nn.mamba import Mamba

SequenceCarry = tuple[Tensor, Tensor]


def mamba_parameters(channels: int, state: int) -> int:
    """Return the number of parameters of a Mamba."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Mamba(channels, state).parameters())


class Lstm(nn.Module):
    """One LSTM layer and a projection; the carry is output and cells, [batch, band, size] each."""

    carries = ("hidden", "cells")

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        linear = 5 * channels + 8  # 4 size² + linear size parameters
        self.size = round((-linear + math.sqrt(linear**2 + 16 * mamba_parameters(channels, state))) / 8)
        self.lstm = nn.LSTM(channels, self.size, batch_first=True)
        self.out_proj = nn.Linear(self.size, channels, bias=False)

    def forward(self, x: Tensor, carry: SequenceCarry | None = None) -> tuple[Tensor, SequenceCarry]:
        batch, _, band, _ = x.shape
        before = None
        if carry is not None:
            before = tuple(part.reshape(1, batch * band, self.size) for part in carry)
        y, after = self.lstm(x.transpose(1, 2).flatten(0, 1), before)
        y = self.out_proj(y).unflatten(0, (batch, band)).transpose(1, 2)
        hidden, cells = (part.view(batch, band, self.size) for part in after)
        return y, (hidden, cells)


class Attention(nn.Module):
    """Self-attention to the last `context` frames; it carries their keys and values, [batch, band, frames, size] each.

    What lies further back weighs less, by a slope of each head (ALiBi: Press et al., arXiv 2108.12409): no position is
    counted, so that a recording may go on for ever.
    """

    carries = ("keys", "values")

    def __init__(self, channels: int, state: int, context: int = 128) -> None:
        super().__init__()
        self.context = context
        self.heads = max(h for h in (1, 2, 4) if channels % h == 0)
        self.size = round(mamba_parameters(channels, state) / (4 * channels * self.heads)) * self.heads
        self.in_proj = nn.Linear(channels, 3 * self.size, bias=False)
        self.out_proj = nn.Linear(self.size, channels, bias=False)

    def forward(self, x: Tensor, carry: SequenceCarry | None = None) -> tuple[Tensor, SequenceCarry]:
        batch, time, band, _ = x.shape
        query, key, value = self.in_proj(x).transpose(1, 2).chunk(3, -1)  # [batch, band, time, size]
        if carry is not None:
            key, value = (torch.cat([old.to(new.dtype), new], 2) for old, new in zip(carry, (key, value), strict=True))
        kept = min(key.shape[2], self.context - 1)
        past = key.shape[2] - time
        age = torch.arange(past, past + time, device=x.device)[:, None] - torch.arange(past + time, device=x.device)
        slopes = 2.0 ** (-8 * torch.arange(1, self.heads + 1, device=x.device) / self.heads)
        bias = -slopes[:, None, None] * age
        bias = bias.masked_fill((age < 0) | (age >= self.context), -torch.inf)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(0, 1) for part in (query, key, value))
        y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))  # [batch * band, head, time, size]
        y = self.out_proj(y.transpose(1, 2).flatten(2)).unflatten(0, (batch, band)).transpose(1, 2)
        start = key.shape[2] - kept
        return y, (key[:, :, start:], value[:, :, start:])


SEQUENCES: dict[str, type[Mamba] | type[Lstm] | type[Attention]] = {
    "mamba": Mamba,
    "lstm": Lstm,
    "attention": Attention,
}
