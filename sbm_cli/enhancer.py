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

from sbm_cli import checkpoint, hub
from sbm_cli.audio.clipping import apply_clip_mode
from sbm_cli.audio.format import format_for
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.pipe import Pipe
from sbm_cli.audio.resample import StreamResampler, resampled_length
from sbm_cli.audio.writer import open_writer
from sbm_cli.chain import Carry, enhance_block
from sbm_cli.errors import ModelError
from sbm_cli.options import DEFAULTS, Options

if TYPE_CHECKING:
    from sbm_cli.checkpoint import ModelConfig
    from sbm_cli.nn.network import Network

Samples = NDArray[np.float32]

BLOCK_SECONDS = 1.0  # of a file read at a time: activations of longer blocks leave the caches
THREADS = 1  # already far faster than real time; several wait for each other wherever the machine is not idle
MOST_CHANNELS = 1024  # as libsndfile has it; more are samples in the wrong place


@dataclass(frozen=True)
class FileReport:
    """What `enhance_file` did; seconds of audio, elapsed seconds of work, rtf = elapsed / seconds.

    rate, channels, samples: of the target; clipped: how many of its samples were beyond full scale.
    band_limit: Hz above which the source may hold something and nothing came out, None if nothing is missing.
    """

    source: str
    target: str
    rate: int
    channels: int
    samples: int
    seconds: float
    elapsed: float
    rtf: float
    clipped: int
    band_limit: float | None
    model: str
    options: Options


