"""The compiled convolution along the bands against plain PyTorch in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.nn.kernels import reference
from tests.nn.kernels.conftest import band_conv

Tensors = tuple[Tensor, ...]


def draw(shape: tuple[int, int, int], channels: int, groups: int, kernel: int, seed: int = 0) -> Tensors:
    """Return x, gain, offset, weight, bias and the gradient of the result."""
    generator = torch.Generator().manual_seed(seed)
    vector = (channels,)
    sizes = [(*shape, channels), vector, vector, (channels, channels // groups, kernel), vector, (*shape, channels)]
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def outcome(function: object, tensors: Tensors, groups: int) -> Tensors:
    """Return the result and the gradients of x, gain, offset, weight and bias."""
    *inputs, grad = tensors
    inputs = [part.detach().requires_grad_() for part in inputs]
    assert callable(function)
    y = function(*inputs, groups)
    return (y.detach(), *torch.autograd.grad(y, inputs, grad))


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value - wanted).abs().max() / wanted.abs().max())


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that the compiled kernels answer."""

    def refuse(*args: object) -> None:
        raise AssertionError("the plain formulation was called")

    monkeypatch.setattr("sbm_cli.nn.kernels.cpu.band_conv.reference", SimpleNamespace(band_conv=refuse))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("shape", "channels", "groups", "kernel"),
    [
        ((1, 19, 32), 64, 8, 5),
        ((3, 11, 37), 64, 8, 5),
        ((2, 1, 5), 64, 8, 5),
        ((1, 2, 1), 64, 8, 5),
        ((2, 3, 17), 16, 2, 3),
        ((1, 3, 9), 24, 3, 1),
        ((1, 3, 20), 32, 2, 4),
        ((1, 2, 18), 8, 1, 13),
    ],
)
def test_matches_float64(shape: tuple[int, int, int], channels: int, groups: int, kernel: int) -> None:
    tensors = draw(shape, channels, groups, kernel)
    wanted = outcome(reference.band_conv, tuple(part.double() for part in tensors), groups)
    for name, ours, plain in zip(
        ("y", "x", "gain", "offset", "weight", "bias"), outcome(band_conv, tensors, groups), wanted, strict=True
    ):
        assert ours.dtype == torch.float32 and ours.shape == plain.shape
        assert error(ours, plain) <= 2e-5, name


@pytest.mark.usefixtures("kernels")
def test_takes_any_strides() -> None:
    tensors = x, gain, offset, weight, bias, grad = draw((2, 5, 7), 16, 2, 3)
    wanted = outcome(reference.band_conv, tuple(part.double() for part in tensors), 2)
    wide = torch.cat([x, x], -1)[..., :16]
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    spread = torch.stack([weight, weight], -1)[..., 0]
    for view in (wide, turned):
        assert not view.is_contiguous()
        for ours, plain in zip(outcome(band_conv, (view, gain, offset, spread, bias, grad), 2), wanted, strict=True):
            assert error(ours, plain) <= 2e-5
    summed = outcome(band_conv, (*tensors[:-1], torch.ones(1).expand(grad.shape)), 2)  # as y.sum() sends it
    plain = outcome(reference.band_conv, (*tensors[:-1], torch.ones(grad.shape)), 2)
    for ours, wanted in zip(summed, plain, strict=True):
        assert error(ours, wanted) <= 2e-5


@pytest.mark.usefixtures("kernels")
def test_extreme_sums_saturate() -> None:
    x, gain, offset, *_ = draw((1, 1, 4), 24, 3, 1)
    weight = torch.eye(8).repeat(3, 1)[:, :, None] * 1e4
    y = band_conv(x, gain, offset, weight, torch.zeros(24), 3)
    torch.testing.assert_close(y, x + F.silu(F.layer_norm(x, (24,), gain, offset) * 1e4), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
def test_the_number_of_threads_changes_nothing() -> None:
    tensors, before, results = draw((2, 101, 9), 16, 2, 3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(band_conv, tensors, 2))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("kernels")
def test_nan_reaches_its_neighbours_and_nobody_else() -> None:
    x, *others = draw((1, 3, 12), 16, 2, 3)
    x[0, 1, 6, 3] = torch.nan  # its band is normalised with it
    y, gx, *_ = outcome(band_conv, (x, *others), 2)
    expected = torch.zeros(y.shape, dtype=torch.bool)
    expected[0, 1, 5:8] = True
    assert torch.equal(y.isnan(), expected)
    expected[0, 1, 4:9] = True
    assert torch.equal(gx.isnan(), expected)


@pytest.mark.parametrize("x_type", [torch.float64, torch.float32])
def test_other_types_and_groups_take_the_plain_formulation(x_type: torch.dtype) -> None:
    tensors = tuple(part.to(x_type) for part in draw((2, 3, 5), 12, 3, 3))  # groups of four channels
    for ours, plain in zip(outcome(band_conv, tensors, 3), outcome(reference.band_conv, tensors, 3), strict=True):
        assert ours.dtype == x_type and torch.equal(ours, plain)


def test_no_frames_give_no_frames() -> None:
    _, *weights, _ = draw((1, 2, 3), 16, 2, 3)
    assert band_conv(torch.zeros(1, 0, 5, 16), *weights, 2).shape == (1, 0, 5, 16)
