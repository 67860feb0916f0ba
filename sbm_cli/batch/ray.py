"""The work of a batch on a Ray cluster: processes on its machines, all of which see the same folders.

Each is a Ray actor. It gets the model from this process and the recordings from the folders; planning, the journal and
reports stay here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from sbm_cli import __version__
from sbm_cli.atomic import process_name
from sbm_cli.batch.plan import Job
from sbm_cli.batch.work import PROGRESS_INTERVAL, Begun, Done, Event, Failed, Queue, Task, Work, perform, portable
from sbm_cli.errors import SbmError, needing

_POLL = 0.2  # seconds between two looks whether to stop
_EVENTS = 100  # a second of progress, of all processes together
_LINGERS = 5.0  # seconds that a process may go on writing when its machine has gone for Ray
_FAILED_STARTS = 3  # in a row, until no more are tried
_EVERYWHERE = "Every machine of the cluster needs the same version of sbm, and the same folders under the same names."


@dataclass
class _Worker:
    """An actor as this process sees it."""

    actor: Any
    name: str = ""  # of its process, once it has started
    task: Task = Task(())
    ours: dict[Job, Job] = field(default_factory=dict)  # the jobs of the task by what was sent in their place


class RayWorkers:
    """As many processes as fit into a cluster, or `count`, and no more than `most`; as `local.Workers`.

    address: of the cluster; None: that of RAY_ADDRESS, the one of this machine, or one that is started for the batch.
    device: "cpu", "cuda", or "auto" for GPUs if the cluster has any. share: of a GPU that a process takes.
    shared: a file in the output folder, by which a machine knows that it has the same one.
    note: called with what kept processes from starting.

    Raises SbmError on entering if there is no such cluster, or none in which a process has room.
    """

    def __init__(
        self,
        work: Work,
        shared: Path,
        most: int,
        count: int | None = None,
        address: str | None = None,
        device: str = "auto",
        share: float = 1.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._work, self._shared, self._address, self._device = work, shared, address, device
        self._most, self._count, self._share, self._note = most, count, share, note
        self._busy: dict[Any, _Worker] = {}  # by what they will tell next
        self._idle: list[_Worker] = []
        self._lost: list[tuple[float, _Worker]] = []  # those that died, and when
        self._failed_starts = 0  # in a row

    def __enter__(self) -> RayWorkers:
        self._ray = ray = _connect(self._address)
        try:
            if self._device == "auto":
                self._device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
            self._start_all()
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._busy.values(), *self._idle):
            self._end(worker)
            if worker.task.jobs:
                self._lost.append((time.monotonic() + 1 - _LINGERS, worker))  # it was told to end, and will soon
        self._ray.shutdown()
        for moment, worker in self._lost:
            time.sleep(max(0.0, moment + _LINGERS - time.monotonic()))
            worker.task.remove_parts(worker.name)

    def run(self, jobs: Iterable[Job], stopping: Callable[[], bool]) -> Iterator[Event]:
        """As in `local`; a job whose process dies is tried once more, since its machine may have gone with it."""
        queue = Queue(jobs, self._work.batch_size(self._device), forgiving=True)
        while any(worker.task.jobs for worker in self._busy.values()) or (queue and not stopping()):
            while self._idle and queue and not stopping():
                yield from self._give(self._idle.pop(), queue)
            ready, _ = self._ray.wait(list(self._busy), timeout=_POLL)
            for source in ready:
                worker = self._busy.pop(source)
                try:
                    event = self._receive(worker, source)
                except (self._ray.exceptions.RayError, SbmError) as error:
                    yield from self._lose(worker, error, queue)
                    if queue and not stopping():
                        self._replace(worker, error)
                    continue
                if isinstance(event, Done | Failed):
                    worker.task = worker.task.without(event.job)
                if event is not None:
                    yield event

    def _receive(self, worker: _Worker, source: Any) -> Event | None:
        """Return the next event of a worker, None if it has started or has come to the end of its task."""
        if not worker.name:
            name, error = self._ray.get(source)
            if error is not None:
                raise SbmError(f"process {name} did not start: {error}", getattr(error, "hint", ""))
            worker.name, self._failed_starts = name, 0
            self._idle.append(worker)
            return None
        try:
            event: Event = self._ray.get(next(source))
        except StopIteration:
            self._idle.append(worker)
            return None
        self._busy[source] = worker
        return replace(event, job=worker.ours[event.job])

    def _give(self, worker: _Worker, queue: Queue) -> Iterator[Event]:
        worker.task = queue.take(len(self._busy) + len(self._idle) + 1)
        for job in worker.task.jobs:
            yield Begun(job, worker.name)
        worker.ours = {_absolute(job): job for job in worker.task.jobs}
        self._busy[worker.actor.do.remote(Task(tuple(worker.ours), worker.task.again))] = worker

    def _lose(self, worker: _Worker, error: Exception, queue: Queue) -> Iterator[Event]:
        self._end(worker)
        if worker.task.jobs:
            self._lost.append((time.monotonic(), worker))
            died = SbmError(
                f"{worker.task.jobs[0].source}: its process, {worker.name}, died twice ({_in_short(error)}).",
                "If memory ran out, use fewer --workers, or more --threads each.",
            )
            yield from queue.died(worker.task, died)

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Start another worker in the place of one that died, or did not start."""
        if not worker.name:
            self._failed_starts += 1
            self._note(f"{_in_short(error)}; {len(self._busy) + len(self._idle)} others go on")
            if isinstance(error, SbmError) or self._failed_starts >= _FAILED_STARTS:
                if not self._busy and not self._idle:
                    raise SbmError(_in_short(error), getattr(error, "hint", "") or _EVERYWHERE)
                return
        self._start()

    def _end(self, worker: _Worker) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)
        worker.task.remove_parts(worker.name)

    def _start_all(self) -> None:
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = self._share if self._device == "cuda" else 0
        room = sum(_room(found, self._work.threads, gpus) for found in machines)
        if not room:
            takes = f"{self._work.threads} cores" + (f" and {gpus:g} GPUs" if gpus else "")
            raise SbmError(
                f"no machine of the cluster has room for a process, which takes {takes}.",
                "`ray status` shows what it has. Use fewer --threads, another --device, or start more machines.",
            )
        model = self._work.model
        files = {path.name: path.read_bytes() for path in (model, model.with_suffix(".json"))}
        count = min(self._most, self._count or room)
        interval = max(PROGRESS_INTERVAL, count / _EVENTS)
        self._terms = self._ray.put((self._work, files, self._device, interval, self._shared.absolute(), __version__))
        self._remote = self._ray.remote(_Actor).options(num_cpus=self._work.threads, num_gpus=gpus)
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        worker = _Worker(self._remote.remote())
        self._busy[worker.actor.start.remote(self._terms)] = worker


