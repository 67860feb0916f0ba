"""The temporary folder of a server: gone when it ends, and if it was killed, when the next one starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sbm_cli.audio.pipe import temporary_folder
from sbm_cli.lock import lock

_PREFIX, _HELD = "sbm-serve-", "held"  # a folder, and the file in it that its server keeps locked


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """Give an empty, private folder, and remove it in the end; those of killed servers are removed first."""
    above = Path(temporary_folder() or tempfile.gettempdir())
    _remove_abandoned(above)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
    try:
        with (folder / _HELD).open("w") as held:
            lock(held.fileno())
            inside = folder / "files"
            inside.mkdir()
            yield inside
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(above: Path) -> None:
    if os.name == "nt":  # has no such locks: every folder would look abandoned
        return
    for folder in above.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just removed
            if folder.lstat().st_uid == os.getuid():
                with (folder / _HELD).open("r+") as held:
                    if lock(held.fileno()):
                        shutil.rmtree(folder)
