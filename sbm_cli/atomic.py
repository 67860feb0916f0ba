"""Files that appear whole or not at all: written under a hidden name in the same folder, renamed when complete.

No more people may read a file than could read what it replaces, or what it was made from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from sbm_cli.errors import naming

_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole, or leave it as it was.

    mode: permissions of a new one, before the umask.
    """
    with replacing(path, mode) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield an empty file to write, which replaces `path` at the end and takes its mode; an exception removes it.

    A link stays a link; what it points to is replaced.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with naming(path):  # the error of a full disk, for one, names no file
        part = new_part(target, 0o600 if target.exists() else mode)
        try:
            yield part
            sync(part)
            if target.exists():
                keep_mode(part, target)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def process_name(process: int | None = None) -> str:
    """Return the name of a process, this one if None, which no process of another machine has."""
    host = re.sub(r"\W", "_", platform.node(), flags=re.ASCII)
    return f"{host}-{os.getpid() if process is None else process}"


def new_part(path: Path, mode: int = 0o666) -> Path:
    """Make an empty file beside `path`, hidden and without the suffix of a recording."""
    part = path.with_name(f".sbm-{process_name()}-{secrets.token_hex(6)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        error.filename = str(path)  # the name that was asked for
        raise
    return part


def sync(part: Path) -> None:
    """Wait until a file is on the disk: renamed earlier, it could be empty after a power cut."""
    with part.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a network drive that cannot
                raise


def publish_new(part: Path, path: Path) -> None:
    """Give a complete file its name. Raises FileExistsError if it is taken, even if only just."""
    try:
        os.link(part, path)  # unlike a rename it never replaces
    except OSError:  # it is taken, or a file system has no links, such as FAT
        if os.path.lexists(path):
            raise FileExistsError from None
        part.rename(path)
    else:
        part.unlink()


def remove_parts(folder: Path, process: str | None = None) -> None:
    """Remove the half-written files that a killed process of this name, or any if None, left in a folder."""
    for part in folder.glob(f".sbm-{process or '*'}-*.part"):
        part.unlink(missing_ok=True)


def mode_for_new(target: Path, source: Path | None) -> int:
    """Return the mode, still to be cut by the umask, of a file made from a source: closed to whom that is closed."""
    try:
        found = source.stat() if source else None
    except OSError:  # it vanished while it was read
        found = None
    if found is None:
        return 0o666
    readers = found.st_mode & _READ
    if not readers & stat.S_IROTH and found.st_gid != _group_of_new(target.parent):
        readers &= ~stat.S_IRGRP  # a group may read the source, and the new file would be of another one
    return 0o666 & (readers | readers >> 1 | stat.S_IRUSR | stat.S_IWUSR)


def _group_of_new(folder: Path) -> int:
    found = folder.stat()
    inherited = found.st_mode & stat.S_ISGID or sys.platform == "darwin" or not hasattr(os, "getegid")
    return found.st_gid if inherited else os.getegid()


def keep_mode(part: Path, replaced: Path) -> None:
    """Give a file the mode and, as far as that is permitted, owner and access list of the one that it will replace."""
    found = replaced.stat()
    if hasattr(os, "chown"):
        for owner, group in ((-1, found.st_gid), (found.st_uid, -1)):
            with contextlib.suppress(OSError):
                os.chown(part, owner, group)
    mode, made = stat.S_IMODE(found.st_mode), part.stat()
    if made.st_gid != found.st_gid:
        mode &= ~stat.S_IRWXG  # of another group than the one that was let in
    if made.st_uid != found.st_uid:
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    with contextlib.suppress(OSError):  # FAT has no modes
        part.chmod(mode)
    if made.st_gid == found.st_gid and hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):  # the file system has none
            for name in os.listxattr(replaced):  # the access list among them
                with contextlib.suppress(OSError):
                    os.setxattr(part, name, os.getxattr(replaced, name))
