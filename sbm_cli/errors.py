"""Errors that a user can cause. `cli/errors.py` alone turns them into text and exit status."""

import contextlib
import errno
import os
from collections.abc import Iterator

DISK_FULL = "The disk or your quota is full: free some space, or write to another disk."
FULL = (errno.ENOSPC, errno.EDQUOT)  # numbers of system errors


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an error of the system name what could not be written; that of a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class SbmError(Exception):
    """Base of all of them: `message` says what is wrong and what was expected, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AudioError(SbmError):
    """A file cannot be read or written as sound."""


class OutputExistsError(SbmError):
    """The output is there already and nobody said what to do with it."""


class ModelError(SbmError):
    """A model is unknown, damaged, of another format, or cannot be fetched."""


class ConfigError(SbmError):
    """A recipe, a manifest or a model configuration does not hold together."""


class TrainingError(SbmError):
    """A training cannot go on."""


class DependencyError(SbmError):
    """An optional package is needed; the hint names the extra that brings it."""
