"""NCSN++, a U-Net over the spectrogram: the backbone that the paper compares with.

Song et al. (arXiv 2011.13456) in the variant that they found best: residual blocks after BigGAN, resampling with a
short FIR filter, attention at the coarsest resolution, input and output pyramids, sums divided by the root of two. It
needs whole utterances: it is not causal, and its normalisation sees every frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.nn.blocks import TimeEmbedding
from sbm_cli.nn.configs import NCSNppConfig
from sbm_cli.nn.network import Carry, Network


class NCSNpp(Network):
    """The estimate is noisy plus the output of the U-Net, which is zero when untrained."""

    config: NCSNppConfig

    def __init__(self, config: NCSNppConfig) -> None:
        super().__init__()
        self.config = config
        channels, embedding = config.channels, 4 * config.channels[0]
        self.embedding, self.room = TimeEmbedding(embedding, config.jumps), None
        self.first = nn.Conv2d(4, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.pyramid_in, self.pyramid_out = nn.ModuleList(), nn.ModuleList()
        size, skips = channels[0], [channels[0]]
        for level, width in enumerate(channels):
            for _ in range(config.blocks):
                self.down.append(ResidualBlock(size, width, embedding))
                size = width
                skips.append(size)
            if level + 1 < len(channels):
                self.down.append(ResidualBlock(size, size, embedding, "down"))
                self.pyramid_in.append(nn.Conv2d(4, size, 1))
                skips.append(size)
        self.middle = nn.ModuleList([ResidualBlock(size, size, embedding), ResidualBlock(size, size, embedding)])
        self.attention = Attention(size)
        for level, width in reversed(list(enumerate(channels))):
            for _ in range(config.blocks + 1):
                self.up.append(ResidualBlock(size + skips.pop(), width, embedding))
                size = width
            self.pyramid_out.append(nn.Sequential(_norm(size), nn.SiLU(), _zero(nn.Conv2d(size, 2, 3, padding=1))))
            if level:
                self.up.append(ResidualBlock(size, size, embedding, "up"))

    def estimate(
        self, state: Tensor, noisy: Tensor, embedding: Tensor | None, carry: Carry | None
    ) -> tuple[Tensor, Carry]:
        _, bins, frames = noisy.shape
        multiple = 2 ** (len(self.config.channels) - 1)
        image = torch.cat([torch.view_as_real(s).permute(0, 3, 1, 2) for s in (state, noisy)], 1)
        image = F.pad(image, (0, -frames % multiple, 0, -bins % multiple))  # [batch, 4, freq, time]
        x = self.first(image)
        skips, images = [x], iter(self.pyramid_in)
        for block in self.down:
            x = block(x, embedding)
            if block.resample:
                image = resample(image, "down")
                x = (x + next(images)(image)) / math.sqrt(2)
            skips.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, embedding)), embedding)
        outputs, total = iter(self.pyramid_out), image.new_zeros(1)
        for number, block in enumerate(self.up):
            x = block(x if block.resample else torch.cat([x, skips.pop()], 1), embedding)
            last = number + 1 == len(self.up) or self.up[number + 1].resample
            if last and not block.resample:
                total = (resample(total, "up") if total.dim() > 1 else total) + next(outputs)(x)
        change = total[..., :bins, :frames].permute(0, 2, 3, 1).float().contiguous()
        return noisy + torch.view_as_complex(change), {}

    @property
    def output_layer(self) -> nn.Conv2d:
        *_, layer = self.pyramid_out[-1].children()
        assert isinstance(layer, nn.Conv2d)
        return layer


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with the time embedding between them, at one resolution or between two."""

    def __init__(self, size: int, width: int, embedding: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.conv1 = _norm(size), nn.Conv2d(size, width, 3, padding=1)
        self.time = nn.Linear(embedding, width)
        self.norm2, self.conv2 = _norm(width), _zero(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(size, width, 1) if size != width or resample else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = F.silu(self.norm1(x))
        if self.resample:
            x, y = resample(x, self.resample), resample(y, self.resample)
        y = self.conv1(y) + self.time(embedding)[..., None, None]
        total: Tensor = (x if self.skip is None else self.skip(x)) + self.conv2(F.silu(self.norm2(y)))
        return total / math.sqrt(2)


class Attention(nn.Module):
    """Self-attention between all places of the image; residual."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.project, self.out = _norm(size), nn.Conv2d(size, 3 * size, 1), _zero(nn.Conv2d(size, size, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        change: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return (x + change) / math.sqrt(2)


def resample(x: Tensor, way: str) -> Tensor:
    """Return images [batch, channel, freq, time] with half ("down") or twice ("up") the bins and frames, filtered."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    weight = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
    if way == "down":
        return F.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])
    return F.conv_transpose2d(x, 4 * weight, stride=2, padding=1, groups=x.shape[1])


def _norm(size: int) -> nn.GroupNorm:
    groups = max(g for g in range(1, min(32, size // 4 or 1) + 1) if size % g == 0)
    return nn.GroupNorm(groups, size, eps=1e-6)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialise a layer to zero."""
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
