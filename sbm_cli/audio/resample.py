"""Streaming sample-rate conversion by soxr, with exact length and without delay."""

import numpy as np
import soxr
from numpy.typing import NDArray


class StreamResampler:
    """Convert a waveform in blocks of any size from one rate to another.

    The blocks returned by `feed` and `flush`, put together, do not depend on how the input was cut (bit for bit), are
    not delayed against it, and have exactly `resampled_length` samples. Between calls up to about 40 ms of input is
    held back. With equal rates the blocks pass untouched.

    rate_in, rate_out: Hz. quality: QQ, LQ, MQ, HQ or VHQ, as soxr names them.
    Raises ValueError for a rate or channel count below 1 and an unknown quality.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, quality: str = "HQ") -> None:
        if rate_in < 1 or rate_out < 1 or channels < 1:
            raise ValueError(f"rates and channels must be at least 1, got {rate_in}, {rate_out}, {channels}")
        self.rate_in, self.rate_out, self.channels = rate_in, rate_out, channels
        # Made even for equal rates, so that a wrong quality is refused whatever the file.
        self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality=quality)
        self._fed = self._given = 0
        self._open = True

    def feed(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples [channels, n], n ≥ 0; return those that are ready [channels, m], m ≥ 0.

        Raises ValueError for another channel count, or after `flush`.
        """
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"expected a block [{self.channels}, samples], got shape {list(block.shape)}")
        if not self._open:
            raise ValueError("the resampler has been flushed; make a new one")
        self._fed += block.shape[1]
        result = block if self.rate_in == self.rate_out else self._convert(block)
        self._given += result.shape[1]
        return result

    def flush(self, length: int | None = None) -> NDArray[np.float32]:
        """End the input; return the rest [channels, m].

        length: total number of samples to have come out in the end, where it is known better than by rounding: from
        44.1 to 16 kHz and back two roundings may miss the file's length by a sample. What is missing is continued as if
        silence followed the input.

        Raises ValueError if more than `length` samples came out already, or after a first `flush`.
        """
        if not self._open:
            raise ValueError("the resampler has been flushed; make a new one")
        self._open = False
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


def resampled_length(samples: int, rate_in: int, rate_out: int) -> int:
    """Return samples · rate_out / rate_in, rounded half up, in whole numbers so that no file is too long for it."""
    return (2 * samples * rate_out + rate_in) // (2 * rate_in)
