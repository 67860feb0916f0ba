"""From exceptions to a message, a hint and an exit status.

1: something failed. 2: wrong usage. 130: interrupted. 141: see `console.CLOSED_PIPE`.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from sbm_cli.cli.shared import console
from sbm_cli.errors import DISK_FULL, FULL, SbmError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class WrongUsage(typer.BadParameter):
    """A command that lacks something; its hint says more than that there is --help."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def format_message(self) -> str:
        return self.message


@dataclass(frozen=True)
class Report:
    message: str
    hint: str
    status: int


def describe(error: BaseException) -> Report:
    """Return what an exception means to the person who typed the command."""
    if isinstance(error, SbmError):
        return Report(error.message, _as_options(error.hint), FAILED)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Report("interrupted", "", INTERRUPTED)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported
        return Report("out of memory", "Close other programs, use a smaller model, or add --device cpu.", FAILED)
    # Typer carries its own copy of click or imports it, depending on its version: ask for what both have.
    if isinstance(error, Exception) and hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "sbm"
        hint = getattr(error, "hint", f"See {command} --help")
        return Report(_lower(_reworded(error)), _as_options(hint), USAGE)
    if isinstance(error, OSError) and error.errno is not None:
        named = isinstance(error.filename, str | bytes | os.PathLike)
        where = f"{os.fsdecode(error.filename)}: " if named else ""
        reason = _lower(error.strerror or os.strerror(error.errno))
        return Report(f"{where}{reason}", _OS_HINTS.get(error.errno, ""), FAILED)
    return Report(
        f"{type(error).__name__}: {error}",
        "This is a bug. Please report it with the output of `sbm doctor`; SBM_DEBUG=1 shows the traceback.",
        FAILED,
    )


_LIBRARY = (  # what pydantic says through newer versions of Typer, and what we say
    (re.compile(r"Input should be less than or equal to"), "expected at most"),
    (re.compile(r"Input should be greater than or equal to"), "expected at least"),
    (re.compile(r"Input should be a valid integer.*"), "expected a whole number"),
    (re.compile(r"Input should be a valid number.*"), "expected a number"),
    (re.compile(r"Value error, "), ""),
)
_BOUND = re.compile(r"expected at (most|least) (\S+)")


def _reworded(error: Any) -> str:
    """Return the message of a usage error in our words, with the value where a library leaves it out."""
    before = message = str(error.format_message())
    for pattern, ours in _LIBRARY:
        message = pattern.sub(ours, message)
    found = getattr(error.__cause__, "errors", None)
    if message == before or not found or "expected" not in message:
        return message
    given = str(found()[0]["input"])
    if bound := _BOUND.search(message):
        value, limit = float(given), float(bound[2])
        if limit <= 0 < value if bound[1] == "most" else value < 0 <= limit <= -value:
            return f"{message}, got {given}, did you mean {-value:g}?"
    return f"{message}, got {given}"


_ARGUMENTS = re.compile(r"`(\w+(?:=[^`,]+)?(?:, \w+=[^`,]+)*)`")  # `rate`, `mono=True, rate=8000`


def _as_options(hint: str) -> str:
    """Return a hint with its arguments, as Python has them, turned into options of the command line."""

    def options(found: re.Match[str]) -> str:
        named = []
        for argument in found[1].split(", "):
            name, _, value = argument.partition("=")
            named.append(f"--{name.replace('_', '-')}" + (f" {value}" if value not in ("", "True") else ""))
        return " ".join(named)

    return _ARGUMENTS.sub(options, hint)


def report(error: BaseException, about: object = "") -> int:
    """Print message and hint of an exception, and return its exit status.

    about: what was worked on; it precedes a message that does not name it. With SBM_DEBUG=1 the traceback comes first.
    """
    if os.environ.get("SBM_DEBUG") == "1":
        first, *rest = "".join(traceback.format_exception(error)).splitlines()
        console.error(first, "\n".join(rest))
    described = describe(error)
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        console.drop(sys.stdout)  # what could not be written to a closed stdout
    console.error(
        described.message if str(about) in described.message else f"{about}: {described.message}", described.hint
    )
    return described.status


_OS_HINTS = {
    **dict.fromkeys(FULL, DISK_FULL),
    errno.EBADF: "stdout is closed. Redirect it: > clean.wav or > /dev/null",
    errno.EACCES: "Check the permissions of the file and its folder.",
    errno.EROFS: "Write to another folder with -o.",
}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
