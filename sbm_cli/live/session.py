"""From a source to a sink, in a thread of its own: the caller's stays free for keys and meters."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from sbm_cli.audio.pipe import PipeWriter
from sbm_cli.audio.samples import Samples, usable
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.enhancer import Enhancer
from sbm_cli.live.devices import Loudspeaker, Microphone
from sbm_cli.live.pipes import Output, RawInput
from sbm_cli.options import Options

Source = Microphone | RawInput
Sink = Loudspeaker | Output
_FADE_SECONDS = 0.02  # between the enhanced sound and the input


class Session:
    """Enhance what comes from a source into a sink until it ends, `stop` is called or `seconds` are over.

    record: takes the channels of the input, then those of the output, in step.
    `bypassed` may be set at any time: the input then passes, as late as the enhanced sound would.
    """

    def __init__(
        self,
        enhancer: Enhancer,
        source: Source,
        sink: Sink,
        options: Options,
        record: SoundWriter | PipeWriter | None = None,
        seconds: float | None = None,
    ) -> None:
        self.bypassed = False
        self.error: Exception | None = None  # that ended it
        self.finished, self._stopping = threading.Event(), threading.Event()
        self._source, self._sink, self._record = source, sink, record
        self._rate = enhancer.config.rate
        self._stream = enhancer.stream(self._rate, source.channels, replace(options, replace_nan=True))
        self._algorithm = self._stream.latency_seconds
        self._left = None if seconds is None else round(seconds * self._rate)  # samples
        self._waiting = np.zeros((source.channels, 0), np.float32)  # input whose enhanced sound is still to come
        self._share = 1.0  # of the enhanced sound
        self._peaks = [0.0, 0.0]
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def seconds(self) -> float:
        """Of input so far."""
        return self._stream.fed / self._rate

    @property
    def latency(self) -> dict[str, float]:
        """Seconds from the microphone to the ear, by where they pass."""
        return {"input": self._source.latency, "model": self._algorithm, "output": self._sink.latency}

    @property
    def glitches(self) -> dict[str, int]:
        """How often sound was lost or missing, by what happened."""
        return {**self._source.glitches, **self._sink.glitches}

    def peaks(self) -> tuple[float, float]:
        """Return the largest samples of input and output since this was last asked."""
        (heard, played), self._peaks = self._peaks, [0.0, 0.0]
        return heard, played

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let it end with what has come so far."""
        self._stopping.set()

    def _run(self) -> None:
        for action in (self._listen, self._end):  # what was heard before an error still comes out
            try:
                action()
            except Exception as error:  # for the thread that waits for the end
                self.error = self.error or error
        self._source.close()
        self.finished.set()

    def _listen(self) -> None:
        for block in self._source.blocks():
            if block is not None:
                self._take(block)
            if self._stopping.is_set() or self._left == 0:
                break

    def _end(self) -> None:
        self._pass(self._stream.flush())
        self._sink.close()

    def _take(self, block: Samples) -> None:
        if self._left is not None:
            block = block[:, : self._left]
            self._left -= block.shape[1]
        block = np.where(usable(block), block, np.float32(0))  # a device's driver may give NaN; it goes on
        self._waiting = np.concatenate([self._waiting, block], axis=1)
        self._peaks[0] = max(self._peaks[0], _peak(block))
        self._pass(self._stream.feed(block))

    def _pass(self, enhanced: Samples) -> None:
        """Send on what is ready: sample k of the enhanced sound belongs to sample k of the input."""
        count = enhanced.shape[1]
        given, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        share = self._fade(count)
        played = share * enhanced + (1 - share) * given
        self._peaks[1] = max(self._peaks[1], _peak(played))
        if self._record is not None:
            self._record.write(np.concatenate([given, played]))
        self._sink.write(played)

    def _fade(self, count: int) -> Samples:
        """Return the share of the enhanced sound in the next samples [count]."""
        step = (-1 if self.bypassed else 1) / (_FADE_SECONDS * self._rate)
        shares: Samples = np.clip(self._share + step * np.arange(1, count + 1), 0, 1).astype(np.float32)
        self._share = float(shares[-1]) if count else self._share
        return shares


def _peak(block: Samples) -> float:
    return float(np.abs(block).max(initial=0))
