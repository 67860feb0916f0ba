"""From noisy to clean samples by compiled kernels, block by block, as `sbm_cli.stream.torch_chain` specifies."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sbm_cli.bridge.sampler import FrameNoise, sample
from sbm_cli.compiled.network import Work
from sbm_cli.compiled.network import run as run_network
from sbm_cli.compiled.scan import SEGMENT
from sbm_cli.compiled.spectra import compress, expand, follow, limit_offset
from sbm_cli.compiled.threads import pool
from sbm_cli.dsp.chain import Chain, delayed
from sbm_cli.dsp.level import Level
from sbm_cli.dsp.offset import first_bin, most_offset
from sbm_cli.dsp.stft import windows
from sbm_cli.engine.plan import Plan, aligned

if TYPE_CHECKING:
    from sbm_cli.model import Model
    from sbm_cli.options import Options

MOST = 8 * SEGMENT  # frames that go through the network between two calls: memory does not grow with a block
Array = NDArray[Any]


class CompiledChain(Chain):
    """The chain by kernels."""

    def __init__(
        self, model: Model, plan: Plan, channels: Sequence[int], options: Options, high: bool, threads: int
    ) -> None:
        super().__init__(model, channels, options, high)
        self.constant = windows(self.config.stft)[2]
        self._noise = FrameNoise(self.config.schedule, options.sampler, options.steps, channels, options.seed)
        network = _Network(plan, threads)
        self._walks = [_Walk(model, network, options) for _ in range(sum(channels))]

    def clean(self, noisy: Array, level: Array, late_level: Array) -> Array:
        clean, (channels, bins, frames) = np.empty_like(noisy), noisy.shape
        noise = self._noise.draw(frames, bins)
        for start in range(0, frames, MOST):
            part = slice(start, start + MOST)
            for row in range(channels):
                given, wanted = noisy[row, :, part].T, clean[row, :, part].T
                self._walks[row](given, level[row, part], noise[part, :, row], wanted, late_level[row, part])
        return clean

    def limited(self, spectrum: Array) -> Array:
        limited = spectrum.swapaxes(1, 2).copy()
        flat, constant, low = limited.reshape(-1, limited.shape[2]), self.constant, first_bin(self.config.bin_hz)
        most = np.float32(most_offset(self.config.level.low_hz))
        limit_offset(flat.real, flat.imag, constant.real, constant.imag, low, most)
        return limited.swapaxes(1, 2)

    def tracked(self, level: Level, power: Array, last: Array | None) -> tuple[Array, Array]:
        rise, fall = level.rates(self.config.stft.hop / self.config.rate)
        levels, last = np.empty_like(power), np.zeros(len(power), np.float32) if last is None else last
        follow(power, np.float32(level.floor), np.float32(rise), np.float32(fall), last, levels)
        return levels, last


class _Walk:
    """Compression, the steps of the sampler and expansion for one channel, with what passes from block to block."""

    def __init__(self, model: Model, network: _Network, options: Options) -> None:
        self._model, self._network, self._schedule, self._options = model, network, model.config.schedule, options
        compression = model.config.compression
        self._exponent, self._factor = np.float32(compression.exponent), np.float32(compression.factor)
        self._calls: list[_Call] = []
        self._states: dict[int, Array] = {}  # and noisy, while the look-ahead of a call holds its estimate back

    def __call__(self, noisy: Array, level: Array, noise: Array, clean: Array, late_level: Array) -> None:
        """Write the clean spectra of up to MOST frames, [frames, bins] as noisy; noise: [frames, draws, bins, 2]."""
        (count, bins), network, options = noisy.shape, self._network, self._options
        given = np.empty((1, count, 2, bins), np.float32)
        compress(noisy.real, noisy.imag, level, self._exponent, self._factor, given.reshape(-1), bins)
        numbers, waits, draws = itertools.count(), itertools.count(), iter(noise.transpose(1, 0, 3, 2))

        def step(state: Array, noisy: Array, t: Array, to: Array | None = None) -> Array:
            self._model.before_call()
            number = next(numbers)
            if number == len(self._calls):
                end = 0.0 if to is None else float(to[0])
                self._calls.append(network.call(float(t[0]), end, 1 - options.dereverb))
            return network(self._calls[number], state[0], noisy[0])[None]

        def wait(*arrays: Array) -> tuple[Array, ...]:
            number, lookahead = next(waits), network.plan.sizes.lookahead
            together = np.concatenate(arrays).swapaxes(1, -1)  # frames last
            late, self._states[number] = delayed(together, lookahead, self._states.get(number))
            return tuple(late.swapaxes(1, -1)[:, None])

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
        self._work = [plan.new_work() for _ in range(min(max(1, threads), len(plan.stages)))]

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
