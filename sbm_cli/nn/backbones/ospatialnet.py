"""The paper's backbone: time-frequency compression, oSpatialNet-Mamba blocks, a full-band Mamba, decompression.

It predicts the clean spectrum (data prediction) as `G * noisy + R` with G and R complex and unbounded. Untrained it
returns its input: G = 1 and R = 0. A bounded mask and a direct estimate are there to compare with.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.nn.blocks import CrossBandBlock, FullBandBlock, ModulatedNorm, NarrowBandBlock, TimeEmbedding
from sbm_cli.nn.network import Carry, Network, NetworkConfig
from sbm_cli.nn.sequence import SEQUENCES, SequenceCarry

OUTPUTS = {"mask+residual": (1.0, 0.0, 0.0, 0.0), "mask": (1.0, 0.0), "direct": (0.0, 0.0)}  # and the untrained G, R


@dataclass(frozen=True)
class OSpatialNetConfig(NetworkConfig):
    """Dimensions of an oSpatialNet-Mamba.

    bins: stride * bands + 1. d_state: states of every Mamba channel. embedding: size of the time embedding; 0 is a
    network without time, which sees only the noisy spectrum (a mapping baseline, or a bridge model folded at t = 1).
    untimed: such a network sees the state too, and is not told its time.
    filter_frames: taps of a complex filter along time beside the mask, below `filter_bins`; 1 leaves it out. It can
    resolve harmonics that one window does not ("deep filtering", Mack & Habets, arXiv 1904.08369).
    sequence: what walks along time, "mamba", "lstm" or "attention" (`nn/sequence.py`).
    output: "mask+residual"; "mask", G with its size bounded by tanh (Hu et al., arXiv 2008.00264), untrained tanh(1);
    or "direct", R alone, untrained silence.
    """

    stride: int = 8  # bins per band
    kernel: tuple[int, int] = (3, 16)  # of the encoder: frames, bins
    channels: int = 64
    blocks: int = 4
    d_state: int = 16
    cross_kernel: int = 5  # bands
    cross_groups: int = 8
    squeeze: int = 8  # channels of the full-band linear map
    fullband_squeeze: int = 3  # channels per band of the full-band Mamba; 0 leaves it out
    head: int = 12  # channels at full frequency resolution
    embedding: int = 16
    filter_frames: int = 1
    filter_bins: int = 128
    untimed: bool = False
    sequence: str = "mamba"
    output: str = "mask+residual"

    def __post_init__(self) -> None:
        c = self
        sizes = (
            c.bins,
            c.stride,
            *c.kernel,
            c.channels,
            c.blocks,
            c.d_state,
            c.cross_kernel,
            c.cross_groups,
            c.squeeze,
        )
        if min(*sizes, c.head) < 1 or min(c.embedding, c.fullband_squeeze, c.lookahead) < 0:
            raise ValueError(f"every dimension must be at least 1, and nothing negative, got {self}")
        large = c.bins > 2**14 + 1 or max(*sizes[1:], c.head, c.embedding, c.fullband_squeeze) > 4096
        if large or max(c.blocks, c.d_state, c.lookahead, c.filter_frames) > 256:
            raise ValueError(f"dimensions are too large for any practical model, got {self}")
        if (self.bins - 1) % self.stride:
            raise ValueError(f"bins - 1 must be a multiple of stride, got {self.bins} and {self.stride}")
        if self.channels % self.cross_groups:
            raise ValueError(f"channels must be a multiple of cross_groups, got {self.channels}, {self.cross_groups}")
        if (self.kernel[1] - self.stride) % 2 or self.kernel[1] < self.stride:
            raise ValueError(f"the encoder's kernel must exceed stride by an even number, got {self}")
        if self.embedding % 2:
            raise ValueError(f"embedding must be even, got {self}")
        if self.untimed and self.embedding:
            raise ValueError(f"an untimed network has no time embedding, got embedding {self.embedding}; set it to 0")
        if self.filter_frames < 1 or (self.filter_frames > 1 and not 1 <= self.filter_bins <= self.bins):
            raise ValueError(f"filter_frames must be at least 1 and filter_bins in [1, bins], got {self}")
        if (self.keep_room or self.jumps) and not self.embedding:
            raise ValueError("keep_room and jumps need a time embedding: set embedding above 0")
        if self.sequence not in SEQUENCES:
            raise ValueError(f"sequence is one of {', '.join(SEQUENCES)}, got {self.sequence!r}")
        if self.output not in OUTPUTS:
            raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {self.output!r}")

    def build(self) -> OSpatialNet:
        return OSpatialNet(self)

    def grown(self, wanted: NetworkConfig) -> NetworkConfig:
        if not isinstance(wanted, OSpatialNetConfig):
            return self
        return replace(
            self,
            lookahead=max(self.lookahead, wanted.lookahead),
            kernel=(self.kernel[0] + max(0, wanted.lookahead - self.lookahead), self.kernel[1]),
            filter_frames=wanted.filter_frames if self.filter_frames == 1 else self.filter_frames,
            filter_bins=wanted.filter_bins,
            keep_room=self.keep_room or wanted.keep_room,
            jumps=self.jumps or wanted.jumps,
        )

    @property
    def timed(self) -> bool:
        return self.embedding > 0

    @property
    def bands(self) -> int:
        return (self.bins - 1) // self.stride

    @property
    def sees_state(self) -> bool:
        """Whether the state is an input beside the noisy spectrum."""
        return self.embedding > 0 or self.untimed

    @property
    def filter_ahead(self) -> int:
        """Taps of the filter that lie after the frame it estimates."""
        return min(self.lookahead, self.filter_frames // 2)


class OSpatialNet(Network):
    """Causal but for the look-ahead."""

    config: OSpatialNetConfig

    def __init__(self, config: OSpatialNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs, start = 4 if config.sees_state else 2, torch.tensor(OUTPUTS[config.output])
        c = config
        self.embedding = TimeEmbedding(c.embedding, c.jumps) if c.embedding else None
        self.room = nn.Parameter(torch.zeros(c.embedding)) if c.keep_room else None
        # Linear up to the blocks, so that state and noisy, equal at t = 1, fold into one.
        self.encoder = nn.Conv2d(
            inputs, c.channels, c.kernel, stride=(1, c.stride), padding=(0, (c.kernel[1] - c.stride) // 2)
        )
        self.skip = nn.Conv2d(inputs, c.head, (1, 3), padding=(0, 1))
        self.cross = nn.ModuleList(
            CrossBandBlock(c.bands, c.channels, c.cross_kernel, c.cross_groups, c.squeeze) for _ in range(c.blocks)
        )
        self.narrow = nn.ModuleList(
            NarrowBandBlock(c.channels, c.d_state, c.embedding, c.sequence) for _ in range(c.blocks)
        )
        self.full = (
            FullBandBlock(c.bands, c.channels, c.fullband_squeeze, c.d_state, c.embedding, c.sequence)
            if c.fullband_squeeze
            else None
        )
        self.norm = nn.LayerNorm(c.channels)
        self.decoder = nn.Linear(c.channels, c.stride * c.head)
        self.head = nn.Conv2d(c.head, len(start), (1, 3), padding=(0, 1))
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(start)
        self.filter = (
            nn.Conv2d(c.head, 2 * c.filter_frames, (1, 3), padding=(0, 1), bias=False) if c.filter_frames > 1 else None
        )
        if self.filter is not None:
            nn.init.zeros_(self.filter.weight)

    def forward(
        self,
        state: Tensor,
        noisy: Tensor,
        t: Tensor,
        carry: Carry | None = None,
        room: Tensor | None = None,
        to: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        if noisy.shape[1] != self.config.bins:
            raise ValueError(f"expected {self.config.bins} frequencies, got a spectrum {tuple(noisy.shape)}")
        old, new = carry or {}, Carry()
        embedding = self._embed(t, room, to) if self.embedding is not None else None
        spectra = (state, noisy) if self.config.sees_state else (noisy,)
        x = torch.cat([torch.view_as_real(s.transpose(1, 2)) for s in spectra], -1)  # [batch, time, freq, 2 or 4]

        past = old["encoder"] if old else x.new_zeros(x.shape[0], self.config.kernel[0] - 1, *x.shape[2:])
        padded = torch.cat([past, x], 1)
        new["encoder"] = padded[:, x.shape[1] :]
        # On a CPU in float32, inside autocast as well: the kernels along the bands take that, and with AMX oneDNN's
        # convolution of few bfloat16 channels and wide kernels gives wrong numbers (PyTorch 2.13.0, docs/log.md).
        cast = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if cast else contextlib.nullcontext():
            z = self.encoder(padded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [batch, time, band, channel]
        for i, (cross, narrow) in enumerate(zip(self.cross, self.narrow, strict=True)):
            if self.full is not None and i == len(self.cross) // 2:
                z, new_full = self.full(z, embedding, self._carried(old, "full"))
                new |= self._named("full", new_full)
            z, new_narrow = narrow(cross(z), embedding, self._carried(old, f"narrow.{i}"))
            new |= self._named(f"narrow.{i}", new_narrow)

        # The skip path waits for the future that the blocks have seen, and the filter wants some of the past.
        behind = self.config.filter_frames - 1 - self.config.filter_ahead
        if held := self.config.lookahead + behind:
            waiting = old["lookahead"] if old else x.new_zeros(x.shape[0], held, *x.shape[2:])
            seen = torch.cat([waiting, x], 1)
            x, new["lookahead"] = seen[:, behind : behind + z.shape[1]], seen[:, z.shape[1] :]
        skip = self.skip(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [batch, time, freq, head]
        wide = self.decoder(self.norm(z)).view(*skip.shape[:2], -1, self.config.head)
        wide = skip + F.pad(wide, (0, 0, 0, 1))  # the highest bin has no band of its own
        wide = F.silu(wide).permute(0, 3, 1, 2)
        noisy = torch.view_as_complex(x[..., -2:].contiguous())
        parts = [torch.view_as_complex(pair) for pair in _pairs(self.head(wide)).unbind(-2)]
        estimate = _estimate(self.config.output, parts, noisy)
        if self.filter is not None:
            low, count = self.config.filter_bins, self.config.filter_frames
            taps = torch.view_as_complex(_pairs(self.filter(wide[..., :low])))  # [batch, time, low, taps]
            past = torch.view_as_complex(seen[:, :, :low, -2:].contiguous())
            frames = torch.stack([past[:, tap : tap + x.shape[1]] for tap in range(count)], -1)
            filtered = estimate[..., :low] + (taps * frames).sum(-1)
            estimate = torch.cat([filtered, estimate[..., low:]], -1)
        return estimate.transpose(1, 2), new

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.head

    def _embed(self, t: Tensor, room: Tensor | None, to: Tensor | None = None) -> Tensor:
        """Return the embedding of the times and of what is asked for, [batch or 1, size]."""
        assert self.embedding is not None
        embedding: Tensor = self.embedding(t, to)
        if room is None:
            return embedding
        if self.room is None:
            raise ValueError("this network was not trained to keep the room")
        return embedding + room[:, None] * self.room

    def _carried(self, carry: Carry, name: str) -> SequenceCarry | None:
        """Return what a block begins with."""
        first, second = SEQUENCES[self.config.sequence].carries
        return (carry[f"{name}.{first}"], carry[f"{name}.{second}"]) if carry else None

    def _named(self, name: str, carry: SequenceCarry) -> Carry:
        """Return what a block leaves, under its names."""
        return {f"{name}.{part}": x for part, x in zip(SEQUENCES[self.config.sequence].carries, carry, strict=True)}

    @torch.no_grad()
    def fold(self, t: float = 1.0, room: float = 0.0) -> OSpatialNet:
        if not self.config.sees_state:
            return self
        with torch.device("meta"):  # its weights follow
            folded = OSpatialNet(replace(self.config, embedding=0, untimed=False, keep_room=False, jumps=False))
        left = ("embedding", "room")
        weights = {
            k: v.clone() for k, v in self.state_dict().items() if "modulation" not in k and not k.startswith(left)
        }
        if self.embedding is not None:
            wish = self.head.weight.new_full((1,), room) if self.room is not None else None
            embedding = self._embed(self.head.weight.new_full((1,), t), wish)
            for name, module in self.named_modules():
                if isinstance(module, ModulatedNorm):
                    gain, offset = module.affine(embedding)
                    weights[f"{name}.weight"], weights[f"{name}.bias"] = gain[0], offset[0]
        for name in ("encoder.weight", "skip.weight"):
            weights[name] = weights[name][:, :2] + weights[name][:, 2:]
        folded.load_state_dict(weights, assign=True)
        return folded.train(self.training)


def _pairs(channels: Tensor) -> Tensor:
    """Return channels [batch, 2 n, time, freq] as pairs, real and imaginary part, [batch, time, freq, n, 2]."""
    return channels.permute(0, 2, 3, 1).float().contiguous().view(*channels.shape[:1], *channels.shape[2:], -1, 2)


def _estimate(output: str, parts: list[Tensor], noisy: Tensor) -> Tensor:
    """Return the estimate from the head's complex parts (G, R or both), all [batch, time, freq]."""
    if output == "mask+residual":
        return parts[0] * noisy + parts[1]
    if output == "direct":
        return parts[0]
    size = parts[0].abs() + 1e-6  # tanh(size) / size -> 1 at zero
    return parts[0] * (size.tanh() / size) * noisy