class Enhancer:
    """A model, loaded once, folded for one step at t = 1 and as it was trained for several."""

    def __init__(self, network: Network, config: ModelConfig, device: str = "cpu", threads: int = THREADS) -> None:
        self.config = config
        self.device = torch.device(device)
        self.threads = threads
        self.network = network.fold().eval().requires_grad_(False).to(self.device)
        self.timed_network = network.eval().requires_grad_(False).to(self.device)

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

    def enhance(self, samples: Samples, rate: int, options: Options = DEFAULTS) -> Samples:
        """Return the enhanced samples, shaped like the input unless the options change rate or channels.

        samples: float [samples] or [channels, samples], full scale 1; rate: their sampling rate in Hz.

        Raises ValueError for another shape, or values that are not finite.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim not in (1, 2):
            raise ValueError(f"expected [samples] or [channels, samples], got shape {samples.shape}")
        if samples.ndim == 2 and len(samples) > MOST_CHANNELS:
            raise ValueError(f"expected [channels, samples], got shape {samples.shape}: transpose it")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite, got NaN or infinity")
        stream = self.stream(rate, 1 if samples.ndim == 1 else len(samples), options)
        rows = np.atleast_2d(samples)
        size = max(1, round(rate * BLOCK_SECONDS))
        blocks = [stream.feed(rows[:, start : start + size]) for start in range(0, rows.shape[1], size)]
        clean = np.concatenate([*blocks, stream.flush()], axis=1)
        return clean[0] if samples.ndim == 1 else clean

    def enhance_file(
        self,
        source: str | Path | Pipe,
        target: str | Path | Pipe,
        options: Options = DEFAULTS,
        *,
        overwrite: bool = False,
        progress: Callable[[float, float], None] | None = None,
    ) -> FileReport:
        """Enhance a file into another one, at constant memory: its twin in all that the options do not change.

        The target appears when it is complete, or not at all; its suffix chooses the format. overwrite: replace it if
        it exists. A `Pipe` in place of a file gives and takes sound as it comes, if that is WAV or raw.
        progress is called with the seconds done and in all, 0 if that is unknown.

        Raises AudioError if the source cannot be read or the target not written; OutputExistsError; BrokenPipeError.
        """
        start = time.monotonic()
        samples = clipped = 0
        peak = None
        with contextlib.ExitStack() as opened:
            if options.clip_mode == "rescale":  # one gain for the whole file, known before its first block: twice
                if isinstance(source, Pipe):
                    source = opened.enter_context(source.rewindable())
                with SoundReader(source, options.replace_nan) as reader:
                    blocks = self._blocks(reader, options, None)
                    peak = max((float(np.abs(block).max(initial=0.0)) for block in blocks), default=0.0)
            reader = opened.enter_context(SoundReader(source, options.replace_nan))
            name = f"-{target.suffix}" if isinstance(target, Pipe) else target
            form = format_for(name, reader.format.converted(options.rate, options.mono), options.subtype)
            writer = opened.enter_context(open_writer(target, form, overwrite))
            for block in self._blocks(reader, options, progress):
                if form.has_full_scale:
                    block, count = apply_clip_mode(block, options.clip_mode, peak)
                    clipped += count
                writer.write(block)
                samples += block.shape[1]
        elapsed, seconds = time.monotonic() - start, samples / form.rate
        limited = min(reader.format.rate, form.rate) > self.config.rate
        return FileReport(
            source=str(source),
            target=str(target),
            rate=form.rate,
            channels=form.channels,
            samples=samples,
            seconds=seconds,
            elapsed=elapsed,
            rtf=elapsed / seconds if seconds else 0.0,
            clipped=clipped,
            band_limit=self.config.rate / 2 if limited and options.share == 1 and not options.keep_high_band else None,
            model=self.config.name,
            options=options,
        )

    def _blocks(
        self, reader: SoundReader, options: Options, progress: Callable[[float, float], None] | None
    ) -> Iterator[Samples]:
        """Yield the enhanced blocks of an open file."""
        form = reader.format
        stream = self.stream(form.rate, form.channels, options)
        for block in reader.blocks(max(1, round(form.rate * BLOCK_SECONDS))):
            yield stream.feed(block)
            if progress is not None:
                progress(stream.fed / form.rate, form.seconds)
        yield stream.flush()

    def stream(self, rate: int, channels: int = 1, options: Options = DEFAULTS) -> Stream:
        """Return a stream for blocks of any size at `rate` Hz.

        Raises ModelError if the options ask for several steps of a model that has only one.
        """
        if options.steps > 1 and not self.config.network.embedding:
            raise ModelError(f"{self.config.name} was trained without time, for one step.", "Leave out --steps.")
        if options.steps > 1 and self.config.network.lookahead:  # each step would come later than the one before
            raise ModelError(f"{self.config.name} looks ahead, and can take one step only.", "Leave out --steps.")
        return Stream(self, rate, channels, options)


class Stream:
    """Enhancement block by block: `feed` as sound arrives, `flush` at its end. Cutting differently changes nothing."""

    def __init__(self, enhancer: Enhancer, rate: int, channels: int, options: Options) -> None:
        self.fed = 0
        self._flat = False  # whether blocks come as [samples]
        self._channels = channels
        self._options = options
        self._enhancer = enhancer
        self._rates = rate, options.rate or rate
        self._width = 1 if options.mono else channels
        self._high = options.keep_high_band and min(self._rates) > enhancer.config.rate
        self._to_model = StreamResampler(rate, enhancer.config.rate, self._width)
        self._from_model = StreamResampler(enhancer.config.rate, self._rates[1], self._width * (3 if self._high else 1))
        self._to_output = StreamResampler(*self._rates, self._width)
        self._model_fed = self._model_returned = 0
        # Zeros before the beginning, and frames that the look-ahead holds back, come out first.
        stft, lookahead = enhancer.config.stft, enhancer.config.network.lookahead
        self._drop = stft.overlap + lookahead * stft.hop
        self._carry = Carry(np.random.default_rng(options.seed))
        # Each waits for the other, if they are mixed.
        self._input = self._enhanced = np.zeros((1, 0), np.float32)

    def feed(self, samples: Samples) -> Samples:
        """Return what is ready of the enhanced sound after one more block, [channels, n] or [n] as the block."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        self._flat = samples.ndim == 1
        rows = np.atleast_2d(samples)
        if rows.shape[0] != self._channels:
            raise ValueError(f"expected {self._channels} channels, got {rows.shape[0]}")
        self.fed += rows.shape[1]
        if self._options.mono:
            rows = rows.mean(0, keepdims=True)
        enhanced = self._from_model.feed(self._step(self._to_model.feed(rows)))
        return self._ready(enhanced, self._to_output.feed(rows))

    def flush(self) -> Samples:
        """Return the rest, shaped as the blocks were: as many samples have come out then as went in."""
        last = self._step(self._to_model.flush())
        stft, total = self._enhancer.config.stft, self._model_fed
        zeros = (stft.frames(total) + self._enhancer.config.network.lookahead) * stft.hop - total
        if total:  # frames that the end is part of, and those that the look-ahead waits for
            last = np.concatenate([last, self._step(np.zeros((self._width, zeros), np.float32))], axis=1)
        last = last[:, : last.shape[1] - max(0, self._model_returned - total)]
        length = resampled_length(self.fed, *self._rates)
        enhanced = np.concatenate([self._from_model.feed(last), self._from_model.flush(length)], axis=1)
        return self._ready(enhanced, self._to_output.flush(length))

    def _ready(self, enhanced: Samples, given: Samples) -> Samples:
        """Mix the input, or its high band, back in: sample k of the one belongs to sample k of the other."""
        share = np.float32(self._options.share)
        if share < 1 or self._high:
            enhanced = _joined(self._enhanced, enhanced)
            given = _joined(self._input, given)
            count = min(enhanced.shape[1], given.shape[1])
            self._enhanced, self._input = enhanced[:, count:], given[:, count:]
            enhanced, given = enhanced[:, :count], given[:, :count]
        if self._high:
            enhanced, low, gain = np.split(enhanced, 3)
            enhanced = enhanced + gain * (given - low)
        if share < 1:
            enhanced = share * enhanced + (1 - share) * given
        return enhanced[0] if self._flat else enhanced

    def _step(self, samples: Samples) -> Samples:
        self._model_fed += samples.shape[1]
        with torch.inference_mode(), _threads(self._enhancer.threads):
            block = torch.tensor(samples, device=self._enhancer.device)
            out = enhance_block(self._enhancer, block, self._options, self._high, self._carry)
            drop = min(self._drop, out.shape[1])
            self._drop -= drop
            self._model_returned += out.shape[1] - drop
            return out[:, drop:].cpu().numpy()


def _joined(before: Samples, block: Samples) -> Samples:
    return np.concatenate([before, block], axis=1) if before.size else block


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
