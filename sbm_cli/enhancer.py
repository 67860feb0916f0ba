"""The chain from noisy to clean: resample, STFT, level, compression, one network step, and all the way back.

A file, an array and a live stream go through the same code; they differ in the size of the blocks they are fed in.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbm_cli import checkpoint, hub
from sbm_cli.audio.clipping import ClipMode, apply_clip_mode
from sbm_cli.audio.io import SoundReader, SoundWriter, format_for
from sbm_cli.audio.resample import StreamResampler
from sbm_cli.dsp.level import frame_power

if TYPE_CHECKING:
    from sbm_cli.checkpoint import ModelConfig
    from sbm_cli.nn.network import Carry, Network

Samples = NDArray[np.float32]

BLOCK_SECONDS = 1.0  # of a file read at a time: activations of longer blocks leave the caches
THREADS = 1  # already far faster than real time; several wait for each other wherever the machine is not idle
MOST_CHANNELS = 1024  # as libsndfile has it; more are samples in the wrong place
SILENCE = 1e-12  # frame power (-120 dBFS) below which there is nothing to enhance and the output is zero


@dataclass(frozen=True)
class FileReport:
    """What `enhance_file` did; seconds of audio, elapsed seconds of work, rtf = elapsed / seconds."""

    source: str
    target: str
    rate: int
    channels: int
    samples: int
    seconds: float
    elapsed: float
    rtf: float
    clipped: int


class Enhancer:
    """A model, loaded once and folded for one step at t = 1."""

    def __init__(self, network: Network, config: ModelConfig, device: str = "cpu", threads: int = THREADS) -> None:
        self.config = config
        self.device = torch.device(device)
        self.threads = threads
        self.network = network.fold().eval().requires_grad_(False).to(self.device)

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto", threads: int = THREADS) -> Enhancer:
        """Return an enhancer for a model's name, its file or its folder; without one, the default model.

        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". threads: of this enhancer's work on the CPU.

        Raises ModelError if the model is unknown, missing or damaged.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        enhancer = cls(*checkpoint.load(hub.resolve(model)), device, threads)
        # The first call compiles the kernels, once per machine: part of loading, not of the first file.
        enhancer.enhance(np.zeros(enhancer.config.rate, np.float32), enhancer.config.rate)
        return enhancer

    @property
    def latency_seconds(self) -> float:
        """Algorithmic delay between an input sample and its output, without the resampler's: window and look-ahead."""
        stft = self.config.stft
        return (stft.window + self.config.network.lookahead * stft.hop) / self.config.rate

    def enhance(self, samples: Samples, rate: int, *, strength: float = 1.0) -> Samples:
        """Return the enhanced samples, shaped like the input.

        samples: float [samples] or [channels, samples], full scale 1; rate: their sampling rate in Hz.
        strength: share of the enhanced sound in the output, 0 to 1; the rest is the input, sample for sample.

        Raises ValueError for another shape or strength, or values that are not finite.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim not in (1, 2):
            raise ValueError(f"expected [samples] or [channels, samples], got shape {samples.shape}")
        if samples.ndim == 2 and len(samples) > MOST_CHANNELS:
            raise ValueError(f"expected [channels, samples], got shape {samples.shape}: transpose it")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite, got NaN or infinity")
        stream = self.stream(rate, 1 if samples.ndim == 1 else len(samples), strength=strength)
        rows = np.atleast_2d(samples)
        size = max(1, round(rate * BLOCK_SECONDS))
        blocks = [stream.feed(rows[:, start : start + size]) for start in range(0, rows.shape[1], size)]
        return np.concatenate([*blocks, stream.flush()], axis=1).reshape(samples.shape)

    def enhance_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        strength: float = 1.0,
        subtype: str | None = None,
        clip_mode: ClipMode = "clamp",
        replace_nan: bool = False,
        progress: Callable[[float, float], None] | None = None,
    ) -> FileReport:
        """Enhance a file into another one of the same rate, channels, length and sample format, at constant memory.

        The target appears when it is complete, or not at all. strength: share of the enhanced sound, 0 to 1; the rest
        is the source, sample for sample. subtype: sample format, that of the source if None.
        clip_mode: what becomes of samples beyond full scale. replace_nan: take NaN and infinity as silence.
        progress is called with the seconds done and in all.

        Raises AudioError if the source cannot be read or the target not written; OutputExistsError.
        """
        start = time.monotonic()
        clipped = 0
        peak = None
        if clip_mode == "rescale":  # one gain for the whole file, known before its first block: enhance it twice
            with SoundReader(source, replace_nan=replace_nan) as reader:
                blocks = self._blocks(reader, strength, None)
                peak = max((float(np.abs(block).max(initial=0.0)) for block in blocks), default=0.0)
        with SoundReader(source, replace_nan=replace_nan) as reader:
            form = format_for(target, reader.format, subtype)
            with SoundWriter(target, form, overwrite=overwrite) as writer:
                for block in self._blocks(reader, strength, progress):
                    if form.has_full_scale:
                        block, count = apply_clip_mode(block, clip_mode, peak)
                        clipped += count
                    writer.write(block)
        elapsed, seconds = time.monotonic() - start, form.seconds
        rtf = elapsed / seconds if seconds else 0.0
        return FileReport(
            str(source), str(target), form.rate, form.channels, form.samples, seconds, elapsed, rtf, clipped
        )

    def _blocks(
        self, reader: SoundReader, strength: float, progress: Callable[[float, float], None] | None
    ) -> Iterator[Samples]:
        """Yield the enhanced blocks of an open file."""
        form = reader.format
        stream = self.stream(form.rate, form.channels, strength=strength)
        for block in reader.blocks(max(1, round(form.rate * BLOCK_SECONDS))):
            yield stream.feed(block)
            if progress is not None:
                progress(stream.fed / form.rate, form.seconds)
        yield stream.flush()

    def stream(self, rate: int, channels: int = 1, *, strength: float = 1.0) -> Stream:
        """Return a stream for blocks of any size at `rate` Hz; strength as in `enhance`."""
        return Stream(self, rate, channels, strength)


class Stream:
    """Enhancement block by block: `feed` as sound arrives, `flush` at its end. Cutting differently changes nothing."""

    def __init__(self, enhancer: Enhancer, rate: int, channels: int, strength: float = 1.0) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be between 0 and 1, got {strength}")
        self.fed = 0
        self._flat = False  # whether blocks come as [samples]
        self._channels = channels
        self._enhancer = enhancer
        self._to_model = StreamResampler(rate, enhancer.config.rate, channels)
        self._from_model = StreamResampler(enhancer.config.rate, rate, channels)
        self._model_fed = self._model_returned = 0
        # Zeros before the beginning, and frames that the look-ahead holds back, come out first.
        stft, lookahead = enhancer.config.stft, enhancer.config.network.lookahead
        self._drop = stft.overlap + lookahead * stft.hop
        self._carry = _ChainCarry()
        self._strength = strength
        self._input = np.zeros((channels, 0), np.float32)  # what the output has not reached yet, if it is mixed in

    def feed(self, samples: Samples) -> Samples:
        """Return what is ready of the enhanced sound after one more block, [channels, n] or [n] as the block."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        self._flat = samples.ndim == 1
        rows = np.atleast_2d(samples)
        if rows.shape[0] != self._channels:
            raise ValueError(f"expected {self._channels} channels, got {rows.shape[0]}")
        self.fed += rows.shape[1]
        if self._strength < 1:
            self._input = np.concatenate([self._input, rows], axis=1)
        ready = self._mixed(self._from_model.feed(self._step(self._to_model.feed(rows))))
        return ready[0] if self._flat else ready

    def flush(self) -> Samples:
        """Return the rest, shaped as the blocks were: as many samples have come out then as went in."""
        last = self._step(self._to_model.flush())
        stft, total = self._enhancer.config.stft, self._model_fed
        zeros = (stft.frames(total) + self._enhancer.config.network.lookahead) * stft.hop - total
        if total:  # frames that the end is part of, and those that the look-ahead waits for
            last = np.concatenate([last, self._step(np.zeros((self._channels, zeros), np.float32))], axis=1)
        last = last[:, : last.shape[1] - max(0, self._model_returned - total)]
        ready = self._mixed(np.concatenate([self._from_model.feed(last), self._from_model.flush(self.fed)], axis=1))
        return ready[0] if self._flat else ready

    def _mixed(self, ready: Samples) -> Samples:
        """Mix the input back in: output sample k belongs to input sample k."""
        if self._strength == 1:
            return ready
        count = ready.shape[1]
        aligned, self._input = self._input[:, :count], self._input[:, count:]
        return np.float32(self._strength) * ready + np.float32(1 - self._strength) * aligned

    def _step(self, samples: Samples) -> Samples:
        self._model_fed += samples.shape[1]
        with torch.inference_mode(), _threads(self._enhancer.threads):
            out = _enhance_block(self._enhancer, torch.tensor(samples, device=self._enhancer.device), self._carry)
            drop = min(self._drop, out.shape[1])
            self._drop -= drop
            self._model_returned += out.shape[1] - drop
            return out[:, drop:].cpu().numpy()


