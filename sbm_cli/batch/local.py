"""The work of a batch on this machine: processes with a model each, which take one file after another, or several.

Processes, not threads: a library that crashes on a file ends one process and not the batch, and while one waits for a
disk the others compute. They are spawned, because neither CUDA nor OpenMP survives a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbm_cli.atomic import remove_parts
from sbm_cli.batch.plan import Job
from sbm_cli.errors import SbmError
from sbm_cli.hub import digest
from sbm_cli.options import Options

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer

_SPAWN = multiprocessing.get_context("spawn")
_PROGRESS_INTERVAL = 0.2  # seconds


@dataclass(frozen=True)
class Work:
    """What every process needs to know: the file of the model, options, and number of threads.

    side_by_side: how many recordings of similar length a process enhances as one batch of the network.
    """

    model: Path
    options: Options
    threads: int
    side_by_side: int = 1

    def load(self, device: str) -> Enhancer:
        from sbm_cli.enhancer import Enhancer

        return Enhancer.load(self.model, device, self.threads)


@dataclass(frozen=True)
class Begun:
    """A process is about to get a job, possibly with others."""

    job: Job
    process: int


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


@dataclass
class _Worker:
    """A process as its parent sees it."""

    device: str
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    jobs: tuple[Job, ...] = ()

    def receive(self) -> Event | Exception | None:
        """Return the next message: None if it waits for jobs, an exception if the process has ended."""
        try:
            message: Event | Exception | None = self.connection.recv()
            return message
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            what = f"{self.jobs[0].source}: its process" if self.jobs else "a process that was loading the model"
            end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
            hint = "If this happens again, please report it with the output of `sbm doctor`."
            if end.endswith("SIGKILL"):
                hint = "If memory ran out, use fewer --workers."
            return SbmError(f"{what} {end}.", hint)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        for job in self.jobs:
            remove_parts(Path(os.path.realpath(job.target)).parent, self.process.pid or 0)


class Workers:
    """Processes, one for each of `devices`; a context manager that starts them and always ends them."""

    def __init__(self, work: Work, devices: Sequence[str]) -> None:
        self._work = work
        self._devices = devices
        self._workers: dict[object, _Worker] = {}  # by their connections

    def __enter__(self) -> Workers:
        for device in self._devices:
            self._start(device)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.kill()

    def run(self, jobs: Iterable[Job], stopping: Callable[[], bool]) -> Iterator[Event]:
        """Do the jobs in order; once `stopping()`, finish those in progress and begin no more.

        A process that dies is a failed job, and a new one takes its place.

        Raises what kept the processes from starting if none is left.
        """
        waiting = deque(jobs)
        suspects: deque[Job] = deque()  # of a process that died: each is tried alone, to find the one to blame
        while any(worker.jobs for worker in self._workers.values()) or ((waiting or suspects) and not stopping()):
            for connection in wait([worker.connection for worker in self._workers.values()]):
                worker = self._workers[connection]
                message = worker.receive()
                if isinstance(message, Event):
                    if isinstance(message, Done | Failed):
                        worker.jobs = tuple(job for job in worker.jobs if job != message.job)
                    yield message
                    continue
                if isinstance(message, Exception):
                    del self._workers[connection]
                    worker.kill()
                    if len(worker.jobs) == 1:
                        yield Failed(worker.jobs[0], message)
                    else:
                        suspects.extend(worker.jobs)
                    if (waiting or suspects) and not stopping():
                        if worker.ready:
                            self._start(worker.device)
                        elif not self._workers:
                            raise message
                    continue
                worker.ready = True
                if stopping():
                    continue
                worker.jobs = (suspects.popleft(),) if suspects else self._take(waiting)
                for job in worker.jobs:
                    yield Begun(job, worker.process.pid or 0)
                if worker.jobs:
                    with contextlib.suppress(OSError):  # it has died, as its connection will tell
                        worker.connection.send(worker.jobs)

    def _take(self, waiting: deque[Job]) -> tuple[Job, ...]:
        """Take the next jobs for one process: an equal share of a few, and none less than half as long as the first."""
        jobs: list[Job] = []
        most = min(self._work.side_by_side, -(-len(waiting) // len(self._workers)))
        while waiting and len(jobs) < most:
            first, job = (jobs or waiting)[0], waiting[0]
            if job.replace != first.replace or 2 * job.seconds < first.seconds:
                break
            jobs.append(waiting.popleft())
        return tuple(jobs)

    def _start(self, device: str) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(theirs, self._work, device), daemon=True)
        with _interrupts_held():
            process.start()
        theirs.close()  # with the only copy in the process, its death closes the connection
        self._workers[ours] = _Worker(device, process, ours)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a process that is started here never see Ctrl-C, which a terminal sends to all: the parent decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which starts with the first process, and would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Work, device: str) -> None:
    """Load the model, then do job after job: the life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    try:
        enhancer = work.load(device)
    except Exception as error:
        connection.send(_portable(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent went away
        while True:
            connection.send(None)
            jobs = connection.recv()
            try:
                events = _enhance(enhancer, work.options, jobs, connection)
            except Exception as error:
                events = [Failed(job, _portable(error)) for job in jobs]
            for event in events:
                connection.send(event)


def _enhance(enhancer: Enhancer, options: Options, jobs: Sequence[Job], connection: Connection) -> list[Done | Failed]:
    told = time.monotonic()

    def progress(index: int, done: float, _: float) -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_INTERVAL:
            told = time.monotonic()
            connection.send(Progress(jobs[index], done))

    for job in jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    # Before the work, because a source may be its own target; not of a pipe, which might never end.
    digests = [digest(job.source) if job.source.is_file() else "" for job in jobs]
    pairs = [(job.source, job.target) for job in jobs]
    results = enhancer.enhance_files(pairs, options, overwrite=jobs[0].replace, progress=progress)
    return [
        Failed(job, _portable(result))
        if isinstance(result, Exception)
        else Done(job, asdict(result), sha256, job.target.stat().st_size)
        for job, result, sha256 in zip(jobs, results, digests, strict=True)
    ]


def _portable(error: Exception) -> Exception:
    """Return what the parent receives as this exception and its traceback; as text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    return ExceptionWithTraceback(error, error.__traceback__)  # type: ignore[no-any-return]


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
