"""Enhancement block by block: a stream as sound arrives, or several side by side as a batch of the network.

Each block passes the whole chain: resampling, STFT, level, compression, the network, and back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbm_cli.audio.resample import StreamResampler, resampled_length, resampling_delay
from sbm_cli.audio.samples import LIMIT, Samples, full_scale_one, usable, whole_rate
from sbm_cli.bridge.sampler import SAMPLERS
from sbm_cli.bridge.schedule import BridgeSchedule
from sbm_cli.dsp.chain import Chain
from sbm_cli.errors import ModelError
from sbm_cli.model import Model
from sbm_cli.options import Options, check_options

# Of a file at a time: in shorter blocks calls cost more; in longer ones activations leave the caches of a CPU.
BLOCK_SECONDS = {"cpu": 2.0, "cuda": 10.0}
# Of a recording, before it: its beginning, and then a part of that backwards, to arrive where the recording begins.
WARM_UP_SECONDS, BACKWARDS_SECONDS = 2.0, 0.5


class Streams:
    """Recordings of any rates and lengths side by side, block by block; each comes out as it would alone.

    forms: rate in Hz and channels of each recording. threads: CPU threads.

    Raises ModelError if the options ask for steps, a sampler or a room that the model was not trained for.
    """

    def __init__(self, model: Model, forms: Sequence[tuple[int, int]], options: Options, threads: int) -> None:
        config = model.config
        if options.steps > 1 and not config.network.timed:
            raise ModelError(f"{config.name} was trained without time, for one step.", "Leave out `steps`.")
        if options.dereverb < 1 and not config.network.keep_room:
            raise ModelError(
                f"{config.name} was not trained to keep the room.",
                "Use another model, or let it remove all of the reverberation.",
            )
        if SAMPLERS[options.sampler].draws and not isinstance(config.schedule, BridgeSchedule):
            raise ModelError(f"{config.name} was trained on a flow, which has no SDE.", "Use `sampler=ode` or heun.")
        if SAMPLERS[options.sampler].jumps and not config.network.jumps:
            raise ModelError(f"{config.name} was not trained to jump.", "Leave out `sampler`, or use another model.")
        self._lanes = [_Lane(model, rate, channels, options) for rate, channels in forms]
        high = any(lane.high for lane in self._lanes)
        self._chain = _chain(model, [lane.width for lane in self._lanes], options, high, threads)
        # A whole number of hops, so that frames lie as they would without. Whole utterances need none.
        self._warm_up = np.zeros(0, np.intp)  # which samples to hear before the first one
        if options.warm_up and config.network.causal:
            forth, back = (
                np.arange(round(seconds * config.rate / config.stft.hop) * config.stft.hop)
                for seconds in (WARM_UP_SECONDS, BACKWARDS_SECONDS)
            )
            self._warm_up = np.concatenate([forth, back[::-1]])
        self.warm_up_seconds = int(self._warm_up.max(initial=-1) + 1) / config.rate  # that have to come first
        # The zeros before the beginning, and the frames held back by the look-ahead, come out first.
        self._drop = config.stft.overlap + model.frames_late(options.sampler, options.steps) * config.stft.hop

    @property
    def finished(self) -> bool:
        """Whether all recordings have ended and come out."""
        return all(lane.finished for lane in self._lanes)

    def feed(self, blocks: Sequence[Samples | None]) -> list[Samples]:
        """Return what is ready of each recording, [channels, m], after its next block [channels, n], None at its end.

        Recordings wait for each other, so that the rest of one may need several calls after its end.
        """
        for lane, block in zip(self._lanes, blocks, strict=True):
            lane.end() if block is None else lane.take(block)
        count = min((lane.waiting for lane in self._lanes if not lane.finished), default=0)
        if self._warm_up.size:
            heads = [head for lane in self._lanes if (head := lane.head(self._warm_up)) is not None]
            if len(heads) == len(self._lanes):
                self._chain(np.concatenate(heads))
                self._warm_up = self._warm_up[:0]
            else:
                count = 0
        rows = np.concatenate([lane.give(count) for lane in self._lanes])
        parts = self._chain(rows)
        drop = min(self._drop, parts.shape[2])
        self._drop -= drop
        parts = parts[..., drop:]
        ends = itertools.accumulate(lane.width for lane in self._lanes)
        return [
            lane.put(np.concatenate(parts[: 3 if lane.high else 1, end - lane.width : end]))
            for lane, end in zip(self._lanes, ends, strict=True)
        ]


class Stream:
    """One recording: `feed` as sound arrives, `flush` at its end. Cutting differently changes nothing."""

    def __init__(self, model: Model, rate: float, channels: int, options: Options, threads: int) -> None:
        if not hasattr(channels, "__index__") or channels < 1:
            raise ValueError(f"channels must be a whole number from 1, got {channels!r}")
        check_options(options)
        if options.for_files:
            raise ValueError(f"{', '.join(options.for_files)}: for files only, not for arrays and streams")
        self.fed = 0  # samples
        self._model, self._rate, self._channels, self._options = model, whole_rate(rate), channels, options
        self._streams = Streams(model, [(self._rate, channels)], options, threads)
        self._ended = False
        self._flat = channels == 1  # whether blocks come as [samples]

    @property
    def latency_seconds(self) -> float:
        """How many seconds of sound are held back at most: by window, look-ahead and resampling, or by a warm-up."""
        config, options = self._model.config, self._options
        late = self._model.frames_late(options.sampler, options.steps) * config.stft.hop
        resampling = resampling_delay(self._rate, config.rate, options.rate or self._rate)
        return max((config.stft.window + late) / config.rate, self._streams.warm_up_seconds) + resampling

    def feed(self, samples: ArrayLike) -> Samples:
        """Return what is ready of the enhanced sound after the next block, [channels, n] or [n] like the block.

        samples: as in `Enhancer.enhance`; they may be overwritten afterwards. An empty block may have any shape; the
        result is then shaped like the blocks before it.

        Raises ValueError for another shape or type, and for NaN, infinity and samples beyond 1e12 unless the options
        replace them. The stream is unchanged then and can continue with another block.
        """
        if self._ended:
            raise ValueError("the stream was flushed: start another one for more sound")
        samples = full_scale_one(samples)
        rows = np.array(samples, ndmin=2)
        if samples.ndim in (1, 2) and not samples.size:
            rows = np.zeros((self._channels, 0), np.float32)
        if samples.ndim not in (1, 2) or len(rows) != self._channels:
            raise ValueError(
                f"expected a block [{self._channels}, samples], got shape {list(samples.shape)}: "
                "transpose it, or make a stream with other `channels`"
            )
        fit = usable(rows)
        if not fit.all():
            if not self._options.replace_nan:
                first = self.fed + int(np.flatnonzero(~fit.all(axis=0))[0])
                raise ValueError(
                    f"sample {first} is NaN, infinite or beyond {LIMIT:.0e}; replace_nan replaces it with silence"
                )
            rows = np.where(fit, rows, np.float32(0))
        if samples.size or not self.fed:
            self._flat = samples.ndim == 1 == self._channels
        self.fed += rows.shape[1]
        return self._shaped(self._streams.feed([rows]))

    def flush(self) -> Samples:
        """Return the rest, shaped like the blocks (without any, [n]): in total as many samples as went in."""
        self._ended = True
        return self._shaped(self._streams.feed([None]))

    def _shaped(self, enhanced: list[Samples]) -> Samples:
        return enhanced[0][0] if self._flat else enhanced[0]


class _Lane:
    """The way of one recording to the model's rate and back, with the input or its high band mixed in."""

    def __init__(self, model: Model, rate: int, channels: int, options: Options) -> None:
        self._config = model.config
        self._late = model.frames_late(options.sampler, options.steps)
        self._options = options
        self._rates = rate, options.rate or rate
        self.width = 1 if options.mono else channels
        self.high = options.keep_high_band and min(self._rates) > model.config.rate
        self._mixed = options.share < 1 or self.high
        self._to_model = StreamResampler(rate, model.config.rate, self.width)
        self._from_model = StreamResampler(model.config.rate, self._rates[1], self.width * (3 if self.high else 1))
        self._to_output = StreamResampler(*self._rates, self.width)
        self._fed = self._received = self._returned = 0  # samples; the last two at the model's rate
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
        """Append zeros: for the frames that contain the end, and those that the look-ahead waits for."""
        if self._ended:
            return
        self._hear(self._to_model.flush())
        self._ended = True
        stft, total = self._config.stft, self._received
        zeros = (stft.frames(total) + self._late) * stft.hop - total if total else 0
        self._waiting = _joined(self._waiting, np.zeros((self.width, zeros), np.float32))
        if self._mixed:
            length = resampled_length(self._fed, *self._rates)
            self._input = _joined(self._input, self._to_output.flush(length))

    def head(self, samples: NDArray[np.intp]) -> Samples | None:
        """Return these samples for the network, [width, samples], None if some have to come first.

        What is shorter goes round; what does not fill a window is as good as silence.
        """
        if self.waiting <= samples.max() and not self._ended:
            return None
        if self._received < self._config.stft.window:
            return np.zeros((self.width, samples.size), np.float32)
        return self._waiting[:, samples % self._received]

    def give(self, count: int) -> Samples:
        """Return the next samples for the network, [width, count]; silence after the end."""
        given, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return given if given.shape[1] == count else np.zeros((self.width, count), np.float32)

    def put(self, clean: Samples) -> Samples:
        """Return what is ready of the output after the next samples from the network."""
        if self._ended:
            clean = clean[:, : self._received - self._returned]
        self._returned += clean.shape[1]
        enhanced = self._from_model.feed(clean) if not self.finished else clean
        if self._ended and self._returned == self._received and not self.finished:
            self.finished = True
            length = resampled_length(self._fed, *self._rates)
            enhanced = np.concatenate([enhanced, self._from_model.flush(length)], axis=1)
        return self._mix(enhanced) if self._mixed else enhanced

    def _mix(self, enhanced: Samples) -> Samples:
        """Mix the input or its high band back in, sample by sample."""
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
        self._received += samples.shape[1]
        self._waiting = _joined(self._waiting, samples)


def _joined(before: Samples, block: Samples) -> Samples:
    return np.concatenate([before, block], axis=1) if before.size else block


def _chain(model: Model, channels: Sequence[int], options: Options, high: bool, threads: int) -> Chain:
    """Return the chain for recordings of so many channels: compiled if it can be, else in PyTorch."""
    plan = model.plan(options.steps, options.dtype == "bfloat16")
    if plan is not None:
        from sbm_cli.engine.chain import CompiledChain

        return CompiledChain(model, plan, channels, options, high, threads)
    from sbm_cli.stream.torch_chain import TorchChain

    return TorchChain(model, channels, options, high, threads)


def block_samples(device: str, rate: int) -> int:
    """Return how many samples of a file to enhance at a time."""
    return max(1, round(rate * BLOCK_SECONDS.get(device.partition(":")[0], BLOCK_SECONDS["cpu"])))
