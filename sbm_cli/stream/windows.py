"""Whole utterances block by block, for networks that are not causal: overlapping windows with cross-fades."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sbm_cli.nn.configs import WINDOW


@dataclass
class Carry:
    """What one block hands to the next.

    seen: the frames of the window that is not complete, [k, channels, freq, frames]. ready: estimates that are not
    returned yet, [channels, freq, frames]. end: of the last window's estimate, to fade out.
    """

    seen: Tensor
    ready: Tensor
    end: Tensor | None = None


def enhance_windows(
    enhance: Callable[[Tensor], Tensor],
    frames: Tensor,
    carry: Carry | None = None,
    length: int = WINDOW,
    fade: int = WINDOW // 4,
) -> tuple[Tensor, Carry]:
    """Return the estimate [channels, freq, frames], `length` frames late, and the carry for the next block.

    An approximation, as no estimate knows more than one window; but memory does not grow with the recording. One that
    is no longer than a window goes through whole, without the silence after its end.

    enhance: takes the frames of one channel in a window, [k, 1, freq, n], and returns its estimate, [1, freq, n].
    frames: [k, channels, freq, frames]; the first of k is the noisy spectrum, the others what goes with it.
    length, fade: of a window and of a cross-fade, in frames.
    """
    count = frames.shape[-1]
    carry = carry or Carry(frames[..., :0], frames.new_zeros(*frames.shape[1:3], length))
    seen, ready, end = torch.cat([carry.seen, frames], -1), carry.ready, carry.end
    ramp = torch.linspace(0, 1, fade + 2, dtype=frames.dtype, device=frames.device)[1:-1]
    while seen.shape[-1] >= length:
        estimate = frames.new_zeros(*frames.shape[1:3], length)
        for row, noisy in enumerate(seen[0, ..., :length]):
            sounding = torch.nonzero(noisy.any(0))
            if len(sounding):
                n = int(sounding[-1]) + 1
                estimate[row, :, :n] = enhance(seen[:, row : row + 1, :, :n])[0]
        if end is not None:
            estimate[..., :fade] = torch.lerp(end, estimate[..., :fade], ramp)
        ready, end = torch.cat([ready, estimate[..., : length - fade]], -1), estimate[..., length - fade :]
        seen = seen[..., length - fade :]
    return ready[..., :count], Carry(seen, ready[..., count:], end)
