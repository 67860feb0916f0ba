"""From file to file, at constant memory: one alone, several side by side, every audio stream of a video."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

import numpy as np

from sbm_cli.audio.format import changes, check_room, format_for
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.loudness.levels import LevelMeter, Levels
from sbm_cli.audio.loudness.limiter import Limiter
from sbm_cli.audio.loudness.meter import LoudnessMeter
from sbm_cli.audio.pipe import Pipe, temporary_folder
from sbm_cli.audio.samples import Samples, apply_clip_mode
from sbm_cli.audio.writer import open_writer
from sbm_cli.errors import AudioError
from sbm_cli.hardware import gpu_is_full
from sbm_cli.model import Model, ModelConfig
from sbm_cli.options import DEFAULTS, Options, check_options
from sbm_cli.stream import Streams, block_samples

Place = str | os.PathLike[str] | Pipe | BinaryIO
Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileReport:
    """What `enhance_file` did; seconds of audio, elapsed seconds of work, rtf = elapsed / seconds.

    rate, channels, samples, subtype: of the target; clipped: how many of its samples were beyond full scale.
    band_limit: Hz at which the target ends although the source may go on, None if nothing is missing.
    not_carried: names of what the target has no room for: metadata, other streams of a video.
    bit_rate: of a lossy codec, in bit/s, 0 otherwise.
    levels: of speech and pauses, before and after; None for several streams. loudness: of the target in LUFS, if one
    was asked for and it has one.
    notes: warnings about flaws of the source, and about what the target does not keep of its format.
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
    not_carried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    subtype: str = ""
    bit_rate: int = 0
    levels: Levels | None = None
    loudness: float | None = None


