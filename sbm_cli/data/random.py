"""Counter-based random numbers on any device: what they are depends on their key alone, never on a generator's past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Purposes, so that no two draws of an item share numbers. The mixer adds 10 times the number of its split to its own.
MIXTURE, SECOND_TALKER, FLOOR, COLOURED, BANDWIDTH, CODEC, GAPS, SOFT_CLIP, NOISE_SPEED = range(9)
TIME, BRIDGE_NOISE, WARM_LEVEL, OWN_NOISE, KEEP_ROOM, TRAJECTORY, WALK, SECOND_NOISE, THIRD_NOISE, EXCERPT = range(
    100, 110
)

Rows = Tensor | slice  # some of the items, or all of them

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def rows_of(mask: Tensor) -> Rows:
    """Return the rows to compute: on a CPU the chosen ones; on a GPU all, for to ask which they are is to wait."""
    return mask.nonzero()[:, 0] if mask.device.type == "cpu" else slice(None)


def uniforms(seed: int, step: int, items: Tensor, stream: int, count: int) -> Tensor:
    """Return uniform numbers in [0, 1), float32 [items, count] on the device of `items`.

    items: int64 [items]. Number i of an item is a function of (seed, step, item, stream, i); of step, item and stream
    the lower 32 bits count, of seed 64. The same on every device, bit for bit.
    """
    words = _words(seed, step, items, stream, count)
    return torch.stack([(word >> 8).float() * 2.0**-24 for word in words], -1).flatten(1)[:, :count]


def normals(seed: int, step: int, items: Tensor, stream: int, count: int) -> Tensor:
    """Return standard normal numbers, float32 [items, count], keyed as `uniforms` and equal on devices to rounding.

    Source: Box & Muller 1958. 32 bits of radius reach 6.8 standard deviations.
    """
    a, b, c, d = _words(seed, step, items, stream, count)
    numbers = []
    for first, second in ((a, b), (c, d)):
        radius = first.float().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = second.float().mul_(math.pi * 2.0**-31)
        numbers += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(numbers, -1).flatten(1)[:, :count]


class Draws:
    """The first `count` uniform numbers of every item, handed out one after another: all [items], or [items, many]."""

    def __init__(self, seed: int, step: int, items: Tensor, stream: int, count: int) -> None:
        self._key = seed, step, items, stream
        self._rows = uniforms(*self._key, count).T.contiguous()
        self._used = 0

    def apart(self, purpose: int, count: int = 0) -> Draws:
        """Return numbers of the same items for a purpose of their own, as many as here unless told."""
        seed, step, items, stream = self._key
        return Draws(seed, step, items, stream + purpose, count or len(self._rows))

    def normal(self, purpose: int, rows: Rows, count: int) -> Tensor:
        """Return standard normal numbers of some items, [rows, count]."""
        seed, step, items, stream = self._key
        return normals(seed, step, items[rows], stream + purpose, count)

    def uniform(self, low: float = 0.0, high: float = 1.0, many: int | None = None) -> Tensor:
        """Return uniform numbers in [low, high)."""
        rows = self._rows[self._used : self._used + (many or 1)]
        self._used += many or 1
        return low + (high - low) * (rows[0] if many is None else rows.T)

    def chance(self, p: float) -> Tensor:
        """Return what is true with probability p."""
        return self.uniform() < p

    def below(self, bound: Tensor | int, many: int | None = None) -> Tensor:
        """Return integers in [0, bound), int64."""
        return (self.uniform(many=many).double() * bound).long()  # in float32 the product could round up to the bound


def philox(counter: Sequence[Any], key: tuple[int, int]) -> list[Tensor]:
    """Encrypt counters of four 32-bit words with a key of two by ten rounds of Philox4x32.

    The words are int64 tensors that broadcast, or integers, at least one of each pair (0, 1), (2, 3) a tensor.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    a, b, c, d = counter
    for i in range(10):
        # A 64-bit product wraps around in int64 without losing a bit. Of b and d the upper halves never count.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        key_a, key_b = ((word + i * weyl) & _MASK for word, weyl in zip(key, _WEYL, strict=True))
        a = (right >> 32 ^ b).bitwise_xor_(key_a).bitwise_and_(_MASK)
        c = (left >> 32 ^ d).bitwise_xor_(key_b).bitwise_and_(_MASK)
        b, d = right, left
    return [a, b & _MASK, c, d & _MASK]


def _words(seed: int, step: int, items: Tensor, stream: int, count: int) -> list[Tensor]:
    """Return four random words of 32 bits for each of the blocks that hold `count` numbers: int64 [items, blocks]."""
    block = torch.arange(-(-count // 4), device=items.device)
    counter = (block, stream & _MASK, items[:, None] & _MASK, step & _MASK)
    return philox(counter, (seed & _MASK, seed >> 32 & _MASK))
