"""Kernels are compiled once for a machine, and again when the source of any of them changes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from sbm_cli.compiled import jit as module
from sbm_cli.compiled import llvm
from sbm_cli.compiled.jit import compiled_before, digest, jit


def twice(x):  # type: ignore[no-untyped-def]
    return 2 * x


def test_an_edit_in_any_file_of_the_folder_changes_the_digest(tmp_path: Path) -> None:
    helper, kernel = tmp_path / "helper.py", tmp_path / "kernel.py"
    helper.write_text("a = 1")
    kernel.write_text("b = 2")
    first = digest(tmp_path)
    helper.write_text("a = 3")
    second = digest(tmp_path)
    helper.rename(tmp_path / "other.py")
    assert len({first, second, digest(tmp_path)}) == 3
    assert module.SOURCES == digest(Path(module.__file__).parent)


def test_what_other_sources_compiled_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    def hits() -> int:
        kernel = jit(twice)
        assert kernel(21) == 42
        return sum(kernel.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1]
    monkeypatch.setattr(module, "SOURCES", "edited")
    assert [hits(), hits()] == [0, 1]


def test_what_the_installation_holds_compiled_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where a container's recipe compiled, and another user runs what cannot be written."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "installed"))
    first = jit(twice)
    assert not compiled_before(first) and first(21) == 42 and compiled_before(first)
    monkeypatch.setattr(module, "BESIDE", Path(first._cache.cache_path))
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "own"))
    second = jit(twice)
    assert compiled_before(second) and second(21) == 42
    assert sum(second.stats.cache_hits.values()) == 1 and not list((tmp_path / "own").rglob("*.nbc"))


def test_another_processor_compiles_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert jit(twice)(21) == 42
    kernel = jit(twice)
    monkeypatch.setattr(type(kernel.targetctx.codegen()), "magic_tuple", lambda _: ("another", "processor"))
    assert not compiled_before(kernel) and kernel(21) == 42
    assert sum(kernel.stats.cache_hits.values()) == 0


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
@pytest.mark.parametrize("kept", [0, 100])  # bytes
def test_a_damaged_cache_is_written_anew(
    damaged: str, kept: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert jit(twice)(21) == 42
    (file,) = tmp_path.rglob(damaged)
    file.write_bytes(file.read_bytes()[:kept])
    kernels = [jit(twice), jit(twice)]
    assert [kernel(21) for kernel in kernels] == [42, 42]
    assert [sum(kernel.stats.cache_hits.values()) for kernel in kernels] == [0, 1]


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
def test_a_flipped_bit_is_noticed(damaged: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert jit(twice)(21) == 42
    (file,) = tmp_path.rglob(damaged)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    kernel = jit(twice)
    assert kernel(21) == 42 and not kernel.stats.cache_hits


def test_code_for_another_kernel_or_processor_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert jit(twice)(21) == 42
    (own,) = tmp_path.rglob("*.nbc")
    with monkeypatch.context() as other:
        codegen = type(jit(twice).targetctx.codegen())
        other.setattr(codegen, "magic_tuple", lambda _: ("another", "processor"))
        assert jit(twice)(21) == 42
    (theirs,) = set(tmp_path.rglob("*.nbc")) - {own}
    own.write_bytes(theirs.read_bytes())
    kernels = [jit(twice), jit(twice)]
    assert [kernel(21) for kernel in kernels] == [42, 42]
    assert [sum(kernel.stats.cache_hits.values()) for kernel in kernels] == [0, 1]


def test_a_full_disk_does_not_let_an_older_kernel_pass_for_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert jit(twice)(21) == 42
    monkeypatch.setattr(module, "SOURCES", "edited")
    with monkeypatch.context() as full:
        full.setattr(module.IndexDataCacheFile, "_save_data", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        assert jit(twice)(21) == 42
    kernel = jit(twice)
    assert kernel(21) == 42 and not kernel.stats.cache_hits


KERNEL = """
from pathlib import Path
from sbm_cli.compiled import jit
jit.BESIDE = Path("nowhere")  # not what this installation has compiled
import torch
from sbm_cli.compiled.conv import conv_forward
from sbm_cli.nn.mamba import Mamba
Mamba(8, 4)(torch.ones(1, 5, 1, 8))
print(*(sum(counts.values()) for counts in (conv_forward.stats.cache_hits, conv_forward.stats.cache_misses)))
"""


def test_the_next_process_loads_what_the_first_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", KERNEL]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert told == [["0", "1"], ["1", "0"]]  # hits and misses
    assert list(tmp_path.rglob("*.nbc"))


def test_compiles_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
    assert jit(twice)(21) == 42


def test_without_a_home_no_folder_is_made_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(module, "KernelCache", asked.append)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(module.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    jit(twice)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "somewhere")
    jit(twice)
    assert asked == [twice]


def test_kernels_are_as_wide_as_the_processor_that_numba_compiles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.CPU_FEATURES", "+avx2,-avx512vl,+avx512fp16")
    assert llvm.has("avx2") and not llvm.has("avx512vl") and not llvm.has("avx512f")
    monkeypatch.setattr("numba.config.CPU_FEATURES", None)
    monkeypatch.setattr("numba.config.ENABLE_AVX", 0)
    assert not llvm.has("avx2") and not llvm.has("avx512f")


APART = """
from sbm_cli.compiled import jit

@jit.jit
def twice(x, again):
    return 2 * x

both = jit.apart(twice)

@jit.apart
def outer(x):
    return both(x, False) + both(1, True)

@jit.jit
def whole(x):
    return outer(x) + both(x, x > 20)

assert whole(20) == 82 and twice(0.5, True) == 1.0 and len(twice.signatures) == 2
print(*(sum(kernel.stats.cache_misses.values()) for kernel in (twice, whole)))
"""


@pytest.mark.parametrize("lost", ["nothing", "twice", "outer", "whole"])
def test_a_kernel_apart_is_found_by_those_that_call_it(
    lost: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that were compiled before must find it, even where it has to be compiled again."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    script = tmp_path / "kernels.py"
    script.write_text(APART)
    command = [sys.executable, str(script)]

    def run() -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert run() == ["2", "1"]
    for file in tmp_path.rglob(f"*.{lost}-*"):
        file.unlink()
    assert run() == [str(2 * (lost == "twice")), str(int(lost == "whole"))]
