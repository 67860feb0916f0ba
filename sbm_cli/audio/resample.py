"""Streaming sample-rate conversion with exact length and without delay: by soxr, or by a short filter for live use."""

import functools
import math

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sbm_cli.errors import AudioError

LIVE = "live"  # a quality
_ZERO_CROSSINGS = 32  # of the live filter on either side, in samples of the lower rate: 2 ms at 16 kHz
_ROLL_OFF = 0.94  # its cutoff, of the lower rate's half: -60 dB at the half, flat up to 0.88 of it
_KAISER_BETA = 6.0
_MOST_TAPS = 2**22  # of the live filter; rates without a common factor need one for each fraction of a sample


class StreamResampler:
    """Convert a waveform in blocks of any size from one rate to another.

    The blocks returned by `feed` and `flush`, put together, do not depend on how the input was cut (bit for bit), are
    not delayed against it, and have exactly `resampled_length` samples. Between calls some input is held back: see
    `resampling_delay`. With equal rates the blocks pass untouched.

    rate_in, rate_out: Hz. quality: QQ, LQ, MQ, HQ or VHQ, as soxr names them; or LIVE, which holds back no more than
    `latency_seconds` and rolls off above 0.88 of the band.
    Raises ValueError for an unknown quality, AudioError for rates too odd for LIVE.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, quality: str = "HQ") -> None:
        self.rate_in, self.rate_out, self.channels = rate_in, rate_out, channels
        # Made even for equal rates, so that a wrong quality is refused whatever the file.
        self._stream = (
            _Polyphase(rate_in, rate_out, channels)
            if quality == LIVE
            else soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality=quality)
        )
        self._fed = self._given = 0

    @property
    def latency_seconds(self) -> float:
        """How long LIVE holds sound back."""
        return 0.0 if self.rate_in == self.rate_out else _ZERO_CROSSINGS / min(self.rate_in, self.rate_out)

    def feed(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples [channels, n], n ≥ 0; return those that are ready [channels, m], m ≥ 0."""
        self._fed += block.shape[1]
        result = block if self.rate_in == self.rate_out else self._convert(block)
        self._given += result.shape[1]
        return result

    def flush(self, length: int | None = None) -> NDArray[np.float32]:
        """End the input; return the rest [channels, m].

        length: total number of samples to have come out in the end, where it is known better than by rounding: from
        44.1 to 16 kHz and back two roundings may miss the file's length by a sample. What is missing is continued as if
        silence followed the input.

        Raises ValueError if more than `length` samples came out already.
        """
        total = resampled_length(self._fed, self.rate_in, self.rate_out) if length is None else length
        missing = total - self._given
        if missing < 0:
            raise ValueError(f"{total} samples in total are too few: {self._given} are out already")
        if self.rate_in == self.rate_out:
            return np.zeros((self.channels, missing), np.float32)
        # Enough silence for `total` samples and one to spare: soxr rounds the length by itself.
        silence = max(0, -(-(total + 1) * self.rate_in // self.rate_out) - self._fed)
        rest = self._convert(np.zeros((self.channels, silence), np.float32), last=True)
        return np.ascontiguousarray(rest[:, :missing])

    def _convert(self, block: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        interleaved = np.ascontiguousarray(block.T, dtype=np.float32)  # [samples, channels]
        return np.ascontiguousarray(self._stream.resample_chunk(interleaved, last=last).T)


class _Polyphase:
    """A windowed sinc at every fraction of a sample that occurs; soxr's filters come in blocks of 20 ms and more."""

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        divisor = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // divisor, rate_in // divisor
        cutoff = _ROLL_OFF * min(1.0, rate_out / rate_in)
        self._half = math.ceil(_ZERO_CROSSINGS * max(1.0, rate_in / rate_out))  # input samples
        if 2 * self._half * self._up > _MOST_TAPS:
            raise AudioError(
                f"cannot convert from {rate_in} to {rate_out} Hz live: the rates have too small a common factor.",
                "Choose a usual rate, such as 48000.",
            )
        offsets = np.arange(1 - self._half, self._half + 1) - np.arange(self._up)[:, None] / self._up
        taper = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (offsets / self._half) ** 2, 0, 1)))
        filters = np.sinc(cutoff * offsets) * taper
        self._filters = (filters / filters.sum(1, keepdims=True)).astype(np.float32)  # [fractions, taps]
        self._input = np.zeros((self._half - 1, channels), np.float32)
        self._position = 0  # of the next output, in input samples times up, from the first tap of its filter

    def resample_chunk(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Return what is ready [m, channels] after the next samples [n, channels], as soxr does."""
        rest = np.zeros((self._half if last else 0, samples.shape[1]), np.float32)
        self._input = np.concatenate([self._input, samples, rest])
        positions = np.arange(self._position, (len(self._input) - 2 * self._half + 1) * self._up, self._down)
        if not len(positions):
            return samples[:0]
        starts, fractions = np.divmod(positions, self._up)
        taps = sliding_window_view(self._input, 2 * self._half, axis=0)[starts]  # [m, channels, taps]
        passed, self._position = divmod(int(positions[-1]) + self._down, self._up)
        self._input = self._input[passed:]
        return np.einsum("mct,mt->mc", taps, self._filters[fractions])


def resampled_length(samples: int, rate_in: int, rate_out: int) -> int:
    """Return samples · rate_out / rate_in, rounded half up, in whole numbers so that no file is too long for it."""
    return (2 * samples * rate_out + rate_in) // (2 * rate_in)


@functools.cache
def resampling_delay(rate_in: int, rate: int, rate_out: int) -> float:
    """Return how many seconds of sound the conversion from `rate_in` to `rate` and on to `rate_out` holds at most."""
    there, back = StreamResampler(rate_in, rate, 1), StreamResampler(rate, rate_out, 1)
    block = np.zeros((1, max(1, rate_in // 1000)), np.float32)
    fed = returned = 0
    most = 0.0
    while fed < 2 * rate_in:
        fed += block.shape[1]
        returned += back.feed(there.feed(block)).shape[1]
        most = max(most, fed / rate_in - returned / rate_out)
    return most
