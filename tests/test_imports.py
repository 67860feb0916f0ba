"""Imports run one way, heavy packages wait inside functions, and nothing heavy stands behind `sbm --help`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sbm_cli

PACKAGE = Path(sbm_cli.__file__).parent

# room -> rooms of ours that it may import, anywhere in its files
ROOMS = {
    "errors": set(),
    "atomic": {"errors"},
    "hardware": {"errors"},
    "arrays": set(),
    "cells": set(),
    "config": {"errors"},
    "hub": {"config", "errors"},
    "lock": {"atomic", "errors"},
    "audio": {"atomic", "errors"},
    "options": {"audio", "config"},
    "dsp": {"arrays", "config"},
    "bridge": {"arrays"},
    "compiled": set(),
    "engine": {"bridge", "compiled", "dsp", "nn"},
    "nn": {"compiled", "config", "errors"},
    "model": {"arrays", "atomic", "bridge", "dsp", "engine", "nn", "config", "errors"},
    "stream": {"audio", "bridge", "dsp", "engine", "model", "nn", "options", "errors"},
    "files": {"audio", "hardware", "model", "stream", "options", "errors"},
    "enhancer": {"audio", "errors", "files", "hardware", "model", "stream", "hub", "options"},
    "live": {"audio", "enhancer", "options", "errors"},
    "serve": {"audio", "hardware", "enhancer", "evaluation", "files", "lock", "options", "errors"},
    "data": {"atomic", "audio", "cells", "config", "hardware", "errors"},
    "plot": set(),
    "timing": {"audio", "hardware", "enhancer", "options", "plot", "stream", "errors"},
    "evaluation": {"audio", "cells", "hardware", "data", "enhancer", "stream", "options", "plot", "timing"}
    | {"errors"},
    "export": {"atomic", "audio", "dsp", "model", "stream", "options", "timing", "errors", ""},
    "training": {"atomic", "audio", "bridge", "cells", "config", "hardware", "data", "dsp", "lock", "model", "nn"}
    | {"plot", "errors"},
    "batch": {"atomic", "enhancer", "audio", "model", "hub", "config", "lock", "options", "errors", ""},
    # nn and compiled only for what `sbm doctor` and `sbm --version` say, model for what `sbm models info` says
    "cli": {"audio", "batch", "data", "enhancer", "evaluation", "files", "hub", "model", "nn", "options", "timing"}
    | {"atomic", "cells", "compiled", "hardware", "errors", "export", "live", "serve", "training", ""},
    "": {"enhancer", "options", "errors", "cli"},  # sbm_cli/__init__.py and __main__.py
}

# room -> third parties at the top of its files; inside functions; nothing else may be imported
THIRD_PARTIES: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "atomic": (set(), set()),
    "hardware": (set(), {"torch"}),
    "arrays": ({"numpy"}, {"torch"}),
    "cells": (set(), set()),
    "config": (set(), set()),
    "hub": (set(), {"huggingface_hub"}),
    "lock": (set(), set()),
    "audio": ({"numpy", "soundfile", "soxr"}, {"av"}),
    "options": (set(), set()),
    "dsp": ({"numpy"}, {"torch", "triton"}),
    "bridge": ({"numpy"}, {"torch"}),
    "compiled": (set(), set()),
    "engine": ({"numpy"}, set()),
    "nn": ({"torch"}, {"numba", "triton", "mamba_ssm", "selective_scan_cuda"}),
    "model": ({"numpy"}, {"torch", "safetensors"}),
    "files": ({"numpy"}, set()),
    "stream": ({"torch", "numpy"}, set()),
    "enhancer": ({"numpy"}, {"torch"}),
    "batch": (set(), {"ray"}),
    "live": ({"numpy"}, {"sounddevice"}),
    "serve": ({"numpy", "starlette", "uvicorn"}, set()),
    "data": ({"torch", "numpy"}, {"soundfile", "soxr"}),
    "plot": (set(), set()),
    "timing": ({"numpy"}, {"torch"}),
    "evaluation": (
        {"numpy"},
        {"torch", "scipy", "soundfile", "soxr", "librosa", "onnxruntime", "pesq", "pystoi", "speechmos", "PIL"}
        | {"torchmetrics", "transformers", "huggingface_hub"},
    ),
    "export": ({"torch", "numpy"}, {"onnx", "onnxruntime", "onnxscript"}),
    "training": (
        {"torch", "numpy"},
        {"yaml", "safetensors", "lightning_fabric", "tensorboard"},
    ),
    "cli": ({"typer"}, {"rich", "torch", "numba", "huggingface_hub", "websockets"}),
    "": (set(), set()),
}

# Kernels are decorated at the top of their files, and those are imported in a function.
KERNEL_ROOMS = {
    "sbm_cli.nn.kernels.cpu": {"numba", "llvmlite", "numpy"},
    "sbm_cli.compiled": {"numba", "llvmlite", "numpy"},
    "sbm_cli.nn.kernels.triton": {"triton"},
    "sbm_cli.dsp.level.triton": {"torch", "triton"},
}


@dataclass(frozen=True)
class Import:
    importer: str  # module
    imported: str  # module or module.name
    lazy: bool  # inside a function


def imports_of(module: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module; those for type checkers alone do not count."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (Import(module, f"{node.module}.{alias.name}", lazy) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                yield from walk(child, lazy)
        else:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside)

    yield from walk(ast.parse(source), lazy=False)


def modules() -> dict[str, str]:
    """Return the source of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def violations(found: Import) -> str | None:
    """Return what is wrong with an import, None if nothing is."""
    room, top = room_of(found.importer), found.imported.split(".")[0]
    line = f"{found.importer} imports {found.imported}{' inside a function' if found.lazy else ''}"
    if top == "sbm_cli":
        target = room_of(found.imported)
        return None if target == room or target in ROOMS[room] else line
    if top in sys.stdlib_module_names:
        return None
    at_top, inside = THIRD_PARTIES[room]
    for kernels, packages in KERNEL_ROOMS.items():
        if found.importer.startswith(kernels):
            at_top = at_top | packages
    allowed = at_top | (inside if found.lazy else set())
    return None if top in allowed else line


