"""Systems on a test set, item by item, so that memory does not grow with the set."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from sbm_cli.audio.samples import Samples
from sbm_cli.errors import SbmError
from sbm_cli.evaluation.folders import Item
from sbm_cli.evaluation.metrics import Scores, at_level, score
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.evaluation.systems import NOISY, System, run

WAITING = 4  # signals per process that wait for their scores before the next item is enhanced


@dataclass(frozen=True)
class Record:
    """One system on one item. problem: why there are no scores. elapsed: seconds it took, None if not timed."""

    id: str
    subset: str
    system: str
    seconds: float  # of audio
    elapsed: float | None
    problem: str
    scores: Scores


def evaluate(
    items: Iterable[Item],
    systems: Sequence[System],
    metrics: Sequence[str],
    workers: int = 1,
    level: float | None = None,
    on_item: Callable[[int, Item, dict[str, Samples]], None] | None = None,
) -> Iterator[Record]:
    """Yield a record for the noisy input and each system on every item, in this order, whatever the `workers`.

    If a system fails on an item, or the process that scores it dies, the record has a problem and no scores; the others
    go on. Before a KeyboardInterrupt come the records of what was scored by then.
    workers: scoring processes, fewer if the limit of open files is low.
    level: RMS in dBFS to scale signals to for metrics without a reference and for `on_item`, None: leave it.
    on_item: called with each item's number, the item and its signals by system.
    """
    waiting: deque[tuple[Callable[[str, Scores], Record], Callable[[], tuple[str, Scores]]]] = deque()

    def collect(most: int) -> Iterator[Record]:
        while len(waiting) > most:
            record, result = waiting[0]
            found = record(*result())
            waiting.popleft()
            yield found

    scoring = _Scoring(metrics, workers, level)
    try:
        for number, item in enumerate(items):
            outputs: dict[str, Samples] = {}
            unread, seconds = "", 0.0
            try:
                noisy, clean = item.load()
                seconds = noisy.size / RATE
            except (SbmError, OSError) as error:
                unread = _reason(error)
            for system in (None, *systems):
                name, problem, elapsed = NOISY if system is None else system.name, unread, None
                try:
                    if not problem:
                        output, took = (noisy, 0.0) if system is None else run(system, item.id, noisy)
                        outputs[name] = at_level(output, level)
                        elapsed = took if system is not None and system.timed else None
                except (SbmError, OSError, ValueError) as error:
                    problem = _reason(error)
                result = partial(_none, metrics, problem) if problem else scoring.begin(output, clean, noisy)
                waiting.append((partial(Record, item.id, item.subset, name, seconds, elapsed), result))
                yield from collect(WAITING * workers)
            if on_item is not None and outputs:
                on_item(number, item, outputs)
        yield from collect(0)
    except KeyboardInterrupt:
        scoring.close()
        with suppress(CancelledError):
            yield from collect(0)
        raise
    finally:
        scoring.close()


class _Scoring:
    """Scores signals in several spawned processes, or in this one."""

    def __init__(self, metrics: Sequence[str], workers: int, level: float | None) -> None:
        self._metrics, self._level = metrics, level
        self._workers = _openable(workers)
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """Finish what the processes are at, and cancel the rest."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, estimate: Samples, clean: Samples | None, noisy: Samples) -> Callable[[], tuple[str, Scores]]:
        """Begin to score; the function returned waits for the problem ("" if none) and the scores."""
        job = partial(score, self._metrics, estimate, clean, noisy, self._level)
        if self._workers == 1:
            scores = job()
            return lambda: ("", scores)
        try:
            # A terminal sends Ctrl-C to all: the parent decides.
            self._pool = self._pool or ProcessPoolExecutor(
                self._workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
            )
            future = self._pool.submit(job)
        except BrokenProcessPool:
            self._pool = None
            return self.begin(estimate, clean, noisy)
        return partial(self._finish, job, future)

    def _finish(self, job: Callable[[], Scores], future: Future[Scores]) -> tuple[str, Scores]:
        try:
            return "", future.result()
        except BrokenProcessPool:  # one process died and ended the work of all: each alone finds the one to blame
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                try:
                    return "", alone.submit(job).result()
                except BrokenProcessPool:
                    return _none(self._metrics, "the scoring process died, perhaps out of memory")


def _openable(workers: int) -> int:
    """Return the number of processes that the limit of open files allows; each takes a few."""
    try:
        import resource
    except ImportError:  # Windows
        return workers
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return workers if most == resource.RLIM_INFINITY else max(1, min(workers, (most - 32) // 4))


def real_time_factor(records: Sequence[Record], system: str) -> float | None:
    """Return the processing time of a system over the audio duration, for the whole set; None if not timed."""
    timed = [(record.elapsed, record.seconds) for record in records if record.system == system and record.elapsed]
    return sum(took for took, _ in timed if took) / sum(seconds for _, seconds in timed) if timed else None


def _none(metrics: Sequence[str], problem: str) -> tuple[str, Scores]:
    scores = Scores()
    scores.update(dict.fromkeys(metrics))
    scores.reasons.update(dict.fromkeys(metrics, problem))
    return problem, scores


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SbmError) else f"{type(error).__name__}: {error}"