class _Actor:
    """A process of the cluster from within."""

    def start(self, terms: tuple[Work, dict[str, bytes], str, float, Path, str]) -> tuple[str, Exception | None]:
        """Load the model; return the name of this process, and why it cannot work."""
        work, files, device, self._interval, shared, version = terms
        try:
            if version != __version__:
                raise SbmError(f"its sbm is {__version__}, and that of the batch {version}", _EVERYWHERE)
            if not shared.exists():
                raise SbmError(f"its {shared.parent} is not the folder that the batch writes to", _EVERYWHERE)
            with tempfile.TemporaryDirectory() as folder:
                for name, data in files.items():
                    Path(folder, name).write_bytes(data)
                self._enhancer = replace(work, model=Path(folder, work.model.name)).load(device)
        except Exception as error:
            return process_name(), portable(error)
        self._options = work.options
        return process_name(), None

    def do(self, task: Task) -> Iterator[Event]:
        """Yield what becomes of the jobs of a task as it happens."""
        events: SimpleQueue[Event | None] = SimpleQueue()

        def work() -> None:
            perform(self._enhancer, self._options, task, events.put, self._interval)
            events.put(None)

        Thread(target=work, daemon=True).start()
        while (event := events.get()) is not None:
            yield event


def _connect(address: str | None) -> Any:
    """Return the package, connected to a cluster."""
    with needing("ray", "--engine ray"):
        import ray
    if address is not None and address.startswith("ray://"):
        raise SbmError(
            f"{address}: the address of a Ray client, and not of a cluster.",
            "Start the batch on a machine of the cluster, or by `ray job submit`, with --address auto.",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what we start reports to nobody
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=None if address else False)
    except Exception as error:  # Ray raises just that where a machine does not start
        raise SbmError(
            f"cannot connect to a Ray cluster at {address or 'any address'} ({_in_short(error)})",
            "`ray status` tells whether there is one; `ray start --head` starts one.",
        ) from error
    ray._private.worker._worker_logs_enabled = False  # else it prints pages on stdout when a machine goes
    signal.signal(signal.SIGTERM, ended_by)  # Ray put its own there, which would leave files half-written
    return ray


def _room(resources: dict[str, float], cores: int, gpus: float) -> int:
    """Return how many processes fit into a machine with these resources."""
    by_gpus = int(resources.get("GPU", 0) / gpus + 1e-9) if gpus else sys.maxsize
    return min(int(resources.get("CPU", 0) // cores), by_gpus)


def _absolute(job: Job) -> Job:
    return replace(job, source=Path(os.path.abspath(job.source)), target=Path(os.path.abspath(job.target)))


def _in_short(error: Exception) -> str:
    """Return the last line of a message: Ray's begin with tracebacks."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
