"""From noisy to clean samples by compiled kernels, block by block, as `sbm_cli.stream.torch_chain` specifies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sbm_cli.compiled.network import run as run_network
from sbm_cli.compiled.scan import SEGMENT
from sbm_cli.compiled.spectra import compress, expand, follow, limit_offset
from sbm_cli.compiled.threads import pool
from sbm_cli.dsp.compress import Compression
from sbm_cli.dsp.level import HIGH_BAND, SILENCE, Level, frame_power
from sbm_cli.dsp.link import linked, linked_ratio, shares
from sbm_cli.dsp.offset import MOST as MOST_OFFSET
from sbm_cli.dsp.offset import first_bin
from sbm_cli.dsp.stft import windows
from sbm_cli.engine.plan import Plan, aligned

if TYPE_CHECKING:
    from sbm_cli.model import ModelConfig

MOST = 8 * SEGMENT  # frames that go through the network between two calls: memory does not grow with a block
Array = NDArray[Any]


class CompiledChain:
    """The chain of `stream.Chain`; channels: of each recording, which share a level. links: of `dsp.link`."""

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        channels: Sequence[int],
        links: Sequence[slice],
        high: bool,
        threads: int,
    ) -> None:
        self._config, self._plan, self._links, self._high, self._threads = config, plan, links, high, threads
        self._analysis_window, self._synthesis_window, self._constant = windows(config.stft)
        self._analysis_window *= config.stft.n_fft  # which `_spectra` divides by
        self._recordings = np.repeat(np.arange(len(channels)), channels)  # of each channel
        self._starts = np.cumsum([0, *channels[:-1]])
        self._counts = np.array(channels, np.float32)[:, None]
        rows, stft, lookahead = sum(channels), config.stft, plan.sizes.lookahead
        self._samples = np.zeros((rows, stft.overlap), np.float32)
        self._total = np.zeros((rows * (3 if high else 1), stft.overlap), np.float32)
        levels = len(channels) + (rows if links else 0)
        self._level = np.zeros(levels, np.float32)
        self._late_level = np.zeros((levels, lookahead), np.float32)
        self._spectrum = np.zeros((rows, lookahead if high or links else 0, stft.bins), np.complex64)
        self._gains = np.zeros(2 * rows, np.float32)
        self._networks = [_Network(plan, config.compression) for _ in range(rows)]
        self._work = [plan.new_work() for _ in range(max(1, threads))]

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
        config, lookahead = self._config, self._plan.sizes.lookahead
        noisy = self._limited(spectrum)
        channels = config.power(noisy.transpose(0, 2, 1))
        power = np.add.reduceat(channels, self._starts) / self._counts
        if self._links:
            power = np.concatenate([power, channels])
        level = self._tracked(config.level, power, self._level)
        late, self._late_level = _late(np.where(power > SILENCE, level, 0), self._late_level, lookahead)
        clean = np.empty_like(spectrum)
        for start in range(0, spectrum.shape[1], MOST):
            part = slice(start, start + MOST)
            for row, recording in enumerate(self._recordings):
                given, wanted = (noisy[row, part], level[recording, part]), (clean[row, part], late[recording, part])
                self._networks[row](*given, *wanted, self._work)
        if not (self._high or self._links):
            return clean
        spectrum, self._spectrum = _late(spectrum, self._spectrum, lookahead)
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
        limit_offset(flat.real, flat.imag, constant.real, constant.imag, low, np.float32(MOST_OFFSET))
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


class _Network:
    """Compression, network and expansion for one channel, with what the network carries from one block to the next."""

    def __init__(self, plan: Plan, compression: Compression) -> None:
        self._plan, sizes = plan, plan.sizes
        self._exponent, self._factor = np.float32(compression.exponent), np.float32(compression.factor)
        self._carry = aligned(plan.carry)
        self._spectra = aligned((sizes.history + MOST) * 2 * sizes.width)
        self._estimates = aligned(MOST * 2 * sizes.width)
        self._x = aligned(MOST * sizes.bands * sizes.channels)

    def __call__(self, noisy: Array, level: Array, clean: Array, late_level: Array, work: Sequence[Any]) -> None:
        """Write the clean spectra of up to MOST frames, [frames, bins] as noisy; work: for each thread."""
        sizes, exponent, factor = self._plan.sizes, self._exponent, self._factor
        frame, count = 2 * sizes.width, len(noisy)
        begin = sizes.history * frame + sizes.padding
        compress(noisy.real, noisy.imag, level, exponent, factor, self._spectra[begin:], sizes.width)
        self._run(count, work)
        self._spectra[: sizes.history * frame] = self._spectra[count * frame :][: sizes.history * frame].copy()
        estimates = self._estimates[sizes.padding :]
        expand(estimates, sizes.width, late_level, exponent, factor, clean.real, clean.imag)

    def _run(self, count: int, work: Sequence[Any]) -> None:
        """Take the frames through all stages: with several threads, each takes some stages, segment after segment."""
        plan = self._plan
        stages, threads = len(plan.stages) // 3, len(work)

        def run(first: int, last: int, start: int, stop: int, own: Any) -> None:
            run_network(
                first, last, start, stop, plan.sizes, plan.weights, plan.stages, self._carry,
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
