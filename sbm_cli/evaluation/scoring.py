"""Systems on a test set: every item is read, enhanced and scored in turn, so that memory does not grow with the set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from sbm_cli.errors import SbmError
from sbm_cli.evaluation.folders import Item, Samples
from sbm_cli.evaluation.metrics import RATE, Scores, score
from sbm_cli.evaluation.systems import NOISY, System, at_level, run

WAITING = 4  # signals to score, for each process, until the next item is enhanced


@dataclass(frozen=True)
class Record:
    """One system on one item. problem: why there are no scores; elapsed: seconds it took, None where not timed."""

    id: str
    half: str
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
    hear: Callable[[int, Item, dict[str, Samples]], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Record]:
    """Return a record for the noisy input and each system on every item, in this order; `workers` changes none of them.

    A system that fails on an item has a problem and no scores there; all others go on.
    workers: processes that score. level: RMS in dBFS of everything scored, as it comes out if None.
    hear: given each item's number, the item and what was scored of it, by system.
    progress: called with the number of records done.
    """
    records: list[Record] = []
    waiting: deque[tuple[Callable[[Scores], Record], Future[Scores]]] = deque()

    def collect(most: int) -> None:
        while len(waiting) > most:
            record, future = waiting.popleft()
            records.append(record(future.result()))
            if progress is not None:
                progress(len(records))

    with ExitStack() as opened:
        pool = opened.enter_context(ProcessPoolExecutor(workers, get_context("spawn"))) if workers > 1 else None
        for number, item in enumerate(items):
            heard: dict[str, Samples] = {}
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
                        heard[name] = at_level(output, level)
                        elapsed = took if system is not None and system.timed else None
                except (SbmError, OSError, ValueError) as error:
                    problem = _reason(error)
                if problem:
                    future = _done(_none(metrics, problem))
                elif pool is None:
                    future = _done(score(metrics, heard[name], clean, RATE))
                else:
                    future = pool.submit(score, metrics, heard[name], clean, RATE)
                waiting.append((partial(Record, item.id, item.half, name, seconds, elapsed, problem), future))
                collect(WAITING * workers)
            if hear is not None and heard:
                hear(number, item, heard)
        collect(0)
    return records


def real_time_factor(records: Sequence[Record], system: str) -> float | None:
    """Return the time a system took over the duration of the audio, over the whole set; None where not timed."""
    timed = [(record.elapsed, record.seconds) for record in records if record.system == system and record.elapsed]
    return sum(took for took, _ in timed if took) / sum(seconds for _, seconds in timed) if timed else None


def _none(metrics: Sequence[str], reason: str) -> Scores:
    scores = Scores()
    scores.update(dict.fromkeys(metrics))
    scores.reasons.update(dict.fromkeys(metrics, reason))
    return scores


def _done(scores: Scores) -> Future[Scores]:
    future: Future[Scores] = Future()
    future.set_result(scores)
    return future


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SbmError) else f"{type(error).__name__}: {error}"
