"""Enhancement block by block: a stream as sound arrives, or several side by side as a batch of the network.

Each block passes the whole chain: resampling, STFT, level, compression, the network, and back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sbm_cli.audio.resample import StreamResampler, resampled_length
from sbm_cli.audio.samples import LIMIT, Samples, full_scale_one, usable, whole_rate
from sbm_cli.bridge.sampler import SAMPLERS, sample
from sbm_cli.bridge.schedule import BridgeSchedule
from sbm_cli.dsp.level import Level, frame_power
from sbm_cli.errors import ModelError
from sbm_cli.model import Model
from sbm_cli.nn import network as nn
from sbm_cli.options import Options

# Of a file at a time: in shorter blocks calls cost more; in longer ones activations leave the caches of a CPU.
BLOCK_SECONDS = {"cpu": 2.0, "cuda": 10.0}
HIGH_BAND = Level(
    attack=0.02, release=0.02, floor_db=-120.0
)  # smooths the gain of the band that the model does not see
SILENCE = 1e-12  # frame power (-120 dBFS) below which there is nothing to enhance and the output is zero
_PROCESS = os.getpid()  # that imported this module, to notice a fork


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
        self._model = model
        self._options = options
        self._threads = threads
        self._lanes = [_Lane(model, rate, channels, options) for rate, channels in forms]
        self._high = any(lane.high for lane in self._lanes)
        self._carry = Carry([lane.width for lane in self._lanes], options.seed)
        # The zeros before the beginning, and the frames held back by the look-ahead, come out first.
        self._drop = config.stft.overlap + _frames_late(model, options) * config.stft.hop

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
        rows = np.concatenate([lane.give(count) for lane in self._lanes])
        with torch.inference_mode(), threads(self._threads):
            noisy = torch.from_numpy(rows).to(self._model.device)
            clean = _enhance_block(self._model, noisy, self._options, self._high, self._carry)
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

    def __init__(self, model: Model, rate: float, channels: int, options: Options, threads: int) -> None:
        if not hasattr(channels, "__index__") or channels < 1:
            raise ValueError(f"channels must be a whole number from 1, got {channels!r}")
        self.fed = 0  # samples
        self._channels = channels
        self._replace_nan = options.replace_nan
        self._streams = Streams(model, [(whole_rate(rate), channels)], options, threads)
        self._ended = False
        self._flat = channels == 1  # whether blocks come as [samples]

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
            given = f"{len(rows)} in a block of shape {list(samples.shape)}"
            raise ValueError(f"expected {self._channels} channels, [samples] or [channels, samples], got {given}")
        fit = usable(rows)
        if not fit.all():
            if not self._replace_nan:
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
        self._late = _frames_late(model, options)
        self._options = options
        self._rates = rate, options.rate or rate
        self.width = 1 if options.mono else channels
        self.high = options.keep_high_band and min(self._rates) > model.config.rate
        self._mixed = options.share < 1 or self.high
        self._to_model = StreamResampler(rate, model.config.rate, self.width)
        self._from_model = StreamResampler(model.config.rate, self._rates[1], self.width * (3 if self.high else 1))
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
        """Append zeros: for the frames that contain the end, and those that the look-ahead waits for."""
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
        """Return the next samples for the network, [width, count]; silence after the end."""
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
        self._heard += samples.shape[1]
        self._waiting = _joined(self._waiting, samples)


def _joined(before: Samples, block: Samples) -> Samples:
    return np.concatenate([before, block], axis=1) if before.size else block


@dataclass
class Carry:
    """What recordings side by side hand from one block to the next; None at the beginning.

    channels: of each recording; they share a level. seed: for the noise of each recording.
    """

    channels: list[int]
    seed: InitVar[int]
    noise: list[np.random.Generator] = field(init=False)
    analysis: Tensor | None = None
    level: Tensor | None = None
    network: dict[int, nn.Carry] = field(default_factory=dict)  # of every step
    # Of the frames that the look-ahead holds back: state and noisy of every step, the level [recordings, frames], and
    # the spectrum.
    states: dict[int, Tensor] = field(default_factory=dict)
    late_level: Tensor | None = None
    spectrum: Tensor | None = None
    high: Tensor | None = None
    synthesis: Tensor | None = None

    def __post_init__(self, seed: int) -> None:
        self.noise = [np.random.default_rng(seed) for _ in self.channels]


def _enhance_block(model: Model, samples: Tensor, options: Options, high: bool, carry: Carry) -> Tensor:
    """Return the samples [channels, hops * hop] that this block [channels, n] at the model's rate completes.

    The channels are those of one recording after another, as in the carry.
    high: return three times as many rows: the enhanced sound, the sound as the model heard it, and the gain of the high
    band, all equally late. Resampled together they stay aligned.
    """
    config = model.config
    spectrum, carry.analysis = config.stft.analyze(samples, carry.analysis)
    if not spectrum.shape[2]:
        return samples[:, :0].repeat(3 if high else 1, 1)
    clean = enhance_spectrum(model, spectrum, options, high, carry)
    clean, carry.synthesis = config.stft.synthesize(clean, carry.synthesis)
    return clean


def enhance_spectrum(model: Model, spectrum: Tensor, options: Options, high: bool, carry: Carry) -> Tensor:
    """Return the spectrum [channels, freq, frames] to synthesize from that of a block; see `_enhance_block`."""
    config = model.config
    power = config.power(spectrum)
    if len(power) > len(carry.channels):
        power = torch.stack([channels.mean(0) for channels in power.split(carry.channels)])
    level, carry.level = config.track(power, carry.level)
    estimate = _estimate(model, config.compress(spectrum, _of_channels(level, carry)), options, carry)
    lookahead = _frames_late(model, options)
    level, carry.late_level = _late(torch.where(power > SILENCE, level, 0.0), lookahead, carry.late_level)
    clean = config.expand(estimate, _of_channels(level, carry))
    if high:
        spectrum, carry.spectrum = _late(spectrum, lookahead, carry.spectrum)
        top = config.stft.bins // 2  # the uppermost octave
        powers = torch.cat([frame_power(clean[:, top:]), frame_power(spectrum[:, top:])])
        powers, carry.high = HIGH_BAND.track(powers, config.stft.hop / config.rate, carry.high)
        lowered, heard = powers.chunk(2)
        ones = spectrum.real.new_ones(1, config.stft.window)
        ones, _ = config.stft.analyze(ones, ones[:, :0])
        # One gain per frame, shaped like its window: overlap-add interpolates smoothly.
        clean = torch.cat([clean, spectrum, ones * (lowered / heard).sqrt().clamp(max=1)[:, None]])
    return clean


def _frames_late(model: Model, options: Options) -> int:
    """Return by how many frames the output is late: the look-ahead of all network calls."""
    return model.lookahead * SAMPLERS[options.sampler].nfe(options.steps)


def _of_channels(level: Tensor, carry: Carry) -> Tensor:
    """Return the level of each recording, [recordings, frames], for each of its channels; one level broadcasts."""
    rows = [row for row, count in enumerate(carry.channels) for _ in range(count)]
    return level[rows] if len(carry.channels) > 1 else level


def _late(x: Tensor, frames: int, held: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return x [..., frames] delayed by so many frames, like the output of the network, and what is held back."""
    x = torch.cat([x.new_zeros(*x.shape[:-1], frames) if held is None else held, x], -1)
    split = x.shape[-1] - frames
    return x[..., :split], x[..., split:]


