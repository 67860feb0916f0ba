"""What the shell hands to the process: standard streams, which may be closed, and signals that tell it to end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


def fill_closed_streams() -> None:
    """Open what the shell closed (`2>&-`): the next file opened would become stderr, and take its messages.

    stdin is at its end, to write to stdout fails, and stderr takes everything.
    """
    for name, mode, access in (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, access)  # the lowest that is free, hence the missing one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))


def ending_signals() -> list[signal.Signals]:
    """Return SIGTERM and SIGHUP, the end of the terminal, but for those that `nohup` and the like had us ignore."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    return [number for name in names if signal.getsignal(number := signal.Signals[name]) != signal.SIG_IGN]


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let a signal to end be an interrupt, so that what is half-written is removed; more of them do not disturb it."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    numbers = ending_signals()

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
