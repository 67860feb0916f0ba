"""The decorator of every kernel: compiled by Numba, and kept on disk until the source of any kernel changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile


def digest(folder: Path) -> str:
    """Return a digest of the Python files in a folder."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


SOURCES = digest(Path(__file__).parent)


class KernelCache(FunctionCache):
    """Numba's cache, except that an edit in any kernel's file makes it stale, not only one in the function's own.

    Compiled code contains what the function calls, and that stands in several files.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        stamp = locator.get_source_stamp(), SOURCES
        self._cache_file = IndexDataCacheFile(locator.get_cache_path(), self._impl.filename_base, stamp)


def jit(function: Callable[..., Any]) -> Any:
    """Let Numba compile a function for every new combination of types, or load what an earlier process compiled."""
    kernel = numba.njit(nogil=True, error_model="numpy")(function)
    beside = Path(__file__).with_name("__pycache__")
    if os.path.expanduser("~") == "~" and not (os.environ.get("NUMBA_CACHE_DIR") or os.access(beside, os.W_OK)):
        return kernel  # without a home Numba would make a folder ~ wherever we are
    try:
        kernel._cache = KernelCache(function)  # where Numba's own cache would stand
    except RuntimeError:  # no writable place: compiled in every process
        pass
    return kernel
