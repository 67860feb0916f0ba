"""The journal of an output folder, in a file there, so that the next batch resumes where this one ended.

Each shard of a batch has a file of its own, until a batch as a whole gathers them in one. All are read, and of two
lines about an output the newer counts. Whoever writes about an output has read what the others wrote, and dates it
later: clocks may differ from machine to machine.

One JSON object per line, append-only; the last line about an output counts. Each output has two: one when the work
begins, and one, synced to disk, when it is complete. Outputs appear whole or not at all, so that an existing output of
which only the beginning was noted (the batch was killed in between) is complete, unless it was to be replaced.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, get_type_hints

from sbm_cli.atomic import remove_parts
from sbm_cli.batch.plan import Job, Shard
from sbm_cli.config import parse_json
from sbm_cli.errors import DISK_FULL, FULL, SbmError
from sbm_cli.hub import digest
from sbm_cli.lock import Lease, lock
from sbm_cli.options import Options

NAME = ".sbm-batch.jsonl"
SHARD_NAME = ".sbm-batch.{}-of-{}.jsonl"

_PROCESS = re.compile(r"(\w+-)?\d+")  # without a host: as journals had it before there were shards

State = Literal["new", "done", "outdated"]


@dataclass(frozen=True)
class Entry:
    """One line: the input with its size and modification time, model and options, and the process."""

    output: str
    source: str
    size: int
    mtime_ns: int
    settings: dict[str, Any]
    process: str | int  # see `process_name`
    replaces: bool
    failed: bool = False  # nothing was written: what has the output's name is another's
    time: float = 0.0  # when this was noted, and later than what was noted of the output before
    # once finished
    sha256: str = ""  # of the input
    seconds: float = 0.0
    bytes: int = -1  # of the output

    @property
    def finished(self) -> bool:
        return self.bytes >= 0


# What its fields have to be, in a journal that others may have written to.
_KINDS: dict[str, Any] = {
    **get_type_hints(Entry), "settings": dict, "time": (int, float), "seconds": (int, float)
}  # fmt: skip


class Journal:
    """The journal of an output folder, for outputs of one model and one set of options.

    model: its .safetensors file. note: called with what a `with` block waits for. Reading is possible at any time,
    writing only inside such a block.

    Raises SbmError on entering if another process writes to it, or to another shard of another number of them.
    """

    def __init__(self, out: Path, model: Path, options: Options, shard: Shard, note: Callable[[str], None]) -> None:
        self._out = out
        self.path = out / (NAME if shard.count == 1 else SHARD_NAME.format(shard.index, shard.count))
        self._siblings = SHARD_NAME.format("*", shard.count)
        self._note = note
        both = digest(model) + digest(model.with_suffix(".json"))
        name = f"{model.stem} {hashlib.sha256(both.encode()).hexdigest()[:12]}"
        self._settings = {"model": name, **asdict(options.for_recordings())}
        self._entries = _read(_journals(out))
        self._file: BinaryIO | None = None
        self._lease = Lease(self.path.with_suffix(".lock"))

    def __enter__(self) -> Journal:
        self._out.mkdir(parents=True, exist_ok=True)
        _check_regular(self.path)
        file = self._file = open(self.path, "a+b", buffering=0)
        try:
            self._keep_others_out(file)
        except BaseException:
            file.close()
            raise
        try:
            self._tidy(file)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._lease.release()
        self._file.close()
        self._file = None

    def _tidy(self, file: BinaryIO) -> None:
        """Read again what others have noted, remove what the killed ones among them left, and gather their journals."""
        self._entries = _read(_journals(self._out))
        if file.tell() and not self.path.read_bytes().endswith(b"\n"):
            file.write(b"\n")  # keep a last line that was cut off apart
        others = [path for path in _journals(self._out) if path != self.path]
        siblings = (path for path in others if path.match(self._siblings))
        at_work = {name for name, entry in _read(siblings).items() if not entry.finished}
        begun = (entry for name, entry in self._entries.items() if not entry.finished and name not in at_work)
        for folder, process in {((self._out / entry.output).parent, entry.process) for entry in begun}:
            remove_parts(folder, str(process))
        if self.path.name == NAME and others:  # of shards, none of which is at work
            noted = _read([self.path])
            self._write(*(entry for name, entry in self._entries.items() if entry != noted.get(name)), sync=True)
            for path in others:
                path.unlink(missing_ok=True)

    def _keep_others_out(self, file: BinaryIO) -> None:
        if lock(file.fileno()) and self._lease.take(self._report_wait) is None:
            others = (path for path in _journals(self._out) if path != self.path and not path.match(self._siblings))
            if not any(self._is_written(path) for path in others) and _is_at(file, self.path):
                return
            self._lease.release()
        raise SbmError(f"{self._out}: another sbm batch is writing to it.", "Wait for it, or choose another folder.")

    def _is_written(self, journal: Path) -> bool:
        """Whether another batch writes to another journal; on this machine its lock tells at once."""
        if not journal.exists():
            return False
        with open(journal, "rb") as file:
            if not lock(file.fileno()):
                return True
        return Lease(journal.with_suffix(".lock")).holder(self._report_wait) is not None

    def _report_wait(self, holder: str) -> None:
        self._note(f"{self._out}: waiting for a sign of life from process {holder}, which was writing to it")

    def state(self, job: Job) -> tuple[State, str]:
        """Return whether an output is "new" (to be made), "done" or "outdated", and why.

        An input of the same size and modification time is the same; if only the time differs, its sha256 decides.
        """
        if not os.path.exists(job.target):  # Path.exists raises if the name is too long
            return "new", ""
        entry = self._entries.get(self._key(job))
        if entry is None:
            return "outdated", "not made by sbm batch"
        if entry.replaces and not entry.finished:
            return "outdated", "replacement was interrupted"
        if entry.failed:
            return "outdated", "not made by sbm batch"
        # An option newer than the entry had its default; the first versions knew no warm-up.
        known = asdict(Options(warm_up=False)) | entry.settings
        made = {name: known.get(name) for name in self._settings}
        if made != self._settings:
            differing = [
                (name.replace("_", " "), value) for name, value in made.items() if value != self._settings[name]
            ]
            shown = (f"no {name}" if value is None else f"{name} {value}" for name, value in differing)
            return "outdated", f"made with {', '.join(shown)}"
        if entry.finished and entry.bytes != job.target.stat().st_size:
            return "outdated", "changed since it was made"
        if not self._same_input(job, entry):
            return "outdated", "its input has changed"
        return "done", ""

    def seconds(self, job: Job) -> float:
        """Return the duration of a finished output in seconds, 0 if unknown."""
        entry = self._entries.get(self._key(job))
        return entry.seconds if entry else 0.0

    def renamed(self, jobs: Iterable[Job]) -> list[str]:
        """Return the outputs that are there of new jobs' inputs, under names that another pattern made."""
        made = {entry.source: name for name, entry in self._entries.items() if entry.finished}
        found = (made.get(str(job.source), self._key(job)) for job in jobs if not job.replace)
        return [name for name in found if os.path.exists(self._out / name)]

    def begin(self, job: Job, process: str) -> None:
        """Record that a process begins a job."""
        if self._lease.lost:
            raise SbmError(
                f"{self._out}: another sbm batch has taken over.",
                "This one was asleep, or its network drive out of reach, for too long. Run the same command again.",
            )
        size, mtime_ns = _stamp(job.source)
        self._append(Entry(self._key(job), str(job.source), size, mtime_ns, self._settings, process, job.replace))

    def finish(self, job: Job, sha256: str, seconds: float, bytes: int) -> None:
        """Record that the output of a job is complete; sha256: of the input."""
        entry = self._entries[self._key(job)]
        self._append(dataclasses.replace(entry, sha256=sha256, seconds=seconds, bytes=bytes), sync=True)

    def fail(self, job: Job) -> None:
        """Record that a job has written nothing."""
        self._append(dataclasses.replace(self._entries[self._key(job)], failed=True))

    def _same_input(self, job: Job, entry: Entry) -> bool:
        size, mtime_ns = _stamp(job.source)
        if (size, mtime_ns) == (entry.size, entry.mtime_ns):
            return True
        same = size == entry.size and digest(job.source) == entry.sha256
        if same and self._file is not None:
            self._append(dataclasses.replace(entry, mtime_ns=mtime_ns))  # so that the next batch need not compare
        return same

    def _append(self, entry: Entry, sync: bool = False) -> None:
        before = self._entries.get(entry.output)
        at_least = math.nextafter(before.time, math.inf) if before else 0.0
        entry = dataclasses.replace(entry, time=max(time.time(), at_least))
        self._entries[entry.output] = entry
        self._write(entry, sync=sync)

    def _write(self, *entries: Entry, sync: bool) -> None:
        assert self._file is not None
        try:
            for entry in entries:
                line = (json.dumps(asdict(entry)) + "\n").encode()
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            reason = str(error.strerror).lower()
            hint = DISK_FULL if error.errno in FULL else ""
            raise SbmError(f"{self.path}: cannot be written ({reason}).", hint) from error

    def _key(self, job: Job) -> str:
        return job.target.relative_to(self._out).as_posix()


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of its name: a batch as a whole may have gathered and removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _journals(out: Path) -> list[Path]:
    """Return the journals of a folder: of the batch as a whole, and of each shard."""
    return sorted([out / NAME, *out.glob(SHARD_NAME.format("*", "*"))])


