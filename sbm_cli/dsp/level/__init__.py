"""Causal level of a signal, frame by frame.

Spectra are divided by it before the network and multiplied after, so that quiet and loud recordings look alike. It acts
on spectra because overlap-add would not undo a time-varying gain on the waveform.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from sbm_cli.arrays import Array, functions
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

        power: mean power per frame, [groups, frames], one frame at least; a group is the linked channels of a file.
        carry: level of the frame before, [groups]; None, or 0, starts at the power of the first frame.
        """
        x = functions(power)
        if not isinstance(power, np.ndarray) and power.device.type == "cpu" and not x.compiler.is_compiling():
            # Few numbers in many frames: an operator of NumPy costs a tenth of one of torch.
            known = self.track(power.numpy(), frame_seconds, None if carry is None else carry.numpy())
            return x.from_numpy(known[0]), x.from_numpy(known[1])
        power, (rise, fall) = power.clip(min=self.floor), self.rates(frame_seconds)
        level = power[:, 0] if carry is None else x.where(carry > 0, carry, power[:, 0])
        if not isinstance(power, np.ndarray) and power.device.type == "cuda" and _has_triton():
            from sbm_cli.dsp.level.triton import levels_of

            levels = levels_of(power, level, rise, fall)
            return levels, levels[:, -1]
        followed = []
        for frame in power.T:
            step = frame - level
            level = level + x.maximum(rise * step, fall * step)  # rise >= fall: the larger one is right for the sign
            followed.append(level)
        return x.stack(followed, 1), level

    def rates(self, frame_seconds: float) -> tuple[float, float]:
        """Return by how much of the difference the level rises and falls in a frame."""
        rise, fall = (1 - math.exp(-frame_seconds / seconds) for seconds in (self.attack, self.release))
        return rise, fall


SILENCE = 1e-12  # frame power (-120 dBFS) below which there is nothing to enhance and the output is zero
# Smooths the gain of the band that the model does not see.
HIGH_BAND = Level(attack=0.02, release=0.02, floor_db=-120.0)


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None  # without it the scan says so


def frame_power(spectrum: Array, start: int = 0) -> Array:
    """Return the mean power over the bins from `start` on, [batch, frames]; spectrum: [batch, freq, frames]."""
    return (spectrum.real**2 + spectrum.imag**2)[:, start:].mean(1)  # ONNX takes no slice of complex numbers
