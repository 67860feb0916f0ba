"""What the shell hands to the process: standard streams, which may be closed, and signals to end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


def fill_closed_streams() -> None:
    """Open the streams that the shell closed (`2>&-`): the next file to be opened would become stderr.

    Then stdin is empty, writing to stdout fails, and stderr swallows everything.
    """
    for name, mode, access in (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, access)  # the lowest free one, which is the one missing
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))


def ending_signals() -> list[signal.Signals]:
    """Return SIGTERM and SIGHUP, except where `nohup` or the like had us ignore them."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    return [number for name in names if signal.getsignal(number := signal.Signals[name]) != signal.SIG_IGN]


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turn the first signal to end into an interrupt, so that half-written files are removed; ignore further ones."""
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
