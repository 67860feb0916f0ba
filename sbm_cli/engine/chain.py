"""From noisy to clean samples by compiled kernels, block by block, as `sbm_cli.stream.torch_chain` specifies."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sbm_cli.bridge.sampler import SAMPLERS, draw_frames, sample
from sbm_cli.compiled.network import Work
from sbm_cli.compiled.network import run as run_network
from sbm_cli.compiled.scan import SEGMENT
from sbm_cli.compiled.spectra import compress, expand, follow, limit_offset
from sbm_cli.compiled.threads import pool
from sbm_cli.dsp.level import HIGH_BAND, SILENCE, Level, frame_power
from sbm_cli.dsp.link import linked, linked_ratio, shares
from sbm_cli.dsp.offset import first_bin, most_offset
from sbm_cli.dsp.stft import windows
from sbm_cli.engine.plan import Plan, aligned

if TYPE_CHECKING:
    from sbm_cli.model import Model, ModelConfig
    from sbm_cli.options import Options

MOST = 8 * SEGMENT  # frames that go through the network between two calls: memory does not grow with a block
Array = NDArray[Any]


class CompiledChain:
    """The chain of `stream.Chain`; channels: of each recording, which share a level. links: of `dsp.link`."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        channels: Sequence[int],
        links: Sequence[slice],
        options: Options,
        high: bool,
        threads: int,
    ) -> None:
        config = self._config = model.config
        self._channels, self._links, self._high = channels, links, high
        self._analysis_window, self._synthesis_window, self._constant = windows(config.stft)
        self._analysis_window *= config.stft.n_fft  # which `_spectra` divides by
        self._recordings = np.repeat(np.arange(len(channels)), channels)  # of each channel
        self._starts = np.cumsum([0, *channels[:-1]])
        self._counts = np.array(channels, np.float32)[:, None]
        rows, stft = sum(channels), config.stft
        late = self._frames_late = model.frames_late(options.sampler, options.steps)
        self._samples = np.zeros((rows, stft.overlap), np.float32)
        self._total = np.zeros((rows * (3 if high else 1), stft.overlap), np.float32)
        levels = len(channels) + (rows if links else 0)
        self._level = np.zeros(levels, np.float32)
        self._late_level = np.zeros((levels, late), np.float32)
        self._spectrum = np.zeros((rows, late if high or links else 0, stft.bins), np.complex64)
        self._gains = np.zeros(2 * rows, np.float32)
        network = _Network(plan, threads)
        self._walks = [_Walk(config, network, options) for _ in range(rows)]
        self._draws = SAMPLERS[options.sampler].noises(config.schedule, options.steps)
        self._generators = [np.random.default_rng(options.seed) for _ in channels]

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        stft = self._config.stft
        self._samples = np.concatenate([self._samples, samples], axis=1)
        count = max(0, (self._samples.shape[1] - stft.window) // stft.hop + 1)
        if not count:
            return np.zeros((3 if self._high else 1, len(samples), 0), np.float32)
        row, sample = self._samples.strides
        frames = as_strided(self._samples, (len(samples), count, stft.window), (row, stft.hop * sample, sample))
        spectrum = self._spectra(frames)
        self._samples = self._samples[:, count * stft.hop :]
        finished = self._synthesize(self._enhance(spectrum))
        return finished.reshape(-1, len(samples), count * stft.hop)

    def _spectra(self, frames: Array) -> Array:
        """Return the spectra [..., bins] of frames [..., window]."""
        # Without `norm` NumPy computes them in double precision, which takes five times as long.
        spectra = np.fft.rfft(frames * self._analysis_window, self._config.stft.n_fft, norm="forward")
        return spectra.astype(np.complex64, copy=False)

    def _enhance(self, spectrum: Array) -> Array:
        """Return the spectra to synthesize, [1 or 3 times channels, frames, bins], from those of the channels."""
        config, frames_late = self._config, self._frames_late
        noisy = self._limited(spectrum)
        channels = config.power(noisy.transpose(0, 2, 1))
        power = np.add.reduceat(channels, self._starts) / self._counts
        if self._links:
            power = np.concatenate([power, channels])
        level = self._tracked(config.level, power, self._level)
        late, self._late_level = _late(np.where(power > SILENCE, level, 0), self._late_level, frames_late)
        clean, (frames, bins) = np.empty_like(spectrum), spectrum.shape[1:]
        noise = draw_frames(self._generators, self._channels, frames, self._draws, bins)
        for start in range(0, frames, MOST):
            part = slice(start, start + MOST)
            for row, recording in enumerate(self._recordings):
                given, wanted = (noisy[row, part], level[recording, part]), (clean[row, part], late[recording, part])
                self._walks[row](*given, noise[part, :, row], *wanted)
        if not (self._high or self._links):
            return clean
        spectrum, self._spectrum = _late(spectrum, self._spectrum, frames_late)
        share = [shares(late[len(self._starts) :][rows]) for rows in self._links]
        for rows, own in zip(self._links, share, strict=True):
            clean[rows] = linked(clean[rows], self._limited(spectrum[rows]), own[..., None])
        if not self._high:
            return clean
        top = config.stft.bins // 2  # the uppermost octave
        powers = np.stack([frame_power(spectra.transpose(0, 2, 1), top) for spectra in (clean, spectrum)])
        powers = self._tracked(HIGH_BAND, powers.reshape(-1, powers.shape[2]), self._gains)
        lowered, heard = np.split(powers, 2)
        ratio = lowered / heard
        for rows, own in zip(self._links, share, strict=True):
            ratio[rows] = linked_ratio(lowered[rows], heard[rows], own)
        # One gain per frame, shaped like its window: overlap-add interpolates smoothly.
        gains = np.sqrt(ratio).clip(max=1)[..., None] * self._constant
        return np.concatenate([clean, spectrum, gains])

    def _limited(self, spectrum: Array) -> Array:
        """Return spectra [channels, frames, bins] as `dsp.offset` limits them."""
        limited = spectrum.copy()
        flat, constant, low = limited.reshape(-1, limited.shape[2]), self._constant, first_bin(self._config.bin_hz)
        most = np.float32(most_offset(self._config.level.low_hz))
        limit_offset(flat.real, flat.imag, constant.real, constant.imag, low, most)
        return limited

    def _tracked(self, level: Level, power: Array, last: Array) -> Array:
        """Return the level of every frame as `Level.track` does, [groups, frames]; last: before them, and after."""
        rise, fall = level.rates(self._config.stft.hop / self._config.rate)
        levels = np.empty_like(power)
        follow(power, np.float32(level.floor), np.float32(rise), np.float32(fall), last, levels)
        return levels

    def _synthesize(self, spectrum: Array) -> Array:
        """Return the finished samples [rows, hop * frames] of spectra [rows, frames, bins]."""
        stft, count = self._config.stft, spectrum.shape[1]
        frames = np.fft.irfft(spectrum, stft.n_fft)[..., : stft.window].astype(np.float32, copy=False)
        hops = (frames * self._synthesis_window).reshape(len(frames), count, -1, stft.hop)
        parts = hops.shape[2]
        total = np.zeros((len(frames), count + parts - 1, stft.hop), np.float32)
        total[:, : parts - 1] = self._total.reshape(len(frames), parts - 1, stft.hop)
        for part in range(parts):
            total[:, part : part + count] += hops[:, :, part]
        self._total = total[:, count:].reshape(len(frames), -1)
        return total[:, :count].reshape(len(frames), -1)


class _Walk:
    """Compression, the steps of the sampler and expansion for one channel, with what passes from block to block."""

    def __init__(self, config: ModelConfig, network: _Network, options: Options) -> None:
        self._network, self._schedule, self._options = network, config.schedule, options
        self._exponent, self._factor = np.float32(config.compression.exponent), np.float32(config.compression.factor)
        self._calls: list[_Call] = []
        self._states: dict[int, Array] = {}  # and noisy, while the look-ahead of a call holds its estimate back

    def __call__(self, noisy: Array, level: Array, noise: Array, clean: Array, late_level: Array) -> None:
        """Write the clean spectra of up to MOST frames, [frames, bins] as noisy; noise: [frames, draws, bins, 2]."""
        (count, bins), network, options = noisy.shape, self._network, self._options
        given = np.empty((1, count, 2, bins), np.float32)
        compress(noisy.real, noisy.imag, level, self._exponent, self._factor, given.reshape(-1), bins)
        numbers, waits, draws = itertools.count(), itertools.count(), iter(noise.transpose(1, 0, 3, 2))

        def step(state: Array, noisy: Array, t: Array, to: Array | None = None) -> Array:
            number = next(numbers)
            if number == len(self._calls):
                end = 0.0 if to is None else float(to[0])
                self._calls.append(network.call(float(t[0]), end, 1 - options.dereverb))
            return network(self._calls[number], state[0], noisy[0])[None]

        def wait(*arrays: Array) -> tuple[Array, ...]:
            number, lookahead = next(waits), network.plan.sizes.lookahead
            if number not in self._states:
                self._states[number] = np.zeros((len(arrays), lookahead, 2, bins), np.float32)
            late, self._states[number] = _late(np.concatenate(arrays), self._states[number], lookahead)
            return tuple(late[:, None])

        estimate = sample(
            step, self._schedule, given, options.steps, options.sampler, lambda _: next(draws)[None], wait=wait
        )
        expand(estimate.reshape(-1), bins, late_level, self._exponent, self._factor, clean.real, clean.imag)


@dataclass
class _Call:
    """One of the calls of the network that make an estimate: its norms, and what it carries from block to block."""

    norms: Array
    carry: Array
    history: Array  # frames of its spectra before the block


class _Network:
    """The network with arrays to compute in, for all channels and calls in turn."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self.plan, sizes = plan, plan.sizes
        bins = slice(sizes.padding, sizes.padding + sizes.bins)
        self._spectra = aligned((sizes.history + MOST) * sizes.inputs * sizes.width)
        self._frames = self._spectra.reshape(-1, sizes.inputs, sizes.width)
        self._given = self._frames[sizes.history :, :, bins]
        self._x = aligned(MOST * sizes.bands * sizes.channels)
        self._estimates = aligned(MOST * 2 * sizes.width)
        self._found = self._estimates.reshape(-1, 2, sizes.width)[..., bins]
        self._work = [plan.new_work() for _ in range(max(1, threads))]

    def call(self, t: float, to: float, room: float) -> _Call:
        """Return what a channel begins with at a time; to, room: as the networks of `sbm_cli.nn` take them."""
        sizes, plan = self.plan.sizes, self.plan
        history = np.zeros((sizes.history, sizes.inputs, sizes.width), np.float32)
        return _Call(plan.norms(t, to, room), aligned(plan.carry), history)

    def __call__(self, call: _Call, state: Array, noisy: Array) -> Array:
        """Return the estimate for up to MOST frames, shaped like state and noisy [frames, 2, bins]."""
        count, history = len(noisy), len(call.history)
        self._frames[:history] = call.history
        self._given[:count, :2] = noisy
        if self.plan.sizes.inputs > 2:
            self._given[:count, 2:] = state
        self._run(count, call)
        call.history = self._frames[count : count + history].copy()
        return self._found[:count].copy()

    def _run(self, count: int, call: _Call) -> None:
        """Take the frames through all stages: with several threads, each takes some stages, segment after segment."""
        plan, work = self.plan, self._work
        stages, threads = len(plan.stages), len(work)

        def run(first: int, last: int, start: int, stop: int, own: Work) -> None:
            run_network(
                first, last, start, stop, plan.sizes, plan.weights, plan.stages, call.norms, call.carry,
                self._spectra, self._x, own, self._estimates,
            )  # fmt: skip

        if threads == 1 or count <= SEGMENT:
            run(0, stages, 0, count, work[0])
            return
        edges = [round(i * stages / threads) for i in range(threads + 1)]
        segments = -(-count // SEGMENT)
        for turn in range(segments + threads - 1):
            tasks = [
                (edges[i], edges[i + 1], segment * SEGMENT, min(count, (segment + 1) * SEGMENT), work[i])
                for i in range(threads)
                if 0 <= (segment := turn - i) < segments
            ]
            list(pool(os.getpid(), threads).map(lambda task: run(*task), tasks))


def _late(x: Array, held: Array, frames: int) -> tuple[Array, Array]:
    """Return x [rows, frames, ...] delayed by so many frames, like the output of the network, and what is held back."""
    x = np.concatenate([held, x], axis=1)
    split = x.shape[1] - frames
    return x[:, :split], x[:, split:]
