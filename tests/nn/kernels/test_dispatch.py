"""Which implementation computes is decided in one place, for all operations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sbm_cli.nn import kernels
from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.kernels import dispatch, mamba_ssm, reference
from sbm_cli.nn.mamba import Mamba
from tests.nn.kernels.conftest import band_conv, band_linear, forget


def operations() -> dict[str, Callable[[], object]]:
    """Return a call of everything that has kernels of its own, in sizes that they take."""
    torch.manual_seed(0)
    x, vector = torch.randn(1, 5, 16, 32), torch.ones(32)
    conv = vector, vector, torch.randn(32, 8, 3), vector
    linear = torch.randn(4, 32), torch.ones(4), torch.randn(4, 16, 16), torch.ones(16, 4), torch.randn(32, 4), vector
    return {
        "mamba": partial(Mamba(32, 4), x),
        "band_conv": partial(band_conv, x, *conv, 4),
        "band_linear": partial(band_linear, x, *linear),
        "cross-band block": partial(CrossBandBlock(16, 32, 3, 4, 4), x),
    }


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that runs compiled code on the CPU fail."""
    from sbm_cli.nn.kernels.cpu import band_conv, band_linear, mamba

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a compiled kernel was called")

    for module in (band_conv, band_linear, mamba):
        monkeypatch.setattr(module, "run_kernel", refuse)


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("operation", operations())
def test_where_the_reference_is_used_no_kernel_of_any_operation_runs(operation: str) -> None:
    call = operations()[operation]
    with kernels.use("reference"):
        call()
    with pytest.raises(AssertionError, match="a compiled kernel"):
        call()


def test_every_operation_is_specified() -> None:
    for name in ("cpu", "mamba_ssm"):
        assert set(dispatch._module(name).OPERATIONS) <= set(reference.OPERATIONS)


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of reference, cpu, triton, mamba_ssm"), kernels.use("none"):
        pass


def test_cpu_does_not_look_for_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise AssertionError("mamba-ssm was probed")

    monkeypatch.setattr(mamba_ssm, "missing", fail)
    operations()["mamba"]()
    with kernels.use("cpu"):
        operations()["mamba"]()


@pytest.mark.parametrize(
    ("absent", "chosen"), [((), "triton"), (("triton",), "mamba_ssm"), (("triton", "mamba_ssm"), "reference")]
)
def test_cuda_prefers_triton(monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], chosen: str) -> None:
    monkeypatch.setattr(dispatch, "_missing", lambda name: f"{name} is gone" if name in absent else "")
    x = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    if chosen == "reference":
        with pytest.warns(RuntimeWarning, match="triton is gone; using the PyTorch scan"):
            assert kernels.chosen(x) == chosen  # type: ignore[arg-type]
    else:
        assert kernels.chosen(x) == chosen  # type: ignore[arg-type]


def without(package: str, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package be one that is not installed, for an implementation that was never imported."""
    for module in [
        name for name in sys.modules if name.startswith((f"sbm_cli.nn.kernels.{implementation}", "sbm_cli.compiled"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    forget()


def test_a_machine_without_triton_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    without("triton", "triton", monkeypatch)
    assert "pip install triton" in kernels.available()["triton"]
    with pytest.raises(ValueError, match="pip install triton"), kernels.use("triton"):
        pass


def test_without_numba_says_so_once_and_works(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    calls = operations()
    with kernels.use("reference"):
        expected = {name: first(call()) for name, call in calls.items()}
    without("numba", "cpu", monkeypatch)
    with pytest.warns(RuntimeWarning, match="pip install numba"):
        found = {name: first(call()) for name, call in calls.items()}
    assert all(torch.equal(found[name], expected[name]) for name in calls)
    assert len(recwarn) == 0  # the one above was the only one
    assert "pip install numba" in kernels.available()["cpu"]
    with pytest.raises(ValueError, match="pip install numba"), kernels.use("cpu"):
        pass


def first(result: object) -> Tensor:
    y = result[0] if isinstance(result, tuple) else result
    assert isinstance(y, Tensor)
    return y
