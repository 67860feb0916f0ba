"""How loud speech and pauses are, before the work and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.samples import Samples

FRAMES = 20  # a second
FLOOR_DB = -120  # of full scale: what is softer counts as that
MARGIN_DB = 15.9  # of the speech above the softest of it (ITU-T P.56)
_STEPS = 1 - FLOOR_DB  # of one dB, up to full scale; what is louder counts as that


@dataclass(frozen=True)
class Levels:
    """Levels in dB of full scale; None where there is no speech, or no pause.

    speech: mean power of the frames that hold speech; pauses: the median of the others.
    """

    speech_before: float | None
    speech_after: float | None
    pauses_before: float | None
    pauses_after: float | None


class LevelMeter:
    """Measure the levels of a recording and of its enhanced copy, in blocks of any size, at constant memory.

    rates: of both, in Hz. The enhanced copy decides which frames hold speech.
    """

    def __init__(self, rates: tuple[int, int]) -> None:
        self._sides = [_Frames(rate) for rate in rates]
        self._waiting: list[NDArray[np.intp]] = [np.zeros(0, np.intp)] * 2
        self._counts = np.zeros((_STEPS, _STEPS), np.int64)  # frames, by their level before and after

    def feed(self, before: Samples, after: Samples) -> None:
        """Take the next blocks [channels, n] of both, which need not be equally long."""
        levels = [
            np.concatenate([waiting, side.feed(block)])
            for waiting, side, block in zip(self._waiting, self._sides, (before, after), strict=True)
        ]
        count = min(map(len, levels))
        np.add.at(self._counts, tuple(level[:count] for level in levels), 1)
        self._waiting = [level[count:] for level in levels]

    def levels(self) -> Levels:
        """Return the levels of what came so far."""
        decibels = np.arange(_STEPS) + FLOOR_DB
        powers = 10 ** (decibels / 10)
        loudest_first = self._counts.sum(0)[::-1].astype(np.float64)
        counted, summed = np.cumsum(loudest_first), np.cumsum(loudest_first * powers[::-1])
        means = 10 * np.log10(np.maximum(summed, 1e-30) / np.maximum(counted, 1))
        # The softest level that the mean of what is at least as loud exceeds by no more than the margin.
        is_speech = ((means - decibels[::-1] <= MARGIN_DB) & (decibels[::-1] > FLOOR_DB))[::-1]

        def speech(counts: NDArray[np.int64]) -> float | None:
            return 10 * math.log10(counts @ powers / counts.sum()) if counts.any() else None

        def pauses(counts: NDArray[np.int64]) -> float | None:
            middle = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
            return float(decibels[middle]) if counts.any() else None

        loud, soft = self._counts[:, is_speech], self._counts[:, ~is_speech]
        return Levels(
            speech(loud.sum(1)),
            speech(self._counts.sum(0) * is_speech),
            pauses(soft.sum(1)),
            pauses(self._counts.sum(0) * ~is_speech),
        )


class _Frames:
    """Cut one side into frames, and return their levels as steps."""

    def __init__(self, rate: int) -> None:
        self._rate, self._fed, self._done = rate, 0, 0  # samples, frames
        self._rest = np.zeros(0, np.float32)  # powers

    def feed(self, block: Samples) -> NDArray[np.intp]:
        powers = np.concatenate([self._rest, np.square(block).mean(0)])
        start, self._fed = self._fed - len(self._rest), self._fed + block.shape[1]
        ready = self._fed * FRAMES // self._rate
        edges = np.arange(self._done, ready + 1) * self._rate // FRAMES - start
        self._done, self._rest = ready, powers[edges[-1] :]
        sums = np.diff(np.cumsum(np.concatenate([[0.0], powers]))[edges])
        levels = 10 * np.log10(np.maximum(sums, 1e-30) / np.maximum(np.diff(edges), 1))
        steps: NDArray[np.intp] = np.clip(np.rint(levels) - FLOOR_DB, 0, _STEPS - 1).astype(np.intp)
        return steps