def _read(journals: Iterable[Path]) -> dict[str, Entry]:
    """Return the last entry of every output; invalid lines, such as one that was cut off, do not count."""
    entries: dict[str, Entry] = {}
    for path in journals:
        _check_regular(path)
        own = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                entry = Entry(**parse_json(line))
                if _is_valid(entry):
                    own[entry.output] = entry
            except (ValueError, TypeError):
                continue
        for name, entry in own.items():
            if name not in entries or entry.time >= entries[name].time:
                entries[name] = entry
    return entries


def _is_valid(entry: Entry) -> bool:
    """Whether an entry is one of ours: a forged journal must not make us delete elsewhere."""
    output = PurePath(entry.output)
    return (
        not (output.is_absolute() or output.drive or ".." in output.parts)
        and all(isinstance(getattr(entry, name), kind) for name, kind in _KINDS.items())
        and _PROCESS.fullmatch(str(entry.process)) is not None
        and 0 <= entry.time < 2**40  # a number that can be dated later
    )


def _check_regular(path: Path) -> None:
    """Refuse a pipe or device, which might never end, or not keep what is written to it."""
    if path.exists() and not path.is_file():
        raise SbmError(f"{path}: is not a regular file.", "Remove it, or choose another output folder.")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it will fail, and report why
        return -1, -1
    return status.st_size, status.st_mtime_ns
