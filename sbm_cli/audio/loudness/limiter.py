"""A gain whose true peaks stay below a ceiling."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sbm_cli.audio.resample import StreamResampler
from sbm_cli.audio.samples import Samples

CEILING_DB = -1.0  # of the true peak, as EBU R 128 asks
_OVERSAMPLING = 8
_MISSED_DB = 0.2  # by which a peak may pass those of the oversampled waveform: 1 / cos(pi / 16)
_REACH = 15  # blocks of a millisecond over which the gain falls and rises: a pitch period and more


class Limiter:
    """Amplify a waveform, in blocks, and lower the moments at which its true peak would pass the ceiling.

    All channels get one gain, which changes slowly enough to be inaudible and begins to fall before the peak. In total
    as many samples come out as go in.
    """

    def __init__(self, rate: int, channels: int, gain_db: float, ceiling_db: float = CEILING_DB) -> None:
        self._gain, self._ceiling = np.float32(10 ** (gain_db / 20)), 10 ** ((ceiling_db - _MISSED_DB) / 20)
        self._oversampled = StreamResampler(rate, rate * _OVERSAMPLING, channels)
        self._block = max(1, rate // 1000)
        self._waiting = np.zeros((channels, 0), np.float32)
        self._fine = np.zeros((channels, 0), np.float32)
        self._limits = np.ones(2 * _REACH + 1)  # of the gain, by blocks: of some that are out, and of those that wait
        taper = np.hanning(2 * _REACH + 3)[1:-1]
        self._taper = taper / taper.sum()

    def feed(self, block: Samples) -> Samples:
        """Return what is ready after the next samples [channels, n]."""
        block = self._gain * block
        return self._ready(block, self._oversampled.feed(block))

    def flush(self) -> Samples:
        """Return the rest."""
        left = self._waiting.shape[1]
        silence = np.zeros((len(self._waiting), (2 * _REACH + 4) * self._block), np.float32)
        fine = np.concatenate([self._oversampled.flush(), silence.repeat(_OVERSAMPLING, axis=1)], axis=1)
        return self._ready(silence, fine)[:, :left]

    def _ready(self, block: Samples, fine: Samples) -> Samples:
        """Return the samples whose gain is known; fine: the same waveform, oversampled."""
        self._waiting = np.concatenate([self._waiting, block], axis=1)
        self._fine = np.concatenate([self._fine, fine], axis=1)
        size = self._block * _OVERSAMPLING
        blocks = self._fine.shape[1] // size
        peaks = np.abs(self._fine[:, : blocks * size]).reshape(len(fine), blocks, size).max((0, 2), initial=0)
        self._fine = self._fine[:, blocks * size :]
        limits = np.concatenate([self._limits, self._ceiling / np.maximum(peaks, self._ceiling)])
        ready = len(limits) - 4 * _REACH - 3
        if ready < 1:
            self._limits = limits
            return self._waiting[:, :0]
        self._limits = limits[ready:]
        # At the edges of the blocks: no more than any block within reach allows, so that a mean of those, and what lies
        # between two edges, allows a block on either side.
        lowest = sliding_window_view(limits, 2 * _REACH + 3).min(1)
        edges = sliding_window_view(lowest, 2 * _REACH + 1) @ self._taper
        count = ready * self._block
        gains: Samples = np.interp(np.arange(count) / self._block, np.arange(ready + 1), edges).astype(np.float32)
        done, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return done * gains
