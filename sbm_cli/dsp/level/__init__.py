"""Causal level of a signal, frame by frame.

Spectra are divided by it before the network and multiplied after, so that quiet and loud recordings look alike. It acts
on spectra because overlap-add would not undo a time-varying gain on the waveform.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """Recursive mean of the power of frames with a fast attack and a slow release.

    attack, release: time constants in seconds. floor_db: smallest level in dBFS, for silence.
    low_hz: lower frequencies, such as DC offset and rumble, do not count.
    """

    attack: float = 0.075
    release: float = 10.0
    floor_db: float = -60.0
    low_hz: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.attack <= self.release or not -200 <= self.floor_db <= 0:
            raise ValueError(f"need 0 < attack <= release and floor_db between -200 and 0, got {self}")

    @property
    def floor(self) -> float:
        """The smallest level, as a power."""
        return 10 ** (self.floor_db / 10)

    def power(self, spectrum: Tensor, bin_hz: float) -> Tensor:
        """Return the mean power from low_hz up of every frame, [batch, frames]; spectrum: [batch, freq, frames]."""
        return frame_power(spectrum, math.ceil(self.low_hz / bin_hz))

    def track(self, power: Tensor, frame_seconds: float, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the level of every frame, and of the last one.

        power: mean power per frame, [groups, frames]; a group is the linked channels of a file.
        carry: level of the frame before, [groups]; None, or 0, starts at the power of the first frame.
        """
        power = power.clamp_min(self.floor)
        if not power.shape[1]:
            return power, power.new_zeros(len(power)) if carry is None else carry
        rise, fall = (1 - math.exp(-frame_seconds / seconds) for seconds in (self.attack, self.release))
        numpy = power.device.type == "cpu" and not torch.compiler.is_compiling()
        if numpy and not (power.requires_grad or (carry is not None and carry.requires_grad)):
            # Few numbers in many frames: an operator of NumPy costs a tenth of one of torch.
            frames = power.numpy().T
            start = frames[0] if carry is None else np.where(carry.numpy() > 0, carry.numpy(), frames[0])
            followed = np.empty_like(frames)
            for k, now in enumerate(_follow(frames, start, rise, fall, np.maximum)):
                followed[k] = now
            return torch.from_numpy(followed.T), torch.from_numpy(followed[-1])
        level = power[:, 0] if carry is None else torch.where(carry > 0, carry, power[:, 0])
        if power.device.type == "cuda" and not power.requires_grad and (compiled := _compiled()) is not None:
            known = compiled.levels_of(power, level, rise, fall)
            return known, known[:, -1]
        levels = list(_follow(power.unbind(1), level, rise, fall, torch.maximum))
        return torch.stack(levels, 1), levels[-1]


@functools.cache
def _compiled() -> ModuleType | None:
    try:
        from sbm_cli.dsp.level import triton
    except ImportError:  # no Triton: the scan says so
        return None
    return triton


def _follow(frames: Iterable[Any], level: Any, rise: float, fall: float, maximum: Callable[..., Any]) -> Iterator[Any]:
    """Yield the level of every frame, arrays or tensors [groups]."""
    for frame in frames:
        step = frame - level
        level = level + maximum(rise * step, fall * step)  # rise >= fall: the larger one is right for the sign
        yield level


def frame_power(spectrum: Tensor, start: int = 0) -> Tensor:
    """Return the mean power over the bins from `start` on, [batch, frames]; spectrum: [batch, freq, frames]."""
    return torch.view_as_real(spectrum)[:, start:].square().sum(-1).mean(1)