def all_imports() -> list[Import]:
    return [found for module, source in modules().items() for found in imports_of(module, source)]


def test_every_file_stands_in_a_known_room() -> None:
    rooms = {module.split(".")[1] for module in modules() if module.count(".") >= 1} - {"__main__"}
    assert rooms <= set(ROOMS)


def test_imports_run_one_way() -> None:
    assert [line for found in all_imports() if (line := violations(found))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sbm_cli.bridge.schedule", "from sbm_cli.nn.backbones.ospatialnet import OSpatialNet"),
        ("sbm_cli.bridge.schedule", "import torch"),
        ("sbm_cli.audio.io", "def f():\n    import torch"),
        ("sbm_cli.nn.network", "import numba"),
        ("sbm_cli.training.loop", "from rich.console import Console"),
        ("sbm_cli.cli.enhance", "import torch"),
        ("sbm_cli.hub", "import huggingface_hub"),
        ("sbm_cli.enhancer", "from sbm_cli.training import loop"),
        ("sbm_cli.evaluation.scoring", "def f():\n    from sbm_cli.training.config import load_recipe"),
        ("sbm_cli.data.sources", "from sbm_cli.training.config import TrainConfig"),
    ],
)
def test_the_rules_can_fail(module: str, source: str) -> None:
    assert all(violations(found) for found in imports_of(module, source))


def test_imports_for_type_checkers_do_not_count() -> None:
    assert not list(imports_of("sbm_cli.cli.x", "if TYPE_CHECKING:\n    import torch"))


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the cycles that a depth-first walk meets."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    known = modules()
    graph: dict[str, set[str]] = {module: set() for module in known}
    for found in all_imports():
        # `from a import b` names a module a.b or a name of module a
        target = found.imported if found.imported in known else found.imported.rpartition(".")[0]
        # a package that gathers its own modules is no circle, and a lazy import does not run at import
        if target in known and target != found.importer and not found.lazy:
            graph[found.importer].add(target)
    assert cycles(graph) == []


def test_no_module_is_long_and_no_folder_is_full() -> None:
    """A reader takes in 600 lines, or 14 modules beside an __init__, and no more."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length > 600} == {}
    folders = Counter(str(path.parent.relative_to(PACKAGE)) for path in lengths if path.name != "__init__.py")
    assert {folder: count for folder, count in folders.items() if count > 14} == {}


def test_circles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]


@pytest.mark.parametrize(
    "code",
    ["import sbm_cli", "import typer; from sbm_cli.cli.app import app; typer.main.get_command(app)"],
    ids=["import", "app"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    heavy = "{'torch', 'numpy', 'soundfile', 'av', 'soxr', 'numba', 'librosa', 'huggingface_hub', 'rich', 'yaml'}"
    script = f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
