"""How loud speech and pauses are, before the work and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sbm_cli.audio.samples import Samples

FRAMES = 20  # a second
FLOOR_DB = -120  # of full scale: what is softer counts as that
MARGIN_DB = 15.9  # of the speech above the softest of it (ITU-T P.56)
_PAUSES = 0.2  # share of the frames that count as pauses at least: in loud noise they are too loud to be told apart
_STEPS = 1 - FLOOR_DB  # of one dB, up to full scale; what is louder counts as that


@dataclass(frozen=True)
class Levels:
    """Levels in dB of full scale; None where there is no speech, or nothing at all.

    speech: mean power of the frames that hold speech; pauses: the median of the others. Each recording is judged by
    itself, so that the levels before do not depend on what is done to it.
    """

    speech_before: float | None
    speech_after: float | None
    pauses_before: float | None
    pauses_after: float | None


class LevelMeter:
    """Measure the levels of a recording, in blocks of any size, at constant memory."""

    def __init__(self, rate: int) -> None:
        self._rate, self._fed, self._done = rate, 0, 0  # samples, frames
        self._rest = np.zeros(0, np.float32)  # powers of samples
        self._counts = np.zeros(_STEPS, np.int64)  # frames, by their level

    def feed(self, block: Samples) -> None:
        """Take the next block [channels, n]."""
        powers = np.concatenate([self._rest, np.square(block).mean(0)])
        start, self._fed = self._fed - len(self._rest), self._fed + block.shape[1]
        ready = self._fed * FRAMES // self._rate
        edges = np.arange(self._done, ready + 1) * self._rate // FRAMES - start
        self._done, self._rest = ready, powers[edges[-1] :]
        sums = np.diff(np.cumsum(np.concatenate([[0.0], powers]))[edges])
        levels = 10 * np.log10(np.maximum(sums, 1e-30) / np.maximum(np.diff(edges), 1))
        np.add.at(self._counts, np.clip(np.rint(levels) - FLOOR_DB, 0, _STEPS - 1).astype(np.intp), 1)

    def levels(self) -> tuple[float | None, float | None]:
        """Return the levels of speech and pauses in what came so far."""
        decibels = np.arange(FLOOR_DB, 1)[::-1]  # loudest first
        powers, counts = 10 ** (decibels / 10), self._counts[::-1]
        counted, summed = np.cumsum(counts), np.cumsum(counts * powers)
        means = 10 * np.log10(np.maximum(summed, 1e-30) / np.maximum(counted, 1))
        # Down to the softest level that the mean of what is at least as loud exceeds by no more than the margin.
        speech = counts * ((means - decibels <= MARGIN_DB) & (decibels > FLOOR_DB))
        total, spoken = int(counts.sum()), int(speech.sum())
        if not total:
            return None, None
        pauses = decibels[np.searchsorted(counted, total - max(total - spoken, _PAUSES * total) / 2)]
        return (10 * math.log10(speech @ powers / spoken) if spoken else None), float(pauses)
