"""Clips for timing and scoring: recordings, or noise like speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.samples import Samples
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.errors import AudioError


@dataclass(frozen=True)
class Clip:
    """A piece of sound: samples [channels, n] at `rate` Hz."""

    name: str
    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return float(self.samples.shape[1] / self.rate)


def made_clips(seconds: Sequence[float], rate: int, number: int) -> list[Clip]:
    """Return the clips of one round, one of each length; every round sounds different."""
    return [Clip(f"{length:g} s", speech_like(length, rate, number)[None], rate) for length in seconds]


def read_clip(path: Path) -> Clip:
    """Return a recording as a clip.

    Raises AudioError if it cannot be read or holds nothing.
    """
    with SoundReader(path) as reader:
        blocks = list(reader.blocks(1 << 16))
        if not blocks:
            raise AudioError(f"{path}: holds no sound.")
        return Clip(str(path), np.concatenate(blocks, axis=1), reader.format.rate)


def write_clip(path: Path, clip: Clip, container: str = "WAV") -> float:
    """Write a clip in 16 bits, which any program reads, over an existing file.

    Return what it was divided by: 1, or its peak if that is beyond full scale.
    """
    scale = max(1.0, float(np.abs(clip.samples).max(initial=0)))
    form = AudioFormat(clip.rate, clip.samples.shape[0], clip.samples.shape[1], container, "PCM_16", "FILE")
    with SoundWriter(path, form, overwrite=True) as writer:
        writer.write(clip.samples / np.float32(scale))
    return scale


def speech_like(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Return noise in syllables at 4 Hz over a steady floor: never silent, so that nothing can be skipped."""
    time_axis = np.arange(round(seconds * rate), dtype=np.float32) / rate
    syllables = 0.05 + np.maximum(0, np.sin(2 * np.pi * 4 * time_axis))
    noise = np.random.default_rng(seed).standard_normal(time_axis.size, dtype=np.float32)
    return np.asarray(0.05 * syllables * noise, dtype=np.float32)
