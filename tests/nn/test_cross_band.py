"""Without a gradient a cross-band block is its three operations, bit for bit, whichever way it takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sbm_cli.nn import scan
from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.cross_band import cross_band


def both(block: CrossBandBlock, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the block gives, and what its parts give one after the other."""
    with torch.no_grad():
        return block(x), block.conv2(block.full(block.conv1(x)))


@given(st.tuples(st.integers(1, 2), st.integers(1, 60), st.sampled_from([16, 32])), st.sampled_from([16, 64]))
@settings(max_examples=15, deadline=None)
def test_it_is_its_parts(shape: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    block, x = CrossBandBlock(shape[2], channels, 5, channels // 8, 8), torch.randn(*shape, channels)
    apart = pytest.MonkeyPatch()
    apart.setattr(block.conv2, "forward", None)  # the kernels in one go answer
    try:
        with torch.no_grad():
            y = block(x.transpose(0, 1).contiguous().transpose(0, 1))
    finally:
        apart.undo()
    assert torch.equal(y, both(block, x)[1])
    with torch.no_grad():
        block.full.bias += 1  # noticed
    assert torch.equal(*both(block, x)) and not torch.equal(block(x), y)


@pytest.mark.parametrize(("bands", "groups", "squeezed"), [(5, 2, 8), (16, 4, 8), (16, 2, 3)])
def test_other_sizes_go_through_the_parts(bands: int, groups: int, squeezed: int) -> None:
    block, x = CrossBandBlock(bands, 16, 5, groups, squeezed), torch.randn(1, 3, bands, 16)
    assert torch.equal(*both(block, x))
    assert torch.equal(*both(block, x[:, :0]))


def test_a_gradient_and_another_scan_go_through_the_parts() -> None:
    block, x = CrossBandBlock(16, 16, 5, 2, 8), torch.randn(1, 3, 16, 16)
    weights = (*block.conv1.weights(), *block.full.weights(), *block.conv2.weights())
    assert block(x).requires_grad and cross_band(x, *weights) is None
    with torch.no_grad():
        assert cross_band(x, *weights) is not None
        with scan.use("eager"):
            assert cross_band(x, *weights) is None
    assert torch.equal(*both(block, x))
