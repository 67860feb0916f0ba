"""Between threads that run by clocks of their own: those of devices never wait, and samples keep their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np

from sbm_cli.audio.samples import Samples

TICK = 0.1  # s after which whoever waits for a block looks around
PATIENCE = 3.0  # s after which a device that does nothing counts as gone
_MOST_BLOCKS = 256  # in an inbox: a second or more of a device
_MOST_SAMPLES = 2**17  # in a jitter buffer that nobody empties


class Inbox:
    """Blocks [channels, n] from a thread that captures them to one that iterates over them, until `close`."""

    def __init__(self) -> None:
        self.overruns = 0  # blocks lost
        self.error: Exception | None = None  # why there are no more
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_MOST_BLOCKS)
        self._closed = threading.Event()

    def offer(self, block: Samples) -> None:
        """Hand over a block at once, or lose it if too many are waiting."""
        try:
            self._blocks.put_nowait(block)
        except queue.Full:
            self.overruns += 1

    def put(self, block: Samples | None) -> bool:
        """Hand over a block, or None at the end, when there is room; return False if nobody wants it any more."""
        while not self._closed.is_set():
            try:
                self._blocks.put(block, timeout=TICK)
                return True
            except queue.Full:
                pass
        return False

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[Samples | None]:
        """Yield the blocks in order, and None whenever none has come for a tick."""
        while not self._closed.is_set():
            try:
                block = self._blocks.get(timeout=TICK)
            except queue.Empty:
                yield None
                continue
            if block is None:
                return
            yield block


class JitterBuffer:
    """Samples [n] from a producer of chunks to a consumer of blocks, which does not wait.

    It starts to play, and again after an underrun, when a chunk and `slack` samples will be left behind the block that
    is taken: a chunk that comes late by less than the slack then does no harm. If twice as much is waiting, after a
    stall or because the producer's clock is faster, the oldest samples are dropped: sound must not come ever later.

    chunk: of the producer, to begin with; larger ones are noticed, and so are the consumer's blocks. wait: the producer
    can; it then waits for room, and nothing is dropped.
    """

    def __init__(self, chunk: int, slack: int, wait: bool = False) -> None:
        self.underruns = self.overruns = 0
        self._chunk, self._block, self._slack, self._wait = chunk, 0, slack, wait
        self._samples = np.zeros(0, np.float32)
        self._playing = self._ended = False
        self._changed = threading.Condition()

    @property
    def delay(self) -> int:
        """Samples by which it delays what passes, to a chunk."""
        return self._slack + self._block

    @property
    def _target(self) -> int:
        """Samples that wait when it starts to play, the first block among them."""
        return self.delay + self._chunk

    def put(self, samples: Samples) -> bool:
        """Append samples; return False if whoever can wait has waited for too long."""
        with self._changed:
            self._chunk = max(self._chunk, len(samples))
            has_room = not self._wait or self._changed.wait_for(lambda: len(self._samples) <= self._target, PATIENCE)
            self._samples = np.concatenate([self._samples, samples])[-_MOST_SAMPLES:]
            return has_room

    def take(self, count: int) -> Samples:
        """Return the next samples [count], with silence for those that are missing."""
        with self._changed:
            self._block = max(self._block, count)
            self._start_or_trim()
            taken = self._samples[: count if self._playing else 0]
            self._samples = self._samples[len(taken) :]
            if self._playing and len(taken) < count and not self._ended:
                self.underruns += 1
                self._playing = False
            self._changed.notify_all()
        return np.concatenate([taken, np.zeros(count - len(taken), np.float32)])

    def drain(self, seconds: float) -> None:
        """Let what is left be played, however little, and wait for that, but no longer than so many seconds."""
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not len(self._samples), seconds)

    def _start_or_trim(self) -> None:
        waiting = len(self._samples)
        if not (self._wait or self._ended) and waiting > (2 if self._playing else 1) * self._target:
            self.overruns += self._playing
            self._samples = self._samples[-self._target :]
        self._playing = self._playing or self._ended or waiting >= self._target
