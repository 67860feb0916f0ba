"""Who may read an output: not more people than may read what it replaces, or what it was made from."""

import contextlib
import os
import stat
import sys
from pathlib import Path

_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


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


def keep(part: Path, replaced: Path) -> None:
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
        for name in _attributes(replaced):
            with contextlib.suppress(OSError):
                os.setxattr(part, name, os.getxattr(replaced, name))


def _attributes(path: Path) -> list[str]:
    """List the extended attributes of a file, the access list among them."""
    try:
        return os.listxattr(path)
    except OSError:  # the file system has none
        return []
