"""The decorator of all kernels: compiled by Numba, and cached on disk until the source of any kernel changes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core import cgutils
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys
from numba.core.types.misc import unliteral
from numba.extending import intrinsic, is_jitted

BESIDE = Path(__file__).with_name("__pycache__")  # the first choice of place, if it can be written
DIGEST = hashlib.sha256().digest_size


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
            owner, data = self._load_data(self._load_index()[key])
        except Exception:  # damaged pickles raise anything
            return None
        return data if owner == self._owner(key) else None

    def save(self, key: Any, data: Any) -> None:
        # Not the next free number, which two kinds of processors would both take in a folder that they share.
        name = self._data_name(_number(key))
        self._save_index(self._load_index() | {key: name})
        self._save_data(name, (self._owner(key), data))

    def _owner(self, key: Any) -> int:
        """Return what a file must say it was compiled from, and for."""
        return _number((os.path.basename(self._index_path), self._source_stamp, key))

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                if pickle.load(file) != self._version:
                    return {}
                stamp, index = pickle.loads(_undamaged(file.read()))
        except Exception:
            return {}
        return index if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_undamaged(Path(self._data_path(name)).read_bytes()))

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return hashlib.sha256(data).digest() + data


def _number(key: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")


def _undamaged(data: bytes) -> bytes:
    """Return what lies behind its digest, which must fit: a flipped bit would run as code."""
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        raise ValueError("damaged")
    return data[DIGEST:]


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

    def load_overload(self, signature: Any, context: Any) -> Any:
        # Numba's loads all that it compiles with first, for 0.1 s. Compiled code needs its runtime at most.
        rtsys.initialize(context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, context)

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


def jit(function: Callable[..., Any], for_python: bool = True) -> Any:
    """Let Numba compile a function for every new combination of types, or load what an earlier process compiled.

    for_python: whether Python calls it too, and not only other kernels.
    """
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": not for_python}
    kernel = numba.njit(**options)(function)
    template = kernel.get_call_template
    # Numba would compile a kernel again for every number that a caller writes down, and for False and True.
    kernel.get_call_template = lambda kinds, named: template(tuple(map(unliteral, kinds)), named)
    if os.path.expanduser("~") == "~" and not (os.environ.get("NUMBA_CACHE_DIR") or os.access(BESIDE, os.W_OK)):
        return kernel  # without a home Numba would make a folder named ~ here
    try:
        kernel._cache = KernelCache(function)  # in place of Numba's own cache
    except RuntimeError:  # no writable folder: compiled in every process
        pass
    return kernel


_APART: dict[str, Any] = {}  # kernels by name


def apart(kernel: Any) -> Any:
    """Return what other kernels call for a kernel, or for a function that only they call, to have it compiled once.

    Numba compiles a copy of it into each of its callers, and again into each of theirs. Kernels raise nothing.
    """
    kernel = kernel if is_jitted(kernel) else jit(kernel, for_python=False)
    function = kernel.py_func
    name = f"{function.__module__}.{function.__name__}"
    _APART[name] = kernel

    def typed(typing_context: Any, *kinds: Any) -> Any:
        kernel.compile(kinds)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            link = functools.partial(_link, name, kinds)
            context.active_code_library._reload_init.add(link)  # runs before the caller is loaded from the cache
            kind = context.call_conv.get_function_type(signature.return_type, signature.args)
            callee = cgutils.get_or_insert_function(builder.module, kind, link())
            _, result = context.call_conv.call_function(builder, callee, signature.return_type, signature.args, args)
            return result

        return kernel.overloads[kinds].signature, generate

    own = inspect.signature(function)
    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typed.__signature__ = own.replace(parameters=[first, *own.parameters.values()])  # type: ignore[attr-defined]
    return intrinsic(typed)


def _link(name: str, kinds: tuple[Any, ...]) -> str:
    """Compile or load a kernel for arguments of such types; return the symbol by which the linker finds it."""
    kernel = _APART[name]
    kernel.compile(kinds)
    compiled = kernel.overloads[kinds]
    symbol = f"{name} {hashlib.sha256(f'{SOURCES} {kinds}'.encode()).hexdigest()}"
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    llvmlite.binding.add_symbol(symbol, address)
    return symbol
