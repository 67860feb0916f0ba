"""The work of a batch on this machine: processes with a model each, which take one file after another, or several.

Processes, not threads: a library that crashes on a file ends one process and not the batch, and while one waits for a
disk the others compute. They are spawned, because neither CUDA nor OpenMP survives a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from sbm_cli.atomic import process_name
from sbm_cli.batch.plan import Job
from sbm_cli.batch.work import PROGRESS_INTERVAL, Begun, Done, Event, Failed, Queue, Task, Work, perform, portable
from sbm_cli.errors import SbmError

_COMPILING = "compiling"  # what a process says before it loads a model for the first time on a machine
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A process as its parent sees it."""

    device: str
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    task: Task = Task(())

    @property
    def name(self) -> str:
        return process_name(self.process.pid)

    def receive(self) -> Event | Exception | str | None:
        """Return the next message: None if it waits for jobs, an exception if the process has ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            jobs = self.task.jobs
            what = f"{jobs[0].source}: its process" if jobs else "a process that was loading the model"
            end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
            hint = "If this happens again, please report it with the output of `sbm doctor`."
            if end.endswith("SIGKILL"):
                hint = "If memory ran out, use fewer --workers."
            return SbmError(f"{what} {end}.", hint)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.task.remove_parts(self.name)


class Workers:
    """Processes, one for each of `devices`; a context manager that starts them and always ends them.

    before_compiling is called once if they compile kernels.
    """

    def __init__(self, work: Work, devices: Sequence[str], before_compiling: Callable[[], object]) -> None:
        self._work, self._before_compiling = work, before_compiling
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

        A process that dies is a failed job, perhaps after a second try, and a new process takes its place.

        Raises what kept the processes from starting if none is left.
        """
        queue = Queue(jobs, self._work.batch_size(self._devices[0]))
        while any(worker.task.jobs for worker in self._workers.values()) or (queue and not stopping()):
            for connection in wait([worker.connection for worker in self._workers.values()]):
                worker = self._workers[connection]
                message = worker.receive()
                if isinstance(message, str):  # _COMPILING
                    self._before_compiling()
                    self._before_compiling = lambda: None
                elif isinstance(message, Exception):
                    del self._workers[connection]
                    worker.kill()
                    yield from queue.died(worker.task, message)
                    if queue and not stopping():
                        if worker.ready:
                            self._start(worker.device)
                        elif not self._workers:
                            raise message
                elif message is not None:
                    if isinstance(message, Done | Failed):
                        worker.task = worker.task.without(message.job)
                    yield message
                else:
                    worker.ready = True
                    if stopping():
                        continue
                    worker.task = queue.take(len(self._workers))
                    for job in worker.task.jobs:
                        yield Begun(job, worker.name)
                    if worker.task.jobs:
                        with contextlib.suppress(OSError):  # it has died, as its connection will tell
                            worker.connection.send(worker.task)

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
        enhancer = work.load(device, lambda: connection.send(_COMPILING))
    except Exception as error:
        connection.send(portable(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent went away
        while True:
            connection.send(None)
            perform(enhancer, work.options, connection.recv(), connection.send, PROGRESS_INTERVAL)


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
