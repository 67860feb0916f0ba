"""The two operations of a Mamba block that walk through time, each one function with several implementations.

- "reference": the specification, a differentiable loop in any float dtype
- "eager": the same loop in place, where no gradient is wanted; needs nothing but PyTorch
- "cpu": compiled kernels for float32 on the CPU, forward and backward; needs Numba
- "mamba_ssm": the CUDA kernel of that package, when it is there

The tensors' device and dtype decide; `use` overrides. A faster implementation that is missing is reported once, with
the cure.
"""

import functools
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from sbm_cli.nn.scan import reference

IMPLEMENTATIONS = ("reference", "eager", "cpu", "mamba_ssm")
_override: ContextVar[str | None] = ContextVar("sbm_scan_implementation", default=None)


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the gated selective scan: h_k = exp(s_k A) h_{k-1} + s_k u_k B_k, y_k = (<C_k, h_k> + D u_k) silu(z_k).

    u, dt, z: [batch, time, band, channel], s = softplus(dt); A: [channel, state], negative; D: [channel];
    B, C: [batch, time, band, state]; carry: h before the first frame, [batch, band, channel, state], zeros if absent.
    Slices of wider tensors are read in place. Returns y, shaped like u, and h after the last frame.
    Differentiable in everything; only with "mamba_ssm" the returned carry has no gradient. Half precision is computed
    in float32.

    Raises ValueError if shapes do not fit.
    Source: Gu & Dao 2023 (arXiv 2312.00752), Algorithm 2.
    """
    _check("u", u, u.shape if u.dim() == 4 else ("batch", "time", "band", "channel"))
    batch, time, band, channel = u.shape
    _check("A", A, (channel, A.shape[-1] if A.dim() else "state"))
    state = A.shape[1]
    _check("dt", dt, u.shape)
    _check("z", z, u.shape)
    _check("B", B, (batch, time, band, state))
    _check("C", C, (batch, time, band, state))
    _check("D", D, (channel,))
    if carry is not None:
        _check("carry", carry, (batch, band, channel, state))
    name = _choose(u)
    if name == "mamba_ssm" and u.numel():
        y, after = _module("mamba_ssm").selective_scan(u, dt, A, B, C, D, z, carry)
        return y, after
    dtype = torch.float64 if u.dtype == torch.float64 and name != "cpu" else torch.float32
    v, dt, A, B, C, D, z = (x.to(dtype) for x in (u, dt, A, B, C, D, z))
    carry = None if carry is None else carry.to(dtype)
    run = reference.selective_scan
    if name == "cpu" and u.numel():
        run = _module("cpu").selective_scan
    elif name == "eager" and not _differentiates(v, dt, A, B, C, D, z, carry):
        run = reference.selective_scan_eager
    y, after = run(v, dt, A, B, C, D, z, carry)
    return y.to(u.dtype), after


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve every channel over its own past and apply SiLU.

    x: [batch, time, band, channel]; weight: [channel, 1, K], the last tap meets the present frame; bias: [channel];
    carry: the K - 1 inputs before the first frame, [batch, band, channel, K - 1], zeros if absent.
    Returns y, shaped like x, and the last K - 1 inputs. Differentiable in everything. Half precision is computed in
    float32.

    Raises ValueError if shapes do not fit.
    """
    _check("x", x, x.shape if x.dim() == 4 else ("batch", "time", "band", "channel"))
    batch, _, band, channel = x.shape
    _check("weight", weight, (channel, 1, weight.shape[-1] if weight.dim() else "K"))
    _check("bias", bias, (channel,))
    if carry is not None:
        _check("carry", carry, (batch, band, channel, weight.shape[2] - 1))
    compiled = not x.is_cuda and x.numel() and weight.shape[2] == 4 and _choose(x) == "cpu"
    dtype = torch.float64 if x.dtype == torch.float64 and not compiled else torch.float32
    run = (_module("cpu") if compiled else reference).causal_conv1d
    y, after = run(x.to(dtype), weight.to(dtype), bias.to(dtype), None if carry is None else carry.to(dtype))
    return y.to(x.dtype), after


@contextmanager
def use(implementation: str) -> Iterator[None]:
    """Let both operations use one implementation inside a `with` block.

    Raises ValueError if there is none of this name or it cannot be used here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"no scan implementation {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    if missing := _missing(implementation):
        raise ValueError(f"scan implementation {implementation!r} cannot be used: {missing}")
    token = _override.set(implementation)
    try:
        yield
    finally:
        _override.reset(token)


def available() -> dict[str, str]:
    """Return every implementation with an empty text if it can be used, else what is missing and the cure."""
    return {name: _missing(name) for name in IMPLEMENTATIONS}


def _choose(x: Tensor) -> str:
    name = _override.get()
    if name is not None:
        return name
    if x.device.type not in ("cpu", "cuda"):
        return "eager"
    if x.dtype == torch.float64:
        return "reference"
    name = "mamba_ssm" if x.is_cuda else "cpu"
    missing = _missing(name)
    if missing:
        _warn(f"{missing}; using the PyTorch scan instead (slower)")
    return "eager" if missing else name


def _differentiates(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@functools.cache
def _missing(name: str) -> str:
    if name == "mamba_ssm":
        return str(_module(name).missing())
    if name == "cpu":
        try:
            _module(name)
        except ImportError as error:
            return f"the compiled CPU scan needs Numba ({error}): pip install numba"
    return ""


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _check(name: str, x: Tensor, expected: tuple[int | str, ...]) -> None:
    if x.shape != expected:
        raise ValueError(f"{name} has shape {list(x.shape)}, expected {list(expected)}")
