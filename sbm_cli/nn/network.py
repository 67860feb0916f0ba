"""What a backbone is to everything around it: data prediction on spectra, block by block, in `nn/backbones`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

Carry = dict[str, Tensor]


@dataclass(frozen=True)
class NetworkConfig:
    """Dimensions of a backbone, stored beside its weights, and what it can do.

    bins: frequencies of the spectrum. lookahead: frames of future that the network sees; its output comes that many
    frames late. keep_room: whether it can be asked to keep the reverberation and remove the noise alone. jumps: whether
    it is told the time that the state is to go to, as well as its own.
    """

    bins: int = 257
    lookahead: int = 0
    keep_room: bool = False
    jumps: bool = False

    causal: ClassVar[bool] = True  # but for the look-ahead; others see whole utterances, or windows of one (`Windows`)

    @property
    def timed(self) -> bool:
        """Whether the network is told the time of the state, so that it can take several steps."""
        raise NotImplementedError

    def build(self) -> Network:
        """Return an untrained network of these dimensions."""
        raise NotImplementedError

    def grown(self, wanted: NetworkConfig) -> NetworkConfig:
        """Return these dimensions where a trained network must keep them, and the wanted ones where it can grow.

        It can where its weights, at the beginning of larger ones that are otherwise zero, do what they did.
        """
        return replace(self, jumps=self.jumps or wanted.jumps)


class Network(nn.Module):
    """`(state, noisy, t) -> estimate`, all compressed and levelled spectra, complex [batch, freq, frames]."""

    config: NetworkConfig

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

        state, noisy: complex [batch, freq, frames]; t: [batch], or [1] for all, the time of `state`.
        carry: what the last block returned; None at the beginning of a recording. Only causal networks have one.
        room: how much of the reverberation is to stay, 0 (None) to 1, [batch]; the estimate is of what is asked for.
        to: the time that a jump with this estimate goes to, 0 (None) to t, [batch] or [1]; of networks that jump.
        The estimate is shaped like noisy; frame k of it belongs to frame k - lookahead of the input.
        """
        raise NotImplementedError

    @property
    def output_layer(self) -> nn.Conv2d:
        """The last layer with weights, which every estimate leaves through."""
        raise NotImplementedError

    def fold(self, t: float = 1.0, room: float = 0.0) -> Network:
        """Return a network that equals this one where state = noisy, at the time t and for this room, for less work.

        It ignores what it is told of state, times and room; one that jumps is folded for the jump to 0. A network
        without such a form returns itself, called with them.
        """
        return Fixed(self, t, room)


class Fixed(Network):
    """A network at one time and for one room."""

    def __init__(self, network: Network, t: float, room: float) -> None:
        super().__init__()
        self.config, self.network, self.t, self.room = network.config, network, t, room

    def forward(
        self,
        state: Tensor,
        noisy: Tensor,
        t: Tensor,
        carry: Carry | None = None,
        room: Tensor | None = None,
        to: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        wish = noisy.real.new_tensor([self.room]) if self.config.keep_room else None
        found: tuple[Tensor, Carry] = self.network(noisy, noisy, torch.full_like(t, self.t), carry, wish)
        return found


class Windows(Network):
    """A network that wants whole utterances, run on overlapping windows with cross-fades, block by block.

    An approximation: what lies more than a window away is not seen. Its memory does not grow with the recording, and
    its estimates come `length` frames late.

    length, hop: frames of a window and from one to the next; hop divides length.
    """

    def __init__(self, network: Network, length: int = 512, hop: int = 256) -> None:
        super().__init__()
        if not 0 < hop <= length or length % hop:
            raise ValueError(f"hop must divide length, got {hop} and {length}")
        self.config, self.network, self.length, self.hop = network.config, network, length, hop
        ramp = torch.linspace(0, 1, length - hop + 2)[1:-1]
        # Weights that fall towards both ends, and are divided by their sum over the windows that cover a frame.
        weight = torch.minimum(torch.cat([ramp, torch.ones(hop)]), torch.cat([torch.ones(hop), ramp.flip(0)]))
        self.register_buffer("weight", weight / weight.view(-1, hop).sum(0).repeat(length // hop), persistent=False)

    @property
    def lookahead(self) -> int:
        return self.length

    def forward(
        self,
        state: Tensor,
        noisy: Tensor,
        t: Tensor,
        carry: Carry | None = None,
        room: Tensor | None = None,
        to: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        pair = torch.stack([state, noisy])
        # The first window begins before the recording, so that every frame is covered as often as any other.
        before = pair.new_zeros(*pair.shape[:3], self.length - self.hop)
        seen, total = (carry["seen"], carry["total"]) if carry else (before, noisy[..., :0])
        ready = carry["ready"] if carry else noisy.new_zeros(*noisy.shape[:2], self.hop)
        seen = torch.cat([seen, pair], -1)
        while seen.shape[-1] >= self.length:
            window = seen[..., : self.length]
            estimate, _ = self.network(*window, t, None, room, to)
            faded = estimate * self.weight
            faded[..., : total.shape[-1]] += total
            ready = torch.cat([ready, faded[..., : self.hop]], -1)
            total, seen = faded[..., self.hop :], seen[..., self.hop :]
        count = noisy.shape[-1]
        return ready[..., :count], {"seen": seen, "total": total, "ready": ready[..., count:]}
