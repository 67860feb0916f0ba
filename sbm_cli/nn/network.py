"""The interface of the backbones in `nn/backbones`: data prediction on spectra, block by block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sbm_cli.nn.configs import NetworkConfig

Carry = dict[str, Tensor]


class Network(nn.Module):
    """`(state, noisy, t) -> estimate`: spectra, compressed and divided by the level, complex [batch, freq, frames]."""

    config: NetworkConfig
    embedding: nn.Module | None  # of the times
    room: nn.Parameter | None  # added to that for the room that is kept

    def forward(
        self,
        state: Tensor,
        noisy: Tensor,
        t: Tensor,
        carry: Carry | None = None,
        room: Tensor | None = None,
        to: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """Return the estimate of the clean spectrum and what the next block of frames needs.

        state, noisy: complex [batch, freq, frames]. t: time of `state`, [batch], or [1] for all.
        carry: returned for the last block; None at the beginning of a recording. Only causal networks have one.
        room: share of the reverberation to keep in the estimate, 0 (None) to 1, [batch].
        to: time that a jump with this estimate goes to, 0 (None) to t, [batch] or [1]; for networks that jump.
        The estimate is shaped like noisy; its frame k belongs to frame k - lookahead of the input.
        """
        if noisy.shape[1] != self.config.bins:
            raise ValueError(f"expected {self.config.bins} frequencies, got a spectrum {tuple(noisy.shape)}")
        return self.estimate(state, noisy, self.embed(t, room, to), carry)

    def estimate(
        self, state: Tensor, noisy: Tensor, embedding: Tensor | None, carry: Carry | None
    ) -> tuple[Tensor, Carry]:
        """Return what `forward` does, from the embedding of times and room."""
        raise NotImplementedError

    def embed(self, t: Tensor, room: Tensor | None = None, to: Tensor | None = None) -> Tensor | None:
        """Return the embedding of the times and of what is asked for, [batch or 1, size]; None without times."""
        embedding = None if self.embedding is None else self.embedding(t, to)
        if embedding is None or room is None:
            return embedding
        if self.room is None:
            raise ValueError("this network was not trained to keep the room")
        return embedding + room[:, None] * self.room

    @property
    def output_layer(self) -> nn.Conv2d:
        """The last layer with weights, which every estimate leaves through."""
        raise NotImplementedError

    @torch.no_grad()
    def inherit(self, smaller: Network) -> None:
        """Take the weights of a network that can grow into this one, and do what it does, later by the look-ahead.

        What it lacks has no effect at first: taps for frames of the future are zero, and so is a filter.
        """
        self._inherit(smaller.state_dict())

    def _inherit(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            if (old := weights.get(name)) is not None:
                tensor.zero_()[tuple(map(slice, old.shape))] = old

    def fold(self, t: float = 1.0, room: float = 0.0) -> Network:
        """Return a cheaper network that equals this one at the time t, for this room, and where state = noisy.

        It ignores the state, times and room of a call; one that jumps is folded for the jump to 0. A network without
        such a form returns itself, to be told them.
        """
        return self
