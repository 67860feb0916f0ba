"""The choice of implementation: device and dtype of the tensors decide, `use` overrides.

- "reference": the specification in plain PyTorch, differentiable, in any float dtype; needs nothing else
- "cpu": compiled kernels for float32 on the CPU, forward and backward; needs Numba
- "triton": the same for CUDA and any float types; needs Triton, a part of PyTorch for CUDA
- "mamba_ssm": the CUDA kernel of that package; scan only

An implementation lists its operations in OPERATIONS; the reference computes the rest, and sizes that the kernels do not
support. CUDA uses "triton", which reads our layout in place, takes any mixture of types and differentiates the carry;
"mamba_ssm" only without Triton. A missing faster implementation is reported once, with the cure. torch.export and
torch.compile capture the reference: their graphs hold operators of PyTorch only.
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
FASTEST = {"cpu": ("cpu",), "cuda": ("triton", "mamba_ssm")}  # the first available one
PACKAGES = {"cpu": "Numba", "triton": "Triton"}
_override: ContextVar[str | None] = ContextVar("sbm_implementation", default=None)


def kernel(operation: str, x: Tensor) -> Callable[..., Any]:
    """Return the function that computes an operation on tensors like x."""
    found = _module(chosen(x)).OPERATIONS.get(operation) if x.numel() else None
    return found or _module("reference").OPERATIONS[operation]


def chosen(x: Tensor) -> str:
    """Return the implementation that runs for tensors like x; warn once if a faster one is missing."""
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
    """Use one implementation for all operations inside a `with` block.

    Raises ValueError if it does not exist or cannot be used here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if missing := _missing(implementation):
        raise ValueError(f"implementation {implementation!r} cannot be used: {missing}")
    token = _override.set(implementation)
    try:
        yield
    finally:
        _override.reset(token)


def available() -> dict[str, str]:
    """Return for every implementation "" if it can be used, otherwise what is missing and the cure."""
    return {name: _missing(name) for name in IMPLEMENTATIONS}


def differentiates(*tensors: Tensor | None) -> bool:
    """Return whether a gradient may be needed."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@functools.cache
def _missing(name: str) -> str:
    try:
        module = _module(name)
    except ImportError as error:
        package = PACKAGES[name]
        return f"the {name} scan needs {package} ({error}): pip install {package.lower()}"
    return str(getattr(module, "missing", str)())


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"sbm_cli.nn.kernels.{name}")


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)
