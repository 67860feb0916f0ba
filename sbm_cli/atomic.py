"""Files that are there whole or not at all: written under a hidden name beside their own, and renamed when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sbm_cli.errors import naming


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file, which is there whole or as it was before.

    mode: of the file, still to be cut by the umask.
    """
    with replacing(path, mode) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give an empty file to write, which takes the place of `path` in the end; an exception removes it."""
    with naming(path):  # which a full disk, say, does not name
        part = new_part(path, mode)
        try:
            yield part
            sync(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def new_part(path: Path, mode: int = 0o666) -> Path:
    """Make an empty file beside `path`, hidden and of no suffix that a batch would take for a recording."""
    part = path.with_name(f".sbm-{os.getpid()}-{secrets.token_hex(6)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        error.filename = str(path)  # the name that was asked for
        raise
    return part


def sync(part: Path) -> None:
    """Wait until a file is on the disc: renamed before, it could be empty after a power cut."""
    with part.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a network drive that cannot
                raise


def publish_new(part: Path, path: Path) -> None:
    """Give a complete file its name. Raises FileExistsError if that is taken, be it only by now."""
    try:
        os.link(part, path)  # unlike a rename it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as FAT
        if path.exists():
            raise FileExistsError from None
        part.rename(path)
    else:
        part.unlink()


def remove_parts(folder: Path, process: int | None = None) -> None:
    """Remove what a process that was killed, or any if None, left half-written in a folder."""
    for part in folder.glob(f".sbm-{process or '*'}-*.part"):
        part.unlink(missing_ok=True)