def enhance_files(
    model: Model,
    pairs: Sequence[tuple[Place, Place]],
    options: Options = DEFAULTS,
    *,
    overwrite: bool = False,
    progress: Callable[[int, float, float], None] | None = None,
    threads: int = 1,
) -> list[FileReport | Exception]:
    """Enhance files side by side, as batches of the network: a single file leaves a GPU idle.

    pairs: (source, target) of each, ideally of similar length: a batch lasts as long as its longest file.
    Otherwise as `Enhancer.enhance_file`; progress also gets the index of the pair. Returns the report of each file, or
    the error that ended it without harm to the others. If memory runs out, half as many continue side by side.
    """
    check_options(options)
    places = [(_place(source), _place(target)) for source, target in pairs]
    results: list[FileReport | Exception] = []
    report = progress or (lambda index, done, total: None)
    if options.audio_stream == "all":
        for index, pair in enumerate(places):
            results.append(_enhance_all_streams(model, *pair, options, overwrite, threads, partial(report, index)))
        return results
    while len(results) < len(places):
        first = len(results)
        group = places[first:][: model.side_by_side]
        try:
            results += _enhance_group(
                model, group, options, overwrite, threads, lambda i, *at, first=first: report(first + i, *at)
            )
        except RuntimeError as error:
            if not gpu_is_full(error):
                raise
            if len(group) == 1:
                results.append(error)
            model.side_by_side = max(1, len(group) // 2)
    return results


def _place(place: Place) -> Path | Pipe:
    """Return a path, or a pipe for an open file."""
    if isinstance(place, Pipe):
        return place
    return Path(place) if isinstance(place, str | os.PathLike) else Pipe(place)


def _enhance_all_streams(
    model: Model,
    source: Path | Pipe,
    target: Path | Pipe,
    options: Options,
    overwrite: bool,
    threads: int,
    progress: Callable[[float, float], None],
) -> FileReport | Exception:
    """Enhance the audio streams of a video one by one; each pass copies the others."""

    def report(_: int, done: float, total: float) -> None:
        progress((sum(each.seconds for each in reports) + done) / count, total)

    reports: list[FileReport] = []
    with contextlib.ExitStack() as opened:
        try:
            if isinstance(source, Pipe):
                source = opened.enter_context(source.rewindable())
            with SoundReader(source) as reader:
                count = reader.streams
            suffix = target.suffix
            check_room(f"-{suffix}" if isinstance(target, Pipe) else target, count)
            folder = Path(opened.enter_context(TemporaryDirectory(dir=temporary_folder())))
            place = source
            for number in range(1, count + 1):
                next_place = target if number == count else folder / f"{number}{suffix}"
                only = replace(options, audio_stream=number)
                pair = place, next_place
                (done,) = enhance_files(model, [pair], only, overwrite=overwrite, progress=report, threads=threads)
                if isinstance(done, Exception):
                    return done
                reports.append(done)
                place = next_place
        except Exception as error:
            return error
    elapsed, seconds = sum(each.elapsed for each in reports), sum(each.seconds for each in reports)
    return replace(
        reports[-1],
        source=str(source),
        elapsed=elapsed,
        rtf=elapsed / seconds if seconds else 0.0,
        clipped=sum(each.clipped for each in reports),
        options=options,
        not_carried=tuple(dict.fromkeys(name for each in reports for name in each.not_carried)),
        notes=tuple(dict.fromkeys(note for each in reports for note in each.notes)),
        levels=reports[0].levels if len(reports) == 1 else None,
    )


def _enhance_group(
    model: Model,
    pairs: Sequence[tuple[Path | Pipe, Path | Pipe]],
    options: Options,
    overwrite: bool,
    threads: int,
    progress: Callable[[int, float, float], None],
) -> list[FileReport | Exception]:
    start = time.monotonic()
    files = [_File(source, target, options) for source, target in pairs]
    passes = 2 if options.needs_whole_file else 1

    def run(use: Callable[[_File, Samples, Samples], None]) -> None:
        """Run the files that have no error from beginning to end, side by side."""
        opened = [(index, file) for index, file in enumerate(files) if not file.error]
        forms = [(file.reader.format.rate, file.reader.format.channels) for _, file in opened]
        streams = Streams(model, forms, options.for_recordings(), threads)
        blocks = [file.reader.blocks(block_samples(model.device, file.reader.format.rate)) for _, file in opened]
        while not streams.finished and not all(file.error for _, file in opened):
            inputs = [file.attempt(next, source, None) for (_, file), source in zip(opened, blocks, strict=True)]
            for (index, file), block, clean in zip(opened, inputs, streams.feed(inputs), strict=True):
                file.attempt(use, file, clean[:, :0] if block is None else block, clean)
                if block is not None:
                    file.read += block.shape[1]
                    progress(index, file.read / passes / file.reader.format.rate, file.reader.format.seconds)

    with contextlib.ExitStack() as leaving:
        for file in files:
            leaving.push(file.opened)
        if options.needs_whole_file:
            for file in files:
                file.attempt(file.open_source)
            run(_File.measure)
        for file in files:
            file.attempt(file.open_source)
            file.attempt(file.open_target, overwrite)
        run(_File.write)
        for file in files:
            file.attempt(file.close)
    elapsed, seconds = time.monotonic() - start, sum(file.seconds for file in files if not file.error)
    share = elapsed / seconds if seconds else 0.0
    _LOG.info("enhanced %d files, %.1f s of audio, in %.2f s", len(files), seconds, elapsed)
    return [file.error or file.report(model.config, share) for file in files]


class _File:
    """A file on its way from source to target, which is complete in the end or absent."""

    def __init__(self, source: Path | Pipe, target: Path | Pipe, options: Options) -> None:
        self.source = source
        self.target = target
        self.error: Exception | None = None
        self.read = 0  # samples of the source, in all passes
        self._options = options
        self._samples = self._clipped = 0  # of the target
        self._peak = 0.0
        self._meter: LoudnessMeter | None = None
        self._limiter: Limiter | None = None
        self._found: os.stat_result | None = None  # of the source
        self.opened = contextlib.ExitStack()

    def attempt(self, action: Callable[..., Result], *arguments: Any) -> Result | None:
        """Return the result of an action, None if it fails, which ends this file and no other."""
        if self.error:
            return None
        try:
            return action(*arguments)
        except Exception as error:
            self.error = error
            self.opened.__exit__(type(error), error, error.__traceback__)
            return None

    def close(self) -> None:
        self._check_unchanged()
        if self._limiter is not None:
            self._store(self._limiter.flush())
        self.opened.close()

    def _check_unchanged(self) -> None:
        """Raise AudioError if the source has changed since the first call.

        One that is gone or replaced is harmless: we still read the old one.
        """
        if isinstance(self.source, Pipe):
            return
        try:
            found = os.stat(self.source)
        except OSError:
            return
        before = self._found = self._found or found
        if found.st_ino == before.st_ino and (found.st_size, found.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise AudioError(f"{self.source}: changed while it was read.", "Wait until it is complete, then try again.")

    def open_source(self) -> None:
        if self._options.needs_whole_file and isinstance(self.source, Pipe):
            self.source = self.opened.enter_context(self.source.rewindable())
        self._check_unchanged()
        stream = self._options.audio_stream
        assert stream != "all"
        self.reader = self.opened.enter_context(SoundReader(self.source, self._options.replace_nan, stream))

    def open_target(self, overwrite: bool) -> None:
        options = self._options
        self._name = f"-{self.target.suffix}" if isinstance(self.target, Pipe) else self.target
        converted = self.reader.format.converted(options.rate, options.mono)
        self._form = format_for(self._name, converted, options.subtype, options.bit_rate)
        source = None if isinstance(self.source, Pipe) else self.source
        self._writer = self.opened.enter_context(
            open_writer(self.target, self._form, overwrite, self.reader.metadata(), source)
        )
        got = self._writer.bit_rate  # 0: varies, and is measured in the end
        capped = 0 < got < (options.bit_rate or 0)
        self._capped = [f"{got / 1000:g} kbit/s is the most at {self._form.rate} Hz"] if capped else []

        self._before, self._after = LevelMeter(self.reader.format.rate), LevelMeter(self._form.rate)
        if options.loudness is not None:
            if self._meter is not None and self._meter.loudness is not None:
                gain = options.loudness - self._meter.loudness
                self._limiter = Limiter(self._form.rate, self._form.channels, gain)
            self._meter = LoudnessMeter(self._form.rate, self._form.channels)

    def measure(self, noisy: Samples, clean: Samples) -> None:
        if self._options.loudness is None:
            self._peak = max(self._peak, float(np.abs(clean).max(initial=0.0)))
            return
        if self._meter is None:
            self._meter = LoudnessMeter(self._options.rate or self.reader.format.rate, len(clean))
        self._meter.feed(clean)

    def write(self, noisy: Samples, clean: Samples) -> None:
        self._before.feed(noisy)
        self._store(clean if self._limiter is None else self._limiter.feed(clean))

    def _store(self, block: Samples) -> None:
        """Write the next samples of the target."""
        self._after.feed(block)
        if self._meter is not None:
            self._meter.feed(block)
        if self._form.has_full_scale:
            block, count = apply_clip_mode(block, self._options.clip_mode, self._peak)
            self._clipped += count
        self._writer.write(block)
        self._samples += block.shape[1]

    @property
    def seconds(self) -> float:
        return self._samples / self._form.rate

    def report(self, config: ModelConfig, rtf: float) -> FileReport:
        """Return the report; rtf: of the whole batch."""
        options = self._options
        source = self.reader.format
        changed = changes(self._name, source, self._form, ignore_subtype=options.subtype is not None)
        unmeasured = ["too short or too soft to have a loudness"] * (options.loudness is not None and not self._limiter)
        before, after = self._before.levels(), self._after.levels()
        limited = min(source.rate, self._form.rate) > config.rate
        return FileReport(
            source=str(self.source),
            target=str(self.target),
            rate=self._form.rate,
            channels=self._form.channels,
            samples=self._samples,
            seconds=self.seconds,
            elapsed=rtf * self.seconds,
            rtf=rtf if self._samples else 0.0,
            clipped=self._clipped,
            band_limit=config.rate / 2 if limited and options.share == 1 and not options.keep_high_band else None,
            model=config.name,
            options=options,
            not_carried=self._writer.not_carried,
            notes=(*self.reader.notes, *changed, *self._capped, *self._writer.notes, *unmeasured),
            subtype=self._form.subtype,
            bit_rate=self._writer.bit_rate,
            levels=Levels(before[0], after[0], before[1], after[1]),
            loudness=None if self._meter is None else self._meter.loudness,
        )
