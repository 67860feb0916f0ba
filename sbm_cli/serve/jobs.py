"""Recordings on their way: uploaded, enhanced one after another, and gone after a while."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import DISK_FULL, FULL, SbmError
from sbm_cli.files import FileReport
from sbm_cli.options import Options
from sbm_cli.serve.listening import Listening, listen
from sbm_cli.serve.requests import known_suffix

State = Literal["arriving", "waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Limits:
    """What one client may cost.

    size: bytes of an upload. seconds: of sound in it. jobs: how many are kept at a time. keep: seconds for which one is
    kept after it was last asked for. patience: seconds to wait for the next byte of an upload.
    """

    size: int = 1000 * 10**6
    seconds: float = 2 * 3600.0
    jobs: int = 50
    keep: float = 3600.0
    patience: float = 30.0


class Refused(Exception):
    """A request is not served, with the status of HTTP; message and hint as those of `SbmError`."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


class _Cancelled(Exception):
    pass


class Job:
    """A recording and what becomes of it. `name` is what its sender calls it, and no part of any path."""

    def __init__(self, folder: Path, name: str, shown: bool) -> None:
        self.id = folder.name
        self.name = name
        self.shown = shown  # on the page, where it is heard and seen
        self.state: State = "arriving"
        self.before = folder / f"before{known_suffix(name)}"
        self.after = folder / "after"
        self.options = Options()
        self.query = ""  # that the options came from
        self.done = self.total = 0.0  # seconds of sound
        self.error: Refused | None = None
        self.report: FileReport | None = None
        self.listening: Listening | None = None
        self.touched = time.monotonic()
        self.cancelled = False
        self.ended: Future[None] | None = None
        self.folder = folder

    @property
    def output_name(self) -> str:
        return f"{PurePath(self.name).stem}-clean{self.after.suffix}"

    def describe(self) -> dict[str, Any]:
        """Return what a client may know of it."""
        told: dict[str, Any] = {"id": self.id, "name": self.name, "state": self.state, "query": self.query}
        told |= {"done": self.done, "total": self.total}
        if self.error is not None:
            told |= {"error": self.error.message, "hint": self.error.hint}
        if self.report is not None and self.state == "done":
            names = ("rate", "channels", "seconds", "elapsed", "clipped", "band_limit", "not_carried", "notes")
            told |= {name: getattr(self.report, name) for name in names}
            told |= {"model": self.report.model, "output": self.output_name, "bytes": self.after.stat().st_size}
        if self.listening is not None and self.state == "done":
            told["listening"] = self.listening.describe()
        return told


class Jobs:
    """The recordings of all clients, in a folder: enhanced one at a time, so that streams keep the other cores."""

    def __init__(self, enhancer: Enhancer, folder: Path, limits: Limits) -> None:
        self.enhancer, self.limits = enhancer, limits
        self._folder = folder
        self._jobs: dict[str, Job] = {}
        self._worker = ThreadPoolExecutor(1, "files", _step_back)

    def new(self, name: str, shown: bool) -> Job:
        """Return a job whose recording is still to come.

        Raises Refused if there are too many.
        """
        if len(self._jobs) >= self.limits.jobs:
            raise Refused(503, f"the server holds {len(self._jobs)} recordings already.", "Try again later.")
        folder = self._folder / secrets.token_urlsafe(16)
        folder.mkdir()
        job = self._jobs[folder.name] = Job(folder, name, shown)
        return job

    def get(self, id: str) -> Job:
        """Return a job by its unguessable name, which is all that a client needs to know."""
        job = self._jobs.get(id)
        if job is None:
            raise Refused(
                404, "no such recording: it was removed, or nobody asked for it for too long.", "Send it again."
            )
        job.touched = time.monotonic()
        return job

    def start(self, job: Job, options: Options, suffix: str, query: str) -> None:
        """Let it be enhanced, after those that came before."""
        if job.state in ("waiting", "running"):
            raise Refused(409, f"{job.name} is being enhanced.", "Wait for its end, or remove it.")
        job.state, job.error, job.report, job.listening = "waiting", None, None, None
        job.options, job.query, job.done = options, query, 0.0
        job.after.unlink(missing_ok=True)
        job.after = job.folder / f"after{suffix}"
        job.ended = self._worker.submit(self._run, job)

    def remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        job.cancelled = True
        if job.state != "running":  # else it will notice, at its next block or step
            shutil.rmtree(job.folder, ignore_errors=True)

    def expire(self) -> None:
        """Remove those that nobody has asked for in a while."""
        oldest = time.monotonic() - self.limits.keep
        for job in list(self._jobs.values()):
            if job.touched < oldest and job.state in ("done", "failed"):
                self.remove(job)

    def close(self) -> None:
        for job in list(self._jobs.values()):
            self.remove(job)
        self._worker.shutdown(cancel_futures=True)

    def _run(self, job: Job) -> None:
        if job.cancelled:
            return
        job.state = "running"
        try:
            job.report = self._enhance(job)
            job.state = "done"
        except _Cancelled:
            pass
        except Exception as error:
            job.error = _told(error, job)
            job.state = "failed"
        finally:
            job.touched = time.monotonic()
            if job.cancelled:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _enhance(self, job: Job) -> FileReport:
        def check() -> None:
            if job.cancelled:
                raise _Cancelled

        def progress(done: float, total: float) -> None:
            check()
            job.done, job.total = done, total
            most = self.limits.seconds / job.options.steps  # each works through all of the sound
            if max(done, total) > most:
                longer = f"{job.name}: longer than {most / 60:g} minutes"
                longer += f" for {job.options.steps} steps." if job.options.steps > 1 else "."
                raise Refused(413, longer, "Use `sbm enhance`, or cut it.")

        model = self.enhancer.model
        usual, model.before_call = model.before_call, check  # a block of many steps takes long
        try:
            report = self.enhancer.enhance_file(job.before, job.after, job.options, progress=progress)
        finally:
            model.before_call = usual
        if job.shown:
            stream = job.options.audio_stream
            number = stream if isinstance(stream, int) else None
            job.listening = listen(job.before, job.after, job.folder / "both", number, check)
        return replace(report, notes=tuple(_named(note, job) for note in report.notes))


def _step_back() -> None:
    """Let streams, which cannot wait, have the processor before the files."""
    if sys.platform == "linux":  # where each thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _told(error: Exception, job: Job) -> Refused:
    """Return what a client is told of an error: the name that it gave, and no path of ours."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, SbmError):
        told = Refused(422, error.message, error.hint)
    elif isinstance(error, OSError) and error.errno in FULL:
        told = Refused(507, "the server has no room left.", DISK_FULL)
    elif isinstance(error, MemoryError):
        told = Refused(507, "the server is out of memory.", "Send a shorter recording.")
    else:
        logging.getLogger(__name__).error("a recording failed", exc_info=error)
        told = Refused(500, f"{job.name}: the server failed.", "The reason stands in its log.")
    told.message, told.hint = _named(told.message, job), _named(told.hint, job)
    return told


def _named(text: str, job: Job) -> str:
    """Put the names that a client knows in place of ours, also where something is appended to them."""
    stem = job.folder / "before", PurePath(job.name).stem
    for ours, theirs in ((job.before, job.name), (job.after, job.output_name), stem):
        text = text.replace(str(ours), theirs)
    return text.replace(str(job.folder), "")
