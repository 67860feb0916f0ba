"""The compiled linear map over all bands against plain PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sbm_cli.nn.kernels import reference
from tests.nn.kernels.conftest import band_linear


def draw(shape: tuple[int, int, int], channels: int, squeezed: int) -> list[Tensor]:
    """Return x and the weights."""
    bands, generator = shape[2], torch.Generator().manual_seed(3)
    sizes = [
        (*shape, channels), (squeezed, channels), (squeezed,), (squeezed, bands, bands), (bands, squeezed),
        (channels, squeezed), (channels,),
    ]  # fmt: skip
    return [torch.randn(size, generator=generator) * 0.3 for size in sizes]


def outcome(function: object, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the result and the gradients of x and of every weight."""
    leaves = [part.detach().requires_grad_() for part in tensors]
    assert callable(function)
    y = function(*leaves)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y.dtype)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


def compare(tensors: list[Tensor]) -> None:
    wanted = outcome(reference.band_linear, [part.double() for part in tensors])
    for ours, plain in zip(outcome(band_linear, tensors), wanted, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == plain.shape
        assert (ours - plain).abs().max() <= 2e-5 * plain.abs().max()


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 60), st.sampled_from([16, 32])),
    st.sampled_from([16, 48, 64]),
    st.sampled_from([4, 8, 12]),
)
@settings(max_examples=15, deadline=None)
def test_agrees_with_float64(shape: tuple[int, int, int], channels: int, squeezed: int) -> None:
    compiled = pytest.MonkeyPatch()
    try:
        compiled.setattr("sbm_cli.nn.kernels.cpu.band_linear.reference", None)  # the compiled kernels answer
        compare(draw(shape, channels, squeezed))
    finally:
        compiled.undo()


@pytest.mark.parametrize(("bands", "channels", "squeezed"), [(5, 16, 4), (16, 10, 4), (16, 16, 3)])
def test_other_sizes_take_the_plain_formulation(bands: int, channels: int, squeezed: int) -> None:
    compare(draw((1, 3, bands), channels, squeezed))


def test_the_number_of_threads_changes_nothing() -> None:
    tensors, before, results = draw((3, 200, 16), 16, 4), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(outcome(band_linear, tensors))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_frame_sees_no_other_frame() -> None:
    tensors = draw((1, 5, 16), 16, 4)
    y = band_linear(*tensors)
    tensors[0][0, 3] = torch.nan
    assert torch.equal(
        band_linear(*tensors).isnan().any(-1).any(-1), torch.tensor([[False, False, False, True, False]])
    )
    assert torch.equal(band_linear(*tensors)[:, :3], y[:, :3])