def _estimate(model: Model, noisy: Tensor, options: Options, carry: Carry) -> Tensor:
    """Return the estimate of clean, shaped like the compressed spectrum `noisy` [channels, freq, frames].

    Each step has its own carry: it sees all frames of its own time in order, however they are cut into blocks.
    """
    left = 1 - options.dereverb
    network: Callable[..., tuple[Tensor, nn.Carry]] = model.folded(left)
    if options.steps > 1 or model.config.schedule.end_std:  # the folded network takes the noisy signal alone
        network = partial(model.timed, room=noisy.real.new_tensor([left]) if left else None)
    count = (options.steps - 1) * SAMPLERS[options.sampler].draws + (model.config.schedule.end_std > 0)
    draws = _draws(noisy, count, carry) if count else iter(())

    numbers, waits = itertools.count(), itertools.count()

    def step(state: Tensor, noisy: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        number = next(numbers)
        jump = {} if to is None else {"to": to[:1]}
        estimate: Tensor
        # Entering autocast takes as long as a small operator: only where it has an effect.
        kind, half = noisy.device.type, options.dtype == "bfloat16"
        cast = half or torch.is_autocast_enabled(kind)
        with torch.autocast(kind, torch.bfloat16, enabled=half) if cast else contextlib.nullcontext():
            estimate, carry.network[number] = network(state, noisy, t[:1], carry.network.get(number), **jump)
        return estimate

    def wait(*tensors: Tensor) -> tuple[Tensor, ...]:
        number = next(waits)
        late, carry.states[number] = _late(torch.stack(tensors), model.lookahead, carry.states.get(number))
        return late.unbind()

    schedule, draw = model.config.schedule, lambda _: next(draws)
    return sample(step, schedule, noisy, options.steps, options.sampler, draw, wait=wait)


def _draws(noisy: Tensor, count: int, carry: Carry) -> Iterator[Tensor]:
    """Yield noise `count` times, drawn frame by frame, so that it does not depend on the blocks."""
    _, bins, frames = noisy.shape
    draws = [
        generator.standard_normal((frames, count, channels, bins, 2), np.float32)
        for generator, channels in zip(carry.noise, carry.channels, strict=True)
    ]
    parts = np.concatenate(draws, axis=2) * np.float32(0.5**0.5)
    yield from torch.view_as_complex(torch.from_numpy(parts)).to(noisy.device).permute(1, 2, 3, 0)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's thread count inside a `with` block and restore it.

    In a forked process it is 1: OpenMP would wait for threads that only the parent has.
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


def block_samples(device: torch.device, rate: int) -> int:
    """Return how many samples of a file to enhance at a time."""
    return max(1, round(rate * BLOCK_SECONDS.get(device.type, BLOCK_SECONDS["cpu"])))
