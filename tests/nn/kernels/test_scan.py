"""Every implementation of scan and convolution against the float64 reference, and that against the definition."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.nn import kernels
from sbm_cli.nn.kernels import dispatch, mamba_ssm, reference
from tests.nn.kernels.conftest import causal_conv1d, selective_scan

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SHAPES = [(1, 33, 5, 32, 16), (2, 1, 3, 16, 4), (2, 17, 2, 24, 6)]  # batch, time, band, channel, state; segments are 16
Call = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A mamba-ssm with its compiled kernel, as far as the adapter sees it, computing by the definition."""

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> tuple[Tensor, Tensor]:
        assert D is not None and D.dtype == A.dtype == torch.float32
        assert delta_softplus and return_last_state and delta_bias is None
        y, last = definition(*(x.transpose(1, 2) for x in (u, F.softplus(delta))), A, B.mT, C.mT, D)
        return (y if z is None else y * F.silu(z.transpose(1, 2))).transpose(1, 2), last.detach()

    module = SimpleNamespace(selective_scan_cuda=object(), selective_scan_fn=selective_scan_fn)
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, mamba_ssm.INTERFACE, module)
    return module


@pytest.fixture(params=["reference", "mamba_ssm"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "mamba_ssm":
        request.getfixturevalue("kernel")
    with kernels.use(request.param):
        yield request.param


def definition(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """h_k = exp(dt A) h + dt u B, y = <C, h> + D u; u, dt [batch, time, d], A [d, n], B, C [batch, time, n]."""
    h, y = u.new_zeros(len(u), *A.shape), []
    for k in range(u.shape[1]):
        h = torch.exp(dt[:, k, :, None] * A) * h + (dt[:, k] * u[:, k])[..., None] * B[:, k, None]
        y.append((h * C[:, k, None]).sum(-1) + D * u[:, k])
    return torch.stack(y, 1), h


def scan_inputs(shape: Sequence[int], steps: float = 1.0) -> list[Tensor]:
    """Return [uz, dt, A, BC, D, carry], where u and z, B and C are halves; `steps` scales dt before softplus."""
    batch, time, band, channel, state = shape
    draw = torch.Generator().manual_seed(7)
    uz, dt, A, BC, D, carry = (
        torch.randn(*size, generator=draw)
        for size in (
            (batch, time, band, 2 * channel),
            (batch, time, band, channel),
            (channel, state),
            (batch, time, band, 2 * state),
            (channel,),
            (batch, band, channel, state),
        )
    )
    return [uz, steps * dt - 2, -A.exp(), BC, D, carry]


def run_scan(run: Call, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    uz, dt, A, BC, D, carry = inputs
    (u, z), (B, C) = uz.chunk(2, -1), BC.chunk(2, -1)
    return run(u, dt, A, B, C, D, z, carry)


def conv_inputs(batch: int, time: int, band: int, channel: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(8)
    sizes = ((batch, time, band, 2 * channel), (channel, 1, 4), (channel,), (batch, band, channel, 3))
    return [torch.randn(*size, generator=draw) for size in sizes]


def run_conv(run: Call, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    wide, weight, bias, carry = inputs
    return run(wide.chunk(2, -1)[1], weight, bias, carry)


def double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().double() for x in inputs]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Compare with a float64 result, relative to its largest value."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= TOLERANCE[actual.dtype], f"relative error {error:.1e}"


def gradients(run: Callable[[Call, Sequence[Tensor]], tuple[Tensor, Tensor]], call: Call, inputs: Sequence[Tensor]):  # type: ignore[no-untyped-def]
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y, carry = run(call, leaves)
    draw = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=draw).to(x.dtype) for x in (y, carry)]
    return torch.autograd.grad((y * weights[0]).sum() + (carry * weights[1]).sum(), leaves)


def test_reference_scan_is_the_definition() -> None:
    inputs = double(scan_inputs((1, 9, 1, 3, 2)))
    uz, dt, A, BC, D, carry = inputs
    inputs[5] = carry = torch.zeros_like(carry)
    (u, z), (B, C) = uz[:, :, 0].chunk(2, -1), BC[:, :, 0].chunk(2, -1)
    y, h = definition(u, F.softplus(dt[:, :, 0]), A, B, C, D)
    y_reference, h_reference = run_scan(reference.selective_scan, inputs)
    assert_close(y_reference[:, :, 0], y * F.silu(z))
    assert_close(h_reference[:, 0], h)


def test_reference_convolution_is_torchs() -> None:
    wide, weight, bias, carry = double(conv_inputs(1, 9, 1, 5))
    x = wide.chunk(2, -1)[1]
    padded = torch.cat([carry[:, 0], x[:, :, 0].mT], -1)
    y, after = reference.causal_conv1d(x, weight, bias, carry)
    assert_close(y[:, :, 0], F.silu(F.conv1d(padded, weight, bias, groups=5)).mT)
    assert torch.equal(after[:, 0], padded[..., -3:])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1.0, 50.0, 1e4])
def test_scan_agrees_with_reference(implementation: str, shape: Sequence[int], steps: float) -> None:
    inputs = scan_inputs(shape, steps)
    expected = run_scan(reference.selective_scan, double(inputs))
    for actual, wanted in zip(run_scan(selective_scan, inputs), expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_as_such(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in scan_inputs(SHAPES[0])]
    assert_close(run_scan(selective_scan, inputs)[0], run_scan(reference.selective_scan, double(inputs))[0])
    inputs = [x.to(dtype) for x in conv_inputs(1, 5, 2, 16)]
    assert_close(run_conv(causal_conv1d, inputs)[0], run_conv(reference.causal_conv1d, double(inputs))[0])


def test_float64_stays_float64() -> None:
    inputs = double(scan_inputs(SHAPES[2]))
    assert torch.equal(
        run_scan(selective_scan, inputs)[0], run_scan(reference.selective_scan, inputs)[0]
    )  # no detour through float32


def plain(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    uz, dt, A, BC, D, carry = inputs
    (u, z), (B, C) = uz.chunk(2, -1), BC.chunk(2, -1)
    return u, dt, A, B, C, D, z, carry


def test_no_frames_leave_the_carry_alone(implementation: str) -> None:
    inputs = scan_inputs((1, 3, 2, 16, 4))
    uz, dt, A, BC, D, carry = inputs
    y, after = run_scan(selective_scan, [uz[:, :0], dt[:, :0], A, BC[:, :0], D, carry])
    assert y.shape == (1, 0, 2, 16) and torch.equal(after, carry)
    wide, weight, bias, carry = conv_inputs(1, 3, 2, 16)
    y, after = run_conv(causal_conv1d, [wide[:, :0], weight, bias, carry])
    assert y.shape == (1, 0, 2, 16) and torch.equal(after, carry)


def test_mamba_ssm_gives_no_gradient_through_its_carry(kernel: SimpleNamespace) -> None:
    inputs = [x.requires_grad_() for x in scan_inputs(SHAPES[0])]
    with kernels.use("mamba_ssm"):
        y, carry = run_scan(selective_scan, inputs)
    assert y.requires_grad and not carry.requires_grad
    expected = double(inputs)
    for x in expected:
        x.requires_grad_()
    y_reference, _ = run_scan(reference.selective_scan, expected)
    wanted = torch.autograd.grad(y_reference.sum(), expected)
    for actual, gradient in zip(torch.autograd.grad(y.sum(), inputs), wanted, strict=True):
        assert_close(actual, gradient)


CURE = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation"


def test_mamba_ssm_without_its_kernel_is_reported_with_the_cure(kernel: SimpleNamespace) -> None:
    assert kernels.available()["mamba_ssm"] == ""
    dispatch._missing.cache_clear()
    kernel.selective_scan_cuda = None
    assert kernels.available()["mamba_ssm"] == f"mamba-ssm is installed without its Mamba-1 kernel: {CURE}"
    with pytest.raises(ValueError, match="without its Mamba-1 kernel"), kernels.use("mamba_ssm"):
        pass


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("mamba_ssm", "mamba-ssm is not installed"),
        ("selective_scan_cuda", "mamba-ssm is installed without its Mamba-1 kernel"),
        ("einops", "mamba-ssm cannot be imported (no einops)"),
    ],
)
def test_mamba_ssm_that_cannot_be_imported_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, missing: str, reason: str
) -> None:
    def fail(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"no {missing}", name=missing)

    monkeypatch.setattr(mamba_ssm.importlib, "import_module", fail)
    assert mamba_ssm.missing() == f"{reason}: {CURE}"
