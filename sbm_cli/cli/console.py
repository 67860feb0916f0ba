"""The only place that prints.

stdout carries what a command was asked for (a list, a path, a report, JSON); stderr carries how the work goes.
On a terminal progress is a bar; anywhere else it is a plain line every ten seconds, so that logs stay readable and
long work still shows a sign of life.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Progress = Callable[[float, float], None]  # seconds of audio done, seconds in all

_PLAIN_INTERVAL = 10.0  # seconds


@dataclass
class _Voice:
    quiet: bool = False
    verbose: bool = False


_voice = _Voice()


def configure(quiet: bool, verbose: bool) -> None:
    """Set how much is said: quiet leaves only warnings and errors, verbose adds details."""
    _voice.quiet, _voice.verbose = quiet, verbose


def adjust(quiet: bool, verbose: bool) -> None:
    """Add what stands behind the command to what stood before it: `sbm -q enhance` and `sbm enhance -q` are one."""
    configure(_voice.quiet or quiet, _voice.verbose or verbose)


def interactive() -> bool:
    """Tell whether stderr is a terminal that may be redrawn.

    Decided here and not by Rich, which FORCE_COLOR would talk into animating a CI log.
    """
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def data(text: str) -> None:
    """Print what the command was asked for, on stdout."""
    print(text)


def data_json(document: object) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def note(message: str) -> None:
    """Say something on stderr unless told to be quiet."""
    if not _voice.quiet:
        _line(message)


def detail(message: str) -> None:
    """Say something on stderr when told to be verbose."""
    if _voice.verbose and not _voice.quiet:
        _line(message)


def warn(message: str, hint: str = "") -> None:
    """Say on stderr that something is not as it should be and that work goes on."""
    error(f"warning: {message}", hint)


def error(message: str, hint: str = "") -> None:
    """Say on stderr what went wrong, quiet or not, and what to do about it, indented."""
    _line(f"sbm: {message}")
    for line in hint.splitlines():
        _line(f"     {line}")


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(name: str) -> Iterator[Progress]:
    """Show how far the work on `name` is, in seconds of audio: a bar, plain lines, or nothing when quiet."""
    if _voice.quiet:
        yield lambda done, total: None
    elif interactive():
        with _bar(name) as report:
            yield report
    else:
        yield _plain_lines(name)


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} s of audio"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(escape(name), total=0.0)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain_lines(name: str) -> Progress:
    start = spoken = time.monotonic()

    def report(done: float, total: float) -> None:
        nonlocal spoken
        now = time.monotonic()
        if now - spoken >= _PLAIN_INTERVAL and done > 0:
            spoken = now
            left = (total - done) * (now - start) / done
            _line(f"{name}: {done:.0f} of {total:.0f} s of audio, about {left:.0f} s left")

    return report
