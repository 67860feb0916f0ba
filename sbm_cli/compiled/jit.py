"""The decorator of all kernels: compiled by Numba, and cached on disk until the source of any kernel changes."""

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
    """Numba's cache, invalidated by an edit in any file of kernels, not only in that of the function.

    Compiled code includes the functions that it calls, which stand in several files.
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
        return kernel  # without a home Numba would make a folder named ~ here
    try:
        kernel._cache = KernelCache(function)  # in place of Numba's own cache
    except RuntimeError:  # no writable folder: compiled in every process
        pass
    return kernel
