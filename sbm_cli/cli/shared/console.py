"""The only place that prints.

stdout carries what a command was asked for (a list, a path, a report, JSON), stderr everything else. Progress is a bar
on a terminal, and elsewhere a plain line every ten seconds, so that logs stay readable.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Protocol, TextIO

CLOSED_PIPE = 141  # exit status where nobody reads stdout any longer, as by SIGPIPE
_PLAIN_INTERVAL = 10.0  # seconds
_FIRST_ESTIMATE = 5.0  # seconds of work until the time that is left can be told
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


class Progress(Protocol):
    """Takes the units of work done, their total (0: unknown), and a note."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


voice = SimpleNamespace(quiet=False, verbose=False)


def configure(quiet: bool, verbose: bool) -> None:
    """Set how much is printed: quiet leaves only warnings and errors, verbose adds details."""
    voice.quiet, voice.verbose = quiet, verbose


def adjust(quiet: bool, verbose: bool) -> None:
    """Add the options after the command to those before it: `sbm -q enhance` and `sbm enhance -q` do the same."""
    configure(voice.quiet or quiet, voice.verbose or verbose)


def interactive() -> bool:
    """Tell whether stderr is a terminal that may be redrawn.

    Decided here and not by Rich, which FORCE_COLOR would talk into animating a CI log.
    """
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def data(text: str) -> None:
    """Print on stdout what the command was asked for, unbuffered: another program may follow the work."""
    encoding = sys.stdout.encoding or "utf-8"
    if sys.stdout.isatty():
        text = printable(text, "\n\t")
    # File names need not be text; their undecodable bytes are escaped as in JSON.
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:  # the reader has enough, as `head` does
        drop(sys.stdout)
        sys.exit(CLOSED_PIPE)


def data_json(document: object) -> None:
    """Print one JSON document on stdout."""
    data(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def result(document: object, lines: Iterable[str], as_json: bool) -> None:
    """Print a result on stdout: as one JSON document for programs, or as lines."""
    if as_json:
        data_json(document)
    else:
        for line in lines:
            data(line)


def data_line(document: object) -> None:
    """Print one JSON document on stdout, on one line."""
    data(json.dumps(document, ensure_ascii=False, allow_nan=False))


def drop(stream: TextIO) -> None:
    """Give up stdout or stderr, which nobody reads any longer, so that the flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[object], most: int = 5) -> str:
    """Return the first names, so many at most."""
    return ", ".join([*map(str, names[:most]), *["…"] * (len(names) > most)])


def note(message: str) -> None:
    """Print a line on stderr, unless quiet."""
    if not voice.quiet:
        _line(message)


def detail(message: str) -> None:
    """Print a line on stderr if verbose."""
    if voice.verbose and not voice.quiet:
        _line(message)


def warn(message: str, hint: str = "") -> None:
    """Print a warning on stderr: something is wrong, and the work goes on."""
    error(f"warning: {message}", hint)


def error(message: str, hint: str = "") -> None:
    """Print on stderr what went wrong and, indented, what to do about it."""
    _line(f"sbm: {message}")
    for line in hint.splitlines():
        _line(f"     {line}")


def _line(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:  # a terminal that was closed, a log on a full disk: the work goes on
        drop(sys.stderr)


def printable(text: str, but: str = "") -> str:
    """Escape control characters, such as those in file names: on a terminal they move the cursor and more.

    but: characters to keep.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in but else ascii(found[0])[1:-1], text)


@contextmanager
def progress(name: str, unit: str = "s of audio", before: float = 0.0) -> Iterator[Progress]:
    """Show the progress of `name`: a bar, plain lines, or nothing when quiet.

    before: units that were done earlier and do not count for the time that is left.
    """
    if voice.quiet:
        yield lambda done, total, note="": None
    elif interactive():
        with _bar(name, unit, before) as report:
            yield report
    else:
        yield _plain_lines(name, unit, before)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show one line that changes all the time: on a terminal alone, and not when quiet."""
    if voice.quiet or not interactive():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as line:
        yield lambda text: line.update(Text(printable(text), no_wrap=True), refresh=True)


@contextmanager
def _bar(name: str, unit: str, before: float) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),  # leaves room for the rest in 80 columns
        TextColumn("{task.completed:.0f}{task.fields[of]} " + unit),
        TextColumn("{task.fields[note]}"),
        TextColumn("{task.fields[left]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(escape(printable(name)), total=None, of="", note="", left="")
        bars.update(task, completed=before)
        left = _time_left(before)

        def report(done: float, total: float, note: str = "") -> None:
            of = f"/{total:.0f}" if total else ""
            bars.update(task, completed=done, total=total or None, of=of, note=note, left=left(done, total))

        yield report


def _plain_lines(name: str, unit: str, before: float) -> Progress:
    spoken, left = time.monotonic(), _time_left(before)

    def report(done: float, total: float, note: str = "") -> None:
        nonlocal spoken
        now, time_left = time.monotonic(), left(done, total)
        if now - spoken >= _PLAIN_INTERVAL and done > before:
            spoken = now
            parts = [f"{name}: {done:.0f} of {total:.0f} {unit}" if total else f"{name}: {done:.0f} {unit}", note]
            parts += [f"about {time_left}"] if time_left else []
            _line(", ".join(part for part in parts if part))

    return report


def _time_left(before: float) -> Callable[[float, float], str]:
    """Return a function from units done and their total to the time that is left, "" if not known yet.

    The clock starts with the first unit: what comes before, such as loading a model, comes only once.
    """
    first: tuple[float, float] | None = None

    def left(done: float, total: float) -> str:
        nonlocal first
        now = time.monotonic()
        if first is None and done > before:
            first = now, done
        if first is None or not total or now - first[0] < _FIRST_ESTIMATE or done <= first[1]:
            return ""
        return f"{duration((total - done) * (now - first[0]) / (done - first[1]))} left"

    return left


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 2880 else f"{minutes / 1440:.1f} days"
