"""What the page plays and shows of a recording: before and after, in step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.resample import StreamResampler
from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.spectrogram import brightness, spectrogram_of

RATES = 8000, 48000  # the least and the most that is played
ROWS = 256  # of a picture, at most


@dataclass(frozen=True)
class Listening:
    """Where the sound is: samples of 16 bits, one after another those of each channel, before and then after.

    channels: of both. pictures: before and after, a byte for each point, rows from the highest frequency downwards.
    """

    path: Path
    rate: int
    channels: tuple[int, int]
    samples: int
    pictures: NDArray[np.uint8]  # [2, rows, columns]

    def describe(self) -> dict[str, Any]:
        _, rows, columns = self.pictures.shape
        told = {"rate": self.rate, "channels": self.channels, "samples": self.samples}
        return told | {"rows": rows, "columns": columns}


def listen(before: Path, after: Path, path: Path, stream: int | None, check: Callable[[], None]) -> Listening:
    """Write before and after to `path`, at the rate of the latter as far as it is played.

    stream: of several in the files, from 1. check: called for every second of sound; its exception ends the work.
    """
    least, most = RATES
    with SoundReader(before, True, stream) as heard, SoundReader(after, True, stream) as enhanced:
        readers, rate = (heard, enhanced), min(max(enhanced.format.rate, least), most)
        channels = _played(heard), _played(enhanced)
        with path.open("wb") as file:
            for blocks in itertools.zip_longest(*(_blocks(reader, rate) for reader in readers)):
                check()
                length = max(block.shape[1] for block in blocks if block is not None)
                both = np.zeros((sum(channels), length), np.float32)
                for block, first, count in zip(blocks, (0, channels[0]), channels, strict=True):
                    if block is not None:
                        both[first : first + count, : block.shape[1]] = block
                steps = np.clip(np.rint(both.T * 2**15), -(2**15), 2**15 - 1)
                file.write(steps.astype("<i2").tobytes())
    samples = path.stat().st_size // (2 * sum(channels))
    written = np.memmap(path, "<i2", "r", shape=(samples, sum(channels))) if samples else np.zeros((0, sum(channels)))
    return Listening(path, rate, channels, samples, _pictures(written, channels, rate, check))


def _played(reader: SoundReader) -> int:
    """Return how many channels are played: mono and stereo as they are, more mixed down to one."""
    return 2 if reader.format.channels == 2 else 1


def _blocks(reader: SoundReader, rate: int) -> Iterator[Samples]:
    """Yield the sound [channels, n] as it is played, in blocks of a second, the last one shorter."""
    channels = _played(reader)
    resampler = StreamResampler(reader.format.rate, rate, channels)
    waiting = np.zeros((channels, 0), np.float32)
    for block in itertools.chain(reader.blocks(reader.format.rate), [None]):
        if block is None:
            ready = resampler.flush()
        else:
            ready = resampler.feed(block if len(block) == channels else block.mean(0, keepdims=True))
        waiting = np.concatenate([waiting, ready], axis=1)
        while waiting.shape[1] >= rate or (block is None and waiting.size):
            yield waiting[:, :rate]
            waiting = waiting[:, rate:]


def _pictures(
    samples: NDArray[Any], channels: tuple[int, int], rate: int, check: Callable[[], None]
) -> NDArray[np.uint8]:
    """Return the pictures of samples [n, channels], on one scale."""
    powers = []
    for first, count in zip((0, channels[0]), channels, strict=True):
        seen = spectrogram_of(_seconds(samples[:, first : first + count], rate, check), rate, count, len(samples))
        bins = seen.power.shape[1]
        edges = np.linspace(0, bins, min(ROWS, bins) + 1).astype(int)
        powers.append(np.add.reduceat(seen.power, edges[:-1], axis=1) / np.diff(edges))
    both = np.stack(powers)
    bright = brightness(both, both.max())
    return np.round(255 * np.clip(bright, 0, 1)).astype(np.uint8).transpose(0, 2, 1)[:, ::-1]


def _seconds(samples: NDArray[Any], rate: int, check: Callable[[], None]) -> Iterator[Samples]:
    for start in range(0, len(samples), rate):
        check()
        yield samples[start : start + rate].T.astype(np.float32) / np.float32(2**15)
