"""The paper's backbone: time-frequency compression, oSpatialNet-Mamba blocks, a full-band Mamba, decompression.

It predicts the clean spectrum (data prediction) as `G * noisy + R` with G and R complex and unbounded. Untrained it
returns its input: G = 1 and R = 0. A bounded mask and a direct estimate are there to compare with.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.nn.blocks import CrossBandBlock, FullBandBlock, ModulatedNorm, NarrowBandBlock, TimeEmbedding
from sbm_cli.nn.configs import OUTPUTS, OSpatialNetConfig
from sbm_cli.nn.network import Carry, Network
from sbm_cli.nn.sequence import SEQUENCES, SequenceCarry


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

    def estimate(
        self, state: Tensor, noisy: Tensor, embedding: Tensor | None, carry: Carry | None
    ) -> tuple[Tensor, Carry]:
        old, new = carry or {}, Carry()
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

    @torch.no_grad()
    def inherit(self, smaller: Network) -> None:
        """Take the weights of a smaller network; more blocks come last in each half, and add nothing at first."""
        assert isinstance(smaller, OSpatialNet)
        before, after = len(smaller.cross), len(self.cross)
        moved = {str(i): i + (after // 2 - before // 2 if i >= before // 2 else 0) for i in range(before)}
        for i in {*range(after)} - {*moved.values()}:
            cross, sequence = self.cross[i], getattr(self.narrow[i], self.config.sequence)
            for layer in (cross.conv1.conv, cross.full.unsqueeze, cross.conv2.conv, sequence.out_proj):
                for parameter in layer.parameters():
                    parameter.zero_()

        def moved_name(name: str) -> str:
            kind, *rest = name.split(".")
            return ".".join([kind, str(moved[rest[0]]), *rest[1:]]) if kind in ("cross", "narrow") else name

        self._inherit({moved_name(name): old for name, old in smaller.state_dict().items()})

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
        wanted = self.head.weight.new_full((1,), room) if self.room is not None else None
        embedding = self.embed(self.head.weight.new_full((1,), t), wanted)
        if embedding is not None:
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
