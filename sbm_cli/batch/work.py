"""What an engine does: take jobs, in processes that have a model each, and report what becomes of them.

An engine is a context manager that starts processes, and always ends them; its `run` takes jobs and yields events.
There is one for this machine (`local.Workers`), and one for a Ray cluster (`ray.RayWorkers`).
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbm_cli.atomic import remove_parts
from sbm_cli.batch.plan import Job
from sbm_cli.hub import digest
from sbm_cli.options import Options

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer

GPU_BATCH = 32  # recordings that keep a GPU busy; halved where its memory is too small
PROGRESS_INTERVAL = 0.2  # seconds


@dataclass(frozen=True)
class Work:
    """What every process needs to know: the file of the model, options, and number of threads.

    side_by_side: how many recordings of similar length a process enhances as one batch of the network; None: as many
    as its device likes.
    """

    model: Path
    options: Options
    threads: int
    side_by_side: int | None = None

    def batch_size(self, device: str) -> int:
        return self.side_by_side or (1 if device == "cpu" else GPU_BATCH)

    def load(self, device: str, before_compiling: Callable[[], object] | None = None) -> Enhancer:
        from sbm_cli.enhancer import Enhancer

        return Enhancer.load(self.model, device, self.threads, before_compiling=before_compiling)


@dataclass(frozen=True)
class Begun:
    """A process is about to get a job, possibly with others."""

    job: Job
    process: str  # see `process_name`


@dataclass(frozen=True)
class Progress:
    job: Job
    seconds: float  # of audio, so far


@dataclass(frozen=True)
class Done:
    job: Job
    report: dict[str, Any]  # the fields of a FileReport, whose class would bring torch along
    sha256: str  # of the input
    size: int  # of the output, in bytes


@dataclass(frozen=True)
class Failed:
    job: Job
    error: Exception


Event = Begun | Progress | Done | Failed


@dataclass(frozen=True)
class Task:
    """What a process gets at a time; again: their process died when the jobs were tried first."""

    jobs: tuple[Job, ...]
    again: bool = False

    def remove_parts(self, process: str) -> None:
        """Remove what a process that died, or was ended, has half-written."""
        for job in self.jobs:
            remove_parts(Path(os.path.realpath(job.target)).parent, process)

    def without(self, job: Job) -> Task:
        return Task(tuple(other for other in self.jobs if other != job), self.again)


class Queue:
    """The jobs that wait, and those whose process died: each is tried again alone, to find the one to blame.

    batch_size: how many jobs a process takes at most. forgiving: whether a job that was alone is tried again, too.
    """

    def __init__(self, jobs: Iterable[Job], batch_size: int, forgiving: bool = False) -> None:
        self._waiting = deque(jobs)
        self._suspects: deque[Job] = deque()
        self._batch_size, self._forgiving = batch_size, forgiving

    def __bool__(self) -> bool:
        return bool(self._waiting or self._suspects)

    def take(self, processes: int) -> Task:
        """Take what one of so many processes is to do next, perhaps nothing.

        It is an equal share of a few jobs, and none less than half as long as another.
        """
        if self._suspects:
            return Task((self._suspects.popleft(),), again=True)
        jobs: list[Job] = []
        most = min(self._batch_size, -(-len(self._waiting) // processes))
        while self._waiting and len(jobs) < most:
            first, job = (jobs or self._waiting)[0], self._waiting[0]
            if job.replace != first.replace or 2 * job.seconds < max((other.seconds for other in jobs), default=0):
                break
            jobs.append(self._waiting.popleft())
        return Task(tuple(jobs))

    def died(self, task: Task, error: Exception) -> Iterator[Failed]:
        """Yield the jobs of a process that died which are not tried again."""
        if task.again or (len(task.jobs) == 1 and not self._forgiving):
            yield from (Failed(job, error) for job in task.jobs)
        else:
            self._suspects.extend(task.jobs)


def perform(enhancer: Enhancer, options: Options, task: Task, report: Callable[[Event], None], interval: float) -> None:
    """Do the jobs of a task, and report their progress every so many seconds, and their ends."""
    jobs, last = task.jobs, time.monotonic()

    def progress(index: int, done: float, _: float) -> None:
        nonlocal last
        if time.monotonic() - last > interval:
            last = time.monotonic()
            report(Progress(jobs[index], done))

    ends: list[Event]
    try:
        for job in jobs:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        # Before the work, because a source may be its own target; not of a pipe, which might never end.
        digests = [digest(job.source) if job.source.is_file() else "" for job in jobs]
        pairs = [(job.source, job.target) for job in jobs]
        overwrite = jobs[0].replace or task.again  # the process that died may have come to the end of it
        results = enhancer.enhance_files(pairs, options, overwrite=overwrite, progress=progress)
        ends = [
            Failed(job, portable(result))
            if isinstance(result, Exception)
            else Done(job, asdict(result), sha256, job.target.stat().st_size)
            for job, result, sha256 in zip(jobs, results, digests, strict=True)
        ]
    except Exception as error:
        ends = [Failed(job, portable(error)) for job in jobs]
    for end in ends:
        report(end)


def portable(error: Exception) -> Exception:
    """Return what the parent receives as this exception and its traceback; as text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    return ExceptionWithTraceback(error, error.__traceback__)
