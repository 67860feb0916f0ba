"""Locks for one writer at a time: of the operating system within a machine, leases between machines."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sbm_cli.atomic import process_name
from sbm_cli.errors import SbmError, naming

SIGN_OF_LIFE, EXPIRY = 5.0, 30.0  # seconds between two, and without one until a lease is over


def lock(number: int) -> bool:
    """Lock the file of a descriptor until it is closed or this process ends; return False if another has the lock.

    Without locks, as on Windows and some network drives, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network drive without locks
        pass
    return True


class Lease:
    """The right to be the only writer, as a file that its process touches as long as it lives.

    Unlike a lock of the operating system it holds on network drives, between machines whose clocks differ: others
    look whether the time of the file changes, not what it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self.lost = False  # another took it over, because this process gave no sign of life for too long

    def take(self, wait: Callable[[str], None] = lambda holder: None) -> str | None:
        """Take the lease; return None, or which living process has it.

        wait: is told by which process it was taken that may be dead, before its lease has run out.
        """
        while True:
            try:
                with naming(self._path), open(self._path, "x") as file:
                    file.write(process_name())
            except FileExistsError:
                if holder := self.holder(wait):
                    return holder
            except OSError:  # a full disk: an empty lease could be that of another machine, and would be waited for
                self._path.unlink(missing_ok=True)
                raise
            else:
                threading.Thread(target=self._live, daemon=True).start()
                return None

    def holder(self, wait: Callable[[str], None] = lambda holder: None) -> str | None:
        """Return which living process has the lease; if none, remove it.

        Raises SbmError for what is no lease: a pipe might never be read to its end, a link may lead nowhere.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(self._path.lstat().st_mode):
                raise SbmError(f"{self._path}: is not a regular file.", "Remove it.")
        first = seen = self._look()
        start, warned = time.monotonic(), False
        while seen is not None and seen == first:
            waited = time.monotonic() - start
            if _has_ended(seen[0]) or waited > EXPIRY:
                self._remove(seen[0])
                return None
            if waited > 2 * SIGN_OF_LIFE and not warned:
                warned = True
                wait(seen[0])
            time.sleep(SIGN_OF_LIFE / 10)
            seen = self._look()
        return seen[0] if seen else None

    def release(self) -> None:
        self._ended.set()
        self._remove(process_name())

    def _live(self) -> None:
        while not self._ended.wait(SIGN_OF_LIFE):
            seen = self._look()
            if seen is None or seen[0] != process_name():
                self.lost = not self._ended.is_set()
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _look(self) -> tuple[str, int] | None:
        """Return the name of the process that has the lease, and when it last touched it."""
        try:
            with open(self._path, errors="replace") as file:  # opened anew: a network drive then asks its server
                return file.read(1000), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _remove(self, holder: str) -> None:
        seen = self._look()
        if seen and seen[0] == holder:
            self._path.unlink(missing_ok=True)


def _has_ended(process: str) -> bool:
    """Whether a process, which has a lease that this one has not taken, is known to run no longer."""
    if process == process_name():  # of which this one has got the number: the first in a container always has
        return True
    host, _, number = process.rpartition("-")
    if host != process_name().rpartition("-")[0] or not number.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it runs, as somebody else
        pass
    return False