@dataclass
class _ChainCarry:
    """State of a stream between two blocks, None at its beginning."""

    analysis: Tensor | None = None
    level: Tensor | None = None
    network: Carry | None = None
    held: Tensor | None = None  # gain of the frames that the look-ahead holds back, [1, lookahead]
    synthesis: Tensor | None = None


def _enhance_block(enhancer: Enhancer, samples: Tensor, carry: _ChainCarry) -> Tensor:
    """Return the samples [channels, hops * hop] that this block [channels, n] at the model's rate completes."""
    config = enhancer.config
    spectrum, carry.analysis = config.stft.analyze(samples, carry.analysis)
    if not spectrum.shape[2]:
        return samples[:, :0]
    power = frame_power(spectrum).mean(0, keepdim=True)  # the channels of a file share one level
    level, carry.level = config.level.track(power, config.stft.hop / config.rate, carry.level)
    gain = level.sqrt()
    noisy = config.compression.compress(spectrum / gain[:, None])
    estimate, carry.network = enhancer.network(noisy, noisy, _END.to(noisy.device), carry.network)
    gain = torch.where(power > SILENCE, gain, 0.0)
    if config.network.lookahead:
        held = gain.new_zeros(1, config.network.lookahead) if carry.held is None else carry.held
        gain = torch.cat([held, gain], 1)
        gain, carry.held = gain[:, : level.shape[1]], gain[:, level.shape[1] :]
    clean, carry.synthesis = config.stft.synthesize(
        config.compression.expand(estimate) * gain[:, None], carry.synthesis
    )
    return clean


_END = torch.ones(1)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set torch's thread count for the length of a block and restore it."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
