"""The two operations of a Mamba block that walk through time, each one function with several implementations, and the
block itself, `mamba`: composed of them, or on the CPU one function with its backward.

- "reference": the specification, a differentiable loop in any float dtype
- "eager": the same loop in place, where no gradient is wanted; needs nothing but PyTorch
- "cpu": compiled kernels for float32 on the CPU, forward and backward; needs Numba
- "triton": the same for CUDA, in float32 inside, whatever float types come; needs Triton, a part of PyTorch for CUDA
- "mamba_ssm": the CUDA kernel of that package, when it is there; scan only

The tensors' device and dtype decide; `use` overrides. On CUDA it is "triton": it reads our layout in place, takes any
mixture of types, and has the gradient of the carry; "mamba_ssm" only where Triton is missing. A faster implementation
that is missing is reported once, with the cure.
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
from torch.nn import functional as F

from sbm_cli.nn.scan import reference

IMPLEMENTATIONS = ("reference", "eager", "cpu", "triton", "mamba_ssm")
FASTEST = {"cpu": ("cpu",), "cuda": ("triton", "mamba_ssm")}  # the first that is there
PACKAGES = {"cpu": "Numba", "triton": "Triton"}
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
    name = chosen(u)
    if name in ("triton", "mamba_ssm") and u.numel():
        y, after = _module(name).selective_scan(u, dt, A, B, C, D, z, carry)
        return y, after
    dtype = torch.float64 if u.dtype == torch.float64 and name != "cpu" else torch.float32
    v, dt, A, B, C, D, z = (x.to(dtype) for x in (u, dt, A, B, C, D, z))
    carry = None if carry is None else carry.to(dtype)
    run = reference.selective_scan
    if name == "cpu" and u.numel():
        run = _module("cpu").selective_scan
    elif name == "eager" and not differentiates(v, dt, A, B, C, D, z, carry):
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
    name = chosen(x) if x.numel() else "reference"
    if name == "triton":
        y, after = _module(name).causal_conv1d(x, weight, bias, carry)
        return y, after
    compiled = name == "cpu" and weight.shape[2] == 4
    dtype = torch.float64 if x.dtype == torch.float64 and not compiled else torch.float32
    run = (_module(name) if compiled else reference).causal_conv1d
    y, after = run(x.to(dtype), weight.to(dtype), bias.to(dtype), None if carry is None else carry.to(dtype))
    return y.to(x.dtype), after


def mamba(
    x: Tensor,
    in_proj: Tensor,
    conv: tuple[Tensor, Tensor],
    x_proj: Tensor,
    dt_proj: tuple[Tensor, Tensor],
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    carry: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a Mamba block: projection, convolution, scan, projection.

    x: [batch, time, band, channels]; in_proj: [2 inner, channels]; conv, dt_proj: weight and bias; x_proj:
    [rank + 2 state, inner]; out_proj: [channels, inner]; the rest and the two parts of the carry as in `causal_conv1d`
    and `selective_scan`. Returns the output, shaped like x, in autocast's type if there is one, and the carry after the
    last frame.
    """
    (inner, state), (_, rank) = A.shape, dt_proj[0].shape
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    known = x.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and D.dtype == torch.float32
    if known and x.numel() and chosen(x) == "cpu":
        cpu = _module("cpu")
        if inner % cpu.LANES == 0 and state % cpu.GROUP == 0 and conv[0].shape[2] == cpu.TAPS:
            out, after = cpu.mamba(x, in_proj, conv, x_proj, dt_proj, A, D, out_proj, carry, dtype)
            return out, after
    conv_carry, scan_carry = carry if carry is not None else (None, None)
    u, z = F.linear(x, in_proj).chunk(2, -1)
    u, conv_carry = causal_conv1d(u, *conv, conv_carry)
    low, B, C = F.linear(u, x_proj).split([rank, state, state], -1)
    y, scan_carry = selective_scan(u, F.linear(low, *dt_proj), A, B, C, D, z, scan_carry)
    return F.linear(y, out_proj), (conv_carry, scan_carry)


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


def chosen(x: Tensor) -> str:
    """Return the name of the implementation that runs for tensors like x; warn, once, if a faster one is missing."""
    name = _override.get()
    if name is not None:
        return name
    if x.device.type not in FASTEST:
        return "eager"
    if x.dtype == torch.float64:
        return "reference"
    names = FASTEST[x.device.type]
    for name in names:
        if not _missing(name):
            return name
    _warn(f"{_missing(names[0])}; using the PyTorch scan instead (slower)")
    return "eager"


def differentiates(*tensors: Tensor | None) -> bool:
    """Return whether somebody may ask for a gradient."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@functools.cache
def _missing(name: str) -> str:
    if name in ("reference", "eager"):
        return ""
    try:
        module = _module(name)
    except ImportError as error:
        package = PACKAGES[name]
        return f"the {name} scan needs {package} ({error}): pip install {package.lower()}"
    return "" if name == "cpu" else str(module.missing())


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _check(name: str, x: Tensor, expected: tuple[int | str, ...]) -> None:
    if x.shape != expected:
        raise ValueError(f"{name} has shape {list(x.shape)}, expected {list(expected)}")
