"""Errors that a user can cause; only `cli/shared/errors.py` turns them into text and exit status."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

DISK_FULL = "The disk or your quota is full: free some space, or write to another disk."
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path to a system error that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class SbmError(Exception):
    """Base class: `message` says what is wrong and what was expected, `hint` what to do about it.

    Hints name arguments as in Python, in backticks; the command line turns them into its options.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint and sys.version_info >= (3, 11):
            self.add_note(hint)  # below the message of a traceback


class AudioError(SbmError):
    """A file cannot be read or written as sound."""


class OutputExistsError(SbmError):
    """An output exists, and no option says what to do with it."""


def exists_error(path: str | os.PathLike[str]) -> OutputExistsError:
    return OutputExistsError(f"{path} exists.", "Use `overwrite=True` to replace it, or choose another output.")


class ModelError(SbmError):
    """A model is unknown, damaged, of another format, or cannot be downloaded."""


class ConfigError(SbmError):
    """A recipe, a manifest or a model configuration is invalid."""


class TrainingError(SbmError):
    """A training cannot continue."""


class DependencyError(SbmError):
    """An optional package is missing; the hint names the extra that brings it."""


@contextlib.contextmanager
def needing(extra: str, user: str) -> Iterator[None]:
    """Say of an import that fails which extra `user` needs."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"{user} needs {error.name} ({error})", f'pip install "sbm-cli[{extra}]"') from error
