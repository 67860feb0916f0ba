"""The work of a batch on this machine: processes, each with its own model, that get one file after the other.

Processes and not threads: a library that crashes on a file takes one process with it and not the batch, and while one
waits for a disc the others compute. They start afresh (spawn), for neither CUDA nor OpenMP survives a fork.
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

from sbm_cli.audio.writer import remove_parts
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
    """What every process needs to know: the model's file, what is done to each recording, its number of threads."""

    model: Path
    options: Options
    threads: int

    def load(self, device: str) -> Enhancer:
        from sbm_cli.enhancer import Enhancer

        return Enhancer.load(self.model, device, self.threads)


@dataclass(frozen=True)
class Begun:
    """A process is about to get a job."""

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
    job: Job | None = None

    def receive(self) -> Event | Exception | None:
        """Return the next message: None when the model is loaded, an exception if the process is at its end."""
        try:
            message: Event | Exception | None = self.connection.recv()
            return message
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            where = f"{self.job.source}: the process that worked on it" if self.job else "a process that loaded a model"
            if cause == "killed by SIGKILL":
                return SbmError(f"{where} was {cause}.", "If memory ran out: fewer --workers.")
            return SbmError(f"{where} was {cause}.", "If it happens again, please report it with `sbm doctor`.")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        if self.job is not None and self.process.pid is not None:
            remove_parts(Path(os.path.realpath(self.job.target)).parent, self.process.pid)


class Workers:
    """Processes, one for each of `devices`; a context manager that starts them and, however it is left, ends them."""

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
        """Work through the jobs in their order; once `stopping()`, finish those that are begun and begin no more.

        A process that dies is a failed job, and another takes its place.

        Raises what kept the processes from starting, if none is left.
        """
        waiting = deque(jobs)
        while any(worker.job for worker in self._workers.values()) or (waiting and not stopping()):
            for connection in wait([worker.connection for worker in self._workers.values()]):
                worker = self._workers[connection]
                message = worker.receive()
                if isinstance(message, Progress):
                    yield message
                    continue
                if isinstance(message, Exception):
                    del self._workers[connection]
                    worker.kill()
                    if worker.job is not None:
                        yield Failed(worker.job, message)
                    if waiting and not stopping():
                        if worker.ready:
                            self._start(worker.device)
                        elif not self._workers:
                            raise message
                    continue
                worker.ready, worker.job = True, None
                if message is not None:
                    yield message
                if waiting and not stopping():
                    worker.job = waiting.popleft()
                    yield Begun(worker.job, worker.process.pid or 0)
                    with contextlib.suppress(OSError):  # it died meanwhile: its connection will tell
                        worker.connection.send(worker.job)

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
    """Load the model, then enhance job after job: the life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    try:
        enhancer = work.load(device)
    except Exception as error:
        connection.send(_portable(error))
        return
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            job = connection.recv()
            try:
                connection.send(_enhance(enhancer, work.options, job, connection))
            except Exception as error:
                connection.send(Failed(job, _portable(error)))


def _enhance(enhancer: Enhancer, options: Options, job: Job, connection: Connection) -> Done:
    told = time.monotonic()

    def progress(done: float, _: float) -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_INTERVAL:
            told = time.monotonic()
            connection.send(Progress(job, done))

    job.target.parent.mkdir(parents=True, exist_ok=True)
    sha256 = digest(job.source) if job.source.is_file() else ""  # reading a pipe would never end
    report = enhancer.enhance_file(job.source, job.target, options, overwrite=job.replace, progress=progress)
    return Done(job, asdict(report), sha256, job.target.stat().st_size)


def _portable(error: Exception) -> Exception:
    """Return what arrives in the parent as this exception, traceback included; one that cannot be sent, as its text."""
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
