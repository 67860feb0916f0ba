"""The main interface in Python: noisy arrays, streams and files in, clean ones out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sbm_cli import hub
from sbm_cli.audio.samples import Samples, full_scale_one, whole_rate
from sbm_cli.files import FileReport, Place, enhance_files
from sbm_cli.hardware import chosen_device
from sbm_cli.model import Model, ModelConfig
from sbm_cli.options import DEFAULTS, Options, check_options
from sbm_cli.stream import Stream, block_samples

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
THREADS = 1  # far faster than real time; more wait for each other unless the machine is idle
MOST_CHANNELS = 1024  # limit of libsndfile; more are samples on the wrong axis,
FEW_CHANNELS = 8  # and so are more than these if they outnumber the samples


class Enhancer:
    """A model, loaded once, for any number of arrays, streams and files."""

    def __init__(self, model: Model, device: str | torch.device = "cpu", threads: int = THREADS) -> None:
        self.model = model.to(device)
        self.threads = threads

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        device: str = "auto",
        threads: int = THREADS,
        *,
        before_compiling: Callable[[], object] | None = None,
    ) -> Enhancer:
        """Return an enhancer for a model, given by name, file or folder; None is the default model.

        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N". threads: CPU threads.
        before_compiling is called before kernels are compiled, for ten seconds, once per machine.

        Raises ModelError if the model is unknown, missing or damaged; ValueError for another device or less than one
        thread, DependencyError for a GPU that is not there.
        """
        if not hasattr(threads, "__index__") or threads < 1:
            raise ValueError(f"threads must be a whole number from 1, got {threads!r}")
        start, device = time.monotonic(), chosen_device(str(device))
        enhancer = cls(Model.load(hub.resolve(model)), device, threads)
        plan = enhancer.model.plan()
        if before_compiling is not None and plan is not None and not plan.compiled:
            before_compiling()
        # The first call compiles the kernels: that is part of loading, not of the first file.
        enhancer.enhance(np.zeros(enhancer.config.rate, np.float32), enhancer.config.rate, Options(warm_up=False))
        _LOG.info("loaded %s on %s in %.1f s", enhancer.config.name, device, time.monotonic() - start)
        return enhancer

    def __repr__(self) -> str:
        return f"<Enhancer {self.config.name} on {self.device}>"

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.model.device)

    @property
    def latency_seconds(self) -> float:
        """Algorithmic delay of a stream at the model's rate: window plus look-ahead. A stream states its own."""
        return self.model.latency_seconds

    def enhance(self, samples: ArrayLike, rate: float, options: Options = DEFAULTS) -> Samples:
        """Return the enhanced samples, float32, shaped like the input unless the options change rate or channels.

        samples: [samples] or [channels, samples]; float with full scale 1, or int8, uint8, int16 or int32, scaled by
        their range as in sound files. rate: sampling rate, a whole number of Hz.

        Raises ValueError for another shape or type, for options of files, such as loudness, and for NaN, infinity and
        samples beyond 1e12 unless the options replace them.
        """
        samples, rate = full_scale_one(samples), whole_rate(rate)
        if samples.ndim not in (1, 2):
            raise ValueError(f"expected [samples] or [channels, samples], got shape {samples.shape}")
        rows, columns = samples.shape if samples.ndim == 2 else (1, samples.size)
        if rows > MOST_CHANNELS or (rows > FEW_CHANNELS and 0 < columns < rows):
            raise ValueError(f"expected [channels, samples], got shape {samples.shape}: transpose it")
        check_options(options)
        stream, size = self.stream(rate, rows, options.for_recordings()), block_samples(self.model.device, rate)
        blocks = [stream.feed(samples.reshape(rows, columns)[:, k : k + size]) for k in range(0, max(columns, 1), size)]
        clean = np.concatenate([*blocks, stream.flush()], axis=1)
        return clean[0] if samples.ndim == 1 else clean

    def enhance_file(
        self,
        source: Place,
        target: Place,
        options: Options = DEFAULTS,
        *,
        overwrite: bool = False,
        progress: Callable[[float, float], None] | None = None,
    ) -> FileReport:
        """Enhance a file into another one at constant memory, keeping everything that the options do not change.

        The target appears when it is complete, or not at all; its suffix chooses the format. overwrite: replace an
        existing target. Either may be a binary file object; a `Pipe` around it tells the format of an output other
        than WAV. What cannot seek streams WAV and raw samples as they arrive.
        progress is called with the seconds done and their total, 0 if unknown.

        Raises AudioError if the source cannot be read or the target cannot be written; OutputExistsError;
        BrokenPipeError.
        """
        forward = None if progress is None else lambda _, done, total: progress(done, total)
        (result,) = self.enhance_files([(source, target)], options, overwrite=overwrite, progress=forward)
        if isinstance(result, Exception):
            raise result
        return result

    def enhance_files(
        self,
        pairs: Sequence[tuple[Place, Place]],
        options: Options = DEFAULTS,
        *,
        overwrite: bool = False,
        progress: Callable[[int, float, float], None] | None = None,
    ) -> list[FileReport | Exception]:
        """Enhance files side by side, as `files.enhance_files` does."""
        return enhance_files(self.model, pairs, options, overwrite=overwrite, progress=progress, threads=self.threads)

    def stream(self, rate: float, channels: int = 1, options: Options = DEFAULTS) -> Stream:
        """Return a stream for blocks of any size at `rate`, a whole number of Hz.

        Raises ModelError if the options ask for several steps of a model that has only one, ValueError if they are
        for files, such as loudness.
        """
        return Stream(self.model, rate, channels, options, self.threads)
