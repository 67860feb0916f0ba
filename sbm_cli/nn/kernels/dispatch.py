"""Which implementation computes the operations: the tensors' device and dtype decide, `use` overrides.

- "reference": the specification in plain PyTorch, differentiable, in any float dtype; needs nothing else
- "cpu": compiled kernels for float32 on the CPU, forward and backward; needs Numba
- "triton": the same for CUDA, whatever float types come; needs Triton, a part of PyTorch for CUDA
- "mamba_ssm": the CUDA kernel of that package, when it is there; scan only

An implementation names what it has in OPERATIONS; the reference computes the rest, and sizes that its kernels do not
take. On CUDA it is "triton": it reads our layout in place, takes any mixture of types, and has the gradient of the
carry; "mamba_ssm" only where Triton is missing. A faster implementation that is missing is reported once, with the
cure. What torch.export or torch.compile captures is the reference: a graph holds operators of PyTorch alone.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

IMPLEMENTATIONS = ("reference", "cpu", "triton", "mamba_ssm")
FASTEST = {"cpu": ("cpu",), "cuda": ("triton", "mamba_ssm")}  # the first that is there
PACKAGES = {"cpu": "Numba", "triton": "Triton"}
_override: ContextVar[str | None] = ContextVar("sbm_implementation", default=None)


def kernel(operation: str, x: Tensor) -> Callable[..., Any]:
    """Return the function that computes an operation on tensors like x."""
    found = _module(chosen(x)).OPERATIONS.get(operation) if x.numel() else None
    return found or _module("reference").OPERATIONS[operation]  # type: ignore[no-any-return]


def prepared(operation: str, x: Tensor, *weights: Any) -> Callable[..., Any] | None:
    """Return an operation with its weights turned and packed once, for tensors like x that are `at_rest`.

    None if there is none. What is written to the weights afterwards need not reach it.
    """
    prepare = getattr(_module(chosen(x)), "PREPARED", {}).get(operation)
    return prepare(*weights) if prepare else None


def at_rest(x: Tensor) -> bool:
    """Return whether a prepared operation takes x: in float32 on the CPU, and nobody asks for a gradient."""
    return x.dtype == torch.float32 and x.numel() > 0 and not torch.is_grad_enabled() and chosen(x) == "cpu"


def chosen(x: Tensor) -> str:
    """Return the name of the implementation that runs for tensors like x; warn, once, if a faster one is missing."""
    if torch.compiler.is_compiling():
        return "reference"
    name = _override.get()
    if name is not None:
        return name
    if x.dtype == torch.float64:
        return "reference"
    names = FASTEST.get(x.device.type, ())
    for name in names:
        if not _missing(name):
            return name
    if names:
        _warn(f"{_missing(names[0])}; using the PyTorch scan instead (slower)")
    return "reference"


@contextmanager
def use(implementation: str) -> Iterator[None]:
    """Let all operations use one implementation inside a `with` block.

    Raises ValueError if there is none of this name or it cannot be used here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"no implementation {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    if missing := _missing(implementation):
        raise ValueError(f"implementation {implementation!r} cannot be used: {missing}")
    token = _override.set(implementation)
    try:
        yield
    finally:
        _override.reset(token)


def available() -> dict[str, str]:
    """Return every implementation with an empty text if it can be used, else what is missing and the cure."""
    return {name: _missing(name) for name in IMPLEMENTATIONS}


def differentiates(*tensors: Tensor | None) -> bool:
    """Return whether somebody may ask for a gradient."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@functools.cache
def _missing(name: str) -> str:
    try:
        module = _module(name)
    except ImportError as error:
        package = PACKAGES[name]
        return f"the {name} scan needs {package} ({error}): pip install {package.lower()}"
    return str(module.missing())


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"sbm_cli.nn.kernels.{name}")


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)
