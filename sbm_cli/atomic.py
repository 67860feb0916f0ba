"""Files that appear whole or not at all: written under a hidden name in the same folder, renamed when complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sbm_cli.errors import naming


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole, or leave it as it was.

    mode: permissions, before the umask.
    """
    with replacing(path, mode) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty file to write, which replaces `path` at the end; an exception removes it."""
    with naming(path):  # the error of a full disk, for one, names no file
        part = new_part(path, mode)
        try:
            yield part
            sync(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def new_part(path: Path, mode: int = 0o666) -> Path:
    """Make an empty file beside `path`, hidden and without the suffix of a recording."""
    part = path.with_name(f".sbm-{os.getpid()}-{secrets.token_hex(6)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        error.filename = str(path)  # the name that was asked for
        raise
    return part


def sync(part: Path) -> None:
    """Wait until a file is on the disk: renamed earlier, it could be empty after a power cut."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())


def publish_new(part: Path, path: Path) -> None:
    """Give a complete file its name. Raises FileExistsError if it is taken, even if only just."""
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
    """Remove the half-written files that a killed process, or any if None, left in a folder."""
    for part in folder.glob(f".sbm-{process or '*'}-*.part"):
        part.unlink(missing_ok=True)
