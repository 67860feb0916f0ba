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

from sbm_cli.arrays import Array
from sbm_cli.config import check_ranges


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
        check_ranges(self, attack="(0, inf)", floor_db="[-200, 0]")
        if not self.attack <= self.release:
            raise ValueError(f"attack must be at most release, got {self.attack} and {self.release}")

    @property
    def floor(self) -> float:
        """The smallest level, as a power."""
        return 10 ** (self.floor_db / 10)

    def power(self, spectrum: Array, bin_hz: float) -> Array:
        """Return the mean power from low_hz up of every frame, [batch, frames]; spectrum: [batch, freq, frames]."""
        return frame_power(spectrum, math.ceil(self.low_hz / bin_hz))

    def track(self, power: Array, frame_seconds: float, carry: Array | None = None) -> tuple[Array, Array]:
        """Return the level of every frame, and of the last one.

        power: mean power per frame, [groups, frames]; a group is the linked channels of a file.
        carry: level of the frame before, [groups]; None, or 0, starts at the power of the first frame.
        """
        if isinstance(power, np.ndarray):
            return self._track(power, frame_seconds, carry)
        import torch

        if power.device.type == "cpu" and not torch.compiler.is_compiling():
            if not (power.requires_grad or (carry is not None and carry.requires_grad)):
                # Few numbers in many frames: an operator of NumPy costs a tenth of one of torch.
                known, last = self._track(power.numpy(), frame_seconds, None if carry is None else carry.numpy())
                return torch.from_numpy(known), torch.from_numpy(last)
        power = power.clamp_min(self.floor)
        if not power.shape[1]:
            return power, power.new_zeros(len(power)) if carry is None else carry
        level = power[:, 0] if carry is None else torch.where(carry > 0, carry, power[:, 0])
        rates = self.rates(frame_seconds)
        if power.device.type == "cuda" and not power.requires_grad and (compiled := _compiled()) is not None:
            known = compiled.levels_of(power, level, *rates)
            return known, known[:, -1]
        levels = list(_follow(power.unbind(1), level, *rates, torch.maximum))
        return torch.stack(levels, 1), levels[-1]

    def _track(self, power: Any, frame_seconds: float, carry: Any) -> tuple[Any, Any]:
        power = np.maximum(power, np.float32(self.floor))
        if not power.shape[1]:
            return power, np.zeros(len(power), np.float32) if carry is None else carry
        frames = power.T
        start = frames[0] if carry is None else np.where(carry > 0, carry, frames[0])
        followed = np.empty_like(frames)
        for k, now in enumerate(_follow(frames, start, *self.rates(frame_seconds), np.maximum)):
            followed[k] = now
        return followed.T, followed[-1]

    def rates(self, frame_seconds: float) -> tuple[float, float]:
        """Return by how much of the difference the level rises and falls in a frame."""
        rise, fall = (1 - math.exp(-frame_seconds / seconds) for seconds in (self.attack, self.release))
        return rise, fall


SILENCE = 1e-12  # frame power (-120 dBFS) below which there is nothing to enhance and the output is zero
# Smooths the gain of the band that the model does not see.
HIGH_BAND = Level(attack=0.02, release=0.02, floor_db=-120.0)


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


def frame_power(spectrum: Array, start: int = 0) -> Array:
    """Return the mean power over the bins from `start` on, [batch, frames]; spectrum: [batch, freq, frames]."""
    return (spectrum.real**2 + spectrum.imag**2)[:, start:].mean(1)  # ONNX takes no slice of complex numbers
