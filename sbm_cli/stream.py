"""Enhancement block by block: a stream as sound arrives, or several side by side as one batch of the network."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sbm_cli.audio.resample import StreamResampler, resampled_length
from sbm_cli.audio.samples import LIMIT, full_scale_one, usable, whole_rate
from sbm_cli.chain import Carry, enhance_block, frames_late
from sbm_cli.errors import ModelError
from sbm_cli.options import Options

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer

Samples = NDArray[np.float32]
_PROCESS = os.getpid()  # that imported us; another one has been forked from it


class Streams:
    """Recordings of any rates and lengths, block by block, side by side; each comes out as it would alone.

    enhancer: the model. forms: rate in Hz and channels of each recording.

    Raises ModelError if the options ask for several steps of a model that has only one.
    """

    def __init__(self, enhancer: Enhancer, forms: Sequence[tuple[int, int]], options: Options) -> None:
        config = enhancer.config
        if options.steps > 1 and not config.network.embedding:
            raise ModelError(f"{config.name} was trained without time, for one step.", "Leave out --steps.")
        if options.dereverb < 1 and not config.network.keep_room:
            raise ModelError(
                f"{config.name} was not trained to keep the room.",
                "Leave out --keep-room and --dereverb, or use another model.",
            )
        self._enhancer = enhancer
        self._options = options
        self._lanes = [_Lane(enhancer, rate, channels, options) for rate, channels in forms]
        self._high = any(lane.high for lane in self._lanes)
        self._carry = Carry([lane.width for lane in self._lanes], options.seed)
        # Zeros before the beginning, and frames that the look-ahead holds back, come out first.
        self._drop = config.stft.overlap + frames_late(enhancer, options) * config.stft.hop

    @property
    def finished(self) -> bool:
        """Whether all recordings have ended and come out."""
        return all(lane.finished for lane in self._lanes)

    def feed(self, blocks: Sequence[Samples | None]) -> list[Samples]:
        """Return what is ready of each recording, [channels, m], after one more block [channels, n], or None: its end.

        What has to wait for the others of the batch waits. After its end a recording may come out in several calls.
        """
        for lane, block in zip(self._lanes, blocks, strict=True):
            lane.end() if block is None else lane.take(block)
        count = min((lane.waiting for lane in self._lanes if not lane.finished), default=0)
        rows = np.concatenate([lane.give(count) for lane in self._lanes])
        with torch.inference_mode(), threads(self._enhancer.threads):
            noisy = torch.from_numpy(rows).to(self._enhancer.device)
            clean = enhance_block(self._enhancer, noisy, self._options, self._high, self._carry)
            drop = min(self._drop, clean.shape[1])
            self._drop -= drop
            parts = clean[:, drop:].unflatten(0, (-1, len(rows))).cpu().numpy()
        ends = itertools.accumulate(lane.width for lane in self._lanes)
        return [
            lane.put(np.concatenate(parts[: 3 if lane.high else 1, end - lane.width : end]))
            for lane, end in zip(self._lanes, ends, strict=True)
        ]


class Stream:
    """One recording: `feed` as sound arrives, `flush` at its end. Cutting differently changes nothing."""

    def __init__(self, enhancer: Enhancer, rate: float, channels: int, options: Options) -> None:
        self.fed = 0  # samples
        self._channels = channels
        self._replace_nan = options.replace_nan
        self._streams = Streams(enhancer, [(whole_rate(rate), channels)], options)
        self._flat = channels == 1  # whether blocks come as [samples]

    def feed(self, samples: ArrayLike) -> Samples:
        """Return what is ready of the enhanced sound after one more block, [channels, n] or [n] as the block.

        samples: as `Enhancer.enhance` takes them; they may be overwritten afterwards. An empty block of any shape is
        none: what is ready then is shaped as the blocks before it.

        Raises ValueError for another shape or type, and for NaN, infinity and samples beyond 1e12 unless the options
        replace them. Nothing has happened then: the stream goes on with the next block.
        """
        samples = full_scale_one(samples)
        rows = np.array(samples, ndmin=2)
        if samples.ndim in (1, 2) and not samples.size:
            rows = np.zeros((self._channels, 0), np.float32)
        if samples.ndim not in (1, 2) or len(rows) != self._channels:
            given = f"{len(rows)} in a block of shape {list(samples.shape)}"
            raise ValueError(f"expected {self._channels} channels, [samples] or [channels, samples], got {given}")
        fit = usable(rows)
        if not fit.all():
            if not self._replace_nan:
                first = self.fed + int(np.flatnonzero(~fit.all(axis=0))[0])
                raise ValueError(
                    f"sample {first} is NaN, infinite or beyond {LIMIT:.0e}; replace_nan takes it as silence"
                )
            rows = np.where(fit, rows, np.float32(0))
        if samples.size or not self.fed:
            self._flat = samples.ndim == 1 == self._channels
        self.fed += rows.shape[1]
        return self._shaped(self._streams.feed([rows]))

    def flush(self) -> Samples:
        """Return the rest, shaped as the blocks were, [n] of one channel if there were none: as many as went in."""
        return self._shaped(self._streams.feed([None]))

    def _shaped(self, enhanced: list[Samples]) -> Samples:
        return enhanced[0][0] if self._flat else enhanced[0]


class _Lane:
    """The way of one recording to the model's rate, and back to its own with the input or its high band mixed in."""

    def __init__(self, enhancer: Enhancer, rate: int, channels: int, options: Options) -> None:
        self._config = enhancer.config
        self._late = frames_late(enhancer, options)
        self._options = options
        self._rates = rate, options.rate or rate
        self.width = 1 if options.mono else channels
        self.high = options.keep_high_band and min(self._rates) > enhancer.config.rate
        self._mixed = options.share < 1 or self.high
        self._to_model = StreamResampler(rate, enhancer.config.rate, self.width)
        self._from_model = StreamResampler(enhancer.config.rate, self._rates[1], self.width * (3 if self.high else 1))
        self._to_output = StreamResampler(*self._rates, self.width)
        self._fed = self._heard = self._returned = 0  # samples; the last two at the model's rate
        self._ended = self.finished = False
        self._waiting = np.zeros((self.width, 0), np.float32)  # for the network
        # Each waits for the other, if they are mixed.
        self._input = self._enhanced = np.zeros((1, 0), np.float32)

    @property
    def waiting(self) -> int:
        return self._waiting.shape[1]

    def take(self, samples: Samples) -> None:
        self._fed += samples.shape[1]
        if self._options.mono:
            samples = samples.mean(0, keepdims=True)
        self._hear(self._to_model.feed(samples))
        if self._mixed:
            self._input = _joined(self._input, self._to_output.feed(samples))

    def end(self) -> None:
        """Let zeros follow: frames that the end is part of, and those that the look-ahead waits for."""
        if self._ended:
            return
        self._hear(self._to_model.flush())
        self._ended = True
        stft, total = self._config.stft, self._heard
        zeros = (stft.frames(total) + self._late) * stft.hop - total if total else 0
        self._waiting = _joined(self._waiting, np.zeros((self.width, zeros), np.float32))
        if self._mixed:
            length = resampled_length(self._fed, *self._rates)
            self._input = _joined(self._input, self._to_output.flush(length))

    def give(self, count: int) -> Samples:
        """Return the next samples for the network, [width, count]; silence once there are none."""
        given, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return given if given.shape[1] == count else np.zeros((self.width, count), np.float32)

    def put(self, clean: Samples) -> Samples:
        """Return what is ready of the output after the next samples from the network."""
        if self._ended:
            clean = clean[:, : self._heard - self._returned]
        self._returned += clean.shape[1]
        enhanced = self._from_model.feed(clean) if not self.finished else clean
        if self._ended and self._returned == self._heard and not self.finished:
            self.finished = True
            length = resampled_length(self._fed, *self._rates)
            enhanced = np.concatenate([enhanced, self._from_model.flush(length)], axis=1)
        return self._mix(enhanced) if self._mixed else enhanced

    def _mix(self, enhanced: Samples) -> Samples:
        """Mix the input, or its high band, back in: sample k of the one belongs to sample k of the other."""
        enhanced = _joined(self._enhanced, enhanced)
        count = min(enhanced.shape[1], self._input.shape[1])
        self._enhanced, enhanced = enhanced[:, count:], enhanced[:, :count]
        self._input, given = self._input[:, count:], self._input[:, :count]
        if self.high:
            enhanced, low, gain = np.split(enhanced, 3)
            enhanced = enhanced + gain * (given - low)
        share = np.float32(self._options.share)
        return share * enhanced + (1 - share) * given if share < 1 else enhanced

    def _hear(self, samples: Samples) -> None:
        self._heard += samples.shape[1]
        self._waiting = _joined(self._waiting, samples)


def _joined(before: Samples, block: Samples) -> Samples:
    return np.concatenate([before, block], axis=1) if before.size else block


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's thread count for the length of a block and restore it.

    In a forked process it is one: OpenMP waits there for threads that stayed behind in the parent.
    """
    if os.getpid() != _PROCESS:
        count = 1
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
