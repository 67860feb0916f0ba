"""What has no clock of its own: samples from a pipe, and files and pipes that take them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.pipe import Pipe, PipeWriter
from sbm_cli.audio.pipe import Samples as RawSamples
from sbm_cli.audio.resample import LIVE, StreamResampler
from sbm_cli.audio.samples import Samples
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.live.buffers import Inbox


class RawInput:
    """Bare samples from a pipe as blocks [channels, n] at `rate`, a hop at a time."""

    def __init__(self, pipe: Pipe, rate: int, hop: int) -> None:
        assert pipe.raw is not None
        form = pipe.raw
        self.channels = form.channels
        self.glitches: dict[str, int] = {}
        self.notes: list[str] = []
        self._pipe = pipe
        self._inbox = Inbox()
        self._resampler = StreamResampler(form.rate, rate, form.channels, LIVE)
        self._size = max(1, hop * form.rate // rate)
        self.latency = self._resampler.latency_seconds

    def blocks(self) -> Iterator[Samples | None]:
        """Yield what comes, and None while nothing does, until the end."""
        threading.Thread(target=_read, args=(self._pipe, self._size, self._inbox, self.notes), daemon=True).start()
        for block in self._inbox:
            yield None if block is None else self._resampler.feed(block)
        if self._inbox.error is not None:
            raise self._inbox.error
        yield self._resampler.flush()

    def close(self) -> None:
        self._inbox.close()


class Output:
    """A file or a pipe, open, that takes blocks [channels, n] at `rate` at once."""

    glitches: dict[str, int] = {}

    def __init__(self, writer: SoundWriter | PipeWriter, form: AudioFormat, rate: int) -> None:
        self._writer = writer
        self._resampler = StreamResampler(rate, form.rate, form.channels, LIVE)
        self.latency = self._resampler.latency_seconds

    def write(self, block: Samples) -> None:
        self._writer.write(self._resampler.feed(block))

    def close(self) -> None:
        self._writer.write(self._resampler.flush())


def _read(pipe: Pipe, size: int, inbox: Inbox, notes: list[str]) -> None:
    """Put what comes through a pipe into an inbox. Knows nothing else: the process may end while it waits."""
    try:
        with pipe.open() as samples:
            assert isinstance(samples, RawSamples)
            while len(block := samples.read(size, dtype="float32", always_2d=True)):
                if not inbox.put(block.T):
                    return
            notes += samples.notes
    except Exception as error:  # for whoever takes the blocks
        inbox.error = error
    inbox.put(None)
