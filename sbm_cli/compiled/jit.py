"""The decorator of all kernels: compiled by Numba, and cached on disk until the source of any kernel changes."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

BESIDE = Path(__file__).with_name("__pycache__")  # the first choice of place, if it can be written


def import_without_blas() -> None:
    """Import the part of Numba that looks for SciPy's BLAS: finding it takes 0.2 s, and no kernel of ours calls it."""
    name = "scipy.linalg.cython_blas"
    if "numba.np.arraymath" in sys.modules or name in sys.modules:
        return
    sys.modules[name] = None
    try:
        from numba.np import arraymath
    finally:
        del sys.modules[name]
    arraymath._HAVE_BLAS = find_spec("scipy") is not None  # for the kernels of others


import_without_blas()


def digest(folder: Path) -> str:
    """Return a digest of the Python files in a folder."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


SOURCES = digest(Path(__file__).parent)


class CacheFile(IndexDataCacheFile):
    """The files of a kernel in Numba's cache; one that is damaged counts as absent, and is written anew."""

    def load(self, key: Any) -> Any:
        try:
            return super().load(key)
        except Exception:  # damaged pickles raise anything
            return None

    def _load_index(self) -> dict[Any, str]:
        try:
            index: dict[Any, str] = super()._load_index()
        except Exception:
            return {}
        return index

    def _save_data(self, name: str, data: Any) -> None:
        # The index names the file already: should writing fail, what it held before must not be taken for the new.
        Path(self._data_path(name)).unlink(missing_ok=True)
        super()._save_data(name, data)


class KernelCache(FunctionCache):
    """Numba's cache, invalidated by an edit in any file of kernels, not only in that of the function.

    Compiled code includes the functions that it calls, which stand in several files. Where the folder of the
    installation cannot be written, what it holds is used all the same, and the rest goes to a folder of the user's.
    What cannot be written, as on a full disk, is compiled in every process.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        stamp = locator.get_source_stamp(), SOURCES
        own, base = locator.get_cache_path(), self._impl.filename_base
        self._cache_file = CacheFile(own, base, stamp)
        self._installed = CacheFile(str(BESIDE), base, stamp)

    def _load_overload(self, signature: Any, context: Any) -> Any:
        found = super()._load_overload(signature, context)
        if found is None:
            data = self._installed.load(self._index_key(signature, context.codegen()))
            found = None if data is None else self._impl.rebuild(context, data)
        return found

    def _save_overload(self, signature: Any, data: Any) -> None:
        with suppress(OSError):
            super()._save_overload(signature, data)

    def known(self, context: Any) -> bool:
        """Return whether anything is compiled for this processor."""
        here = context.codegen().magic_tuple()
        return any(key[1] == here for file in (self._cache_file, self._installed) for key in file._load_index())


def compiled_before(kernel: Any) -> bool:
    """Return whether a kernel is compiled for this processor, in this process or by an earlier one."""
    cache = kernel._cache
    return bool(kernel.signatures) or (isinstance(cache, KernelCache) and cache.known(kernel.targetctx))


def jit(function: Callable[..., Any]) -> Any:
    """Let Numba compile a function for every new combination of types, or load what an earlier process compiled."""
    kernel = numba.njit(nogil=True, error_model="numpy")(function)
    if os.path.expanduser("~") == "~" and not (os.environ.get("NUMBA_CACHE_DIR") or os.access(BESIDE, os.W_OK)):
        return kernel  # without a home Numba would make a folder named ~ here
    try:
        kernel._cache = KernelCache(function)  # in place of Numba's own cache
    except RuntimeError:  # no writable folder: compiled in every process
        pass
    return kernel
