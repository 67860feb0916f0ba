"""A prepared network computes the same, faster; an unprepared one is plain modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.nn.mamba import Mamba
from tests.nn.conftest import perturbed, prepare

CONFIG = OSpatialNetConfig(bins=129, channels=16, blocks=2, cross_groups=2, embedding=0)  # whole vectors everywhere
END = torch.ones(1)


def spectrum(frames: int = 5) -> torch.Tensor:
    return torch.randn(1, CONFIG.bins, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> OSpatialNet:
    return perturbed(CONFIG)


@torch.no_grad()
def test_a_prepared_network_computes_the_same(network: OSpatialNet) -> None:
    noisy = spectrum()
    expected, _ = network(noisy, noisy, END)
    assert network.prepare() is network and not network.training
    torch.testing.assert_close(network(noisy, noisy, END)[0], expected, rtol=1e-5, atol=1e-6)
    with kernels.use("reference"):
        torch.testing.assert_close(network(noisy, noisy, END)[0], expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(noisy, noisy, END)[0] - expected).norm() <= 0.03 * expected.norm()


@torch.no_grad()
def test_an_unprepared_network_hears_of_every_change(network: OSpatialNet) -> None:
    noisy = spectrum()
    before, _ = network(noisy, noisy, END)
    for name, weight in network.named_parameters():
        kept = weight.clone()
        weight += 0.1 * torch.rand_like(weight)
        assert not torch.equal(network(noisy, noisy, END)[0], before), name
        weight.data = kept
        assert torch.equal(network(noisy, noisy, END)[0], before), name


@torch.no_grad()
def test_forward_hooks_of_an_unprepared_network_run(network: OSpatialNet) -> None:
    called = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))  # type: ignore[misc]
    network(spectrum(), spectrum(), END)
    blocks = [f"cross.{i}{part}" for i in range(2) for part in ("", ".conv1", ".full", ".conv2")]
    blocks += [f"narrow.{i}{part}" for i in range(2) for part in ("", ".norm", ".mamba")]
    assert {"", "encoder", "full", "full.mamba", "decoder", "head", *blocks} <= set(called)


def test_an_unprepared_network_can_be_exported(network: OSpatialNet) -> None:
    noisy = spectrum()
    program = torch.export.export(network, (noisy, noisy, END))
    with torch.no_grad(), kernels.use("reference"):
        expected, carry = network(noisy, noisy, END)
    found, carried = program.module()(noisy, noisy, END)
    torch.testing.assert_close(found, expected)
    assert carried.keys() == carry.keys()
    again = torch.export.export(network, (noisy, noisy, END, carry)).module()(noisy, noisy, END, carry)
    torch.testing.assert_close(again[0], network(noisy, noisy, END, carry)[0], rtol=1e-4, atol=1e-5)


@given(st.tuples(st.integers(1, 2), st.integers(1, 60), st.sampled_from([16, 32])), st.sampled_from([16, 64]))
@settings(max_examples=15, deadline=None)
def test_a_prepared_cross_band_block_is_its_parts(shape: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    block, x = CrossBandBlock(shape[2], channels, 5, channels // 8, 8), torch.randn(*shape, channels)
    with torch.no_grad():
        expected = block(x)
    prepare(block)
    apart = pytest.MonkeyPatch()
    apart.setattr(block.conv2, "forward", None)  # the kernels in one go answer
    try:
        with torch.no_grad():
            y = block(x.transpose(0, 1).contiguous().transpose(0, 1))
    finally:
        apart.undo()
    assert torch.equal(y, expected)


@pytest.mark.parametrize(("bands", "groups", "squeezed"), [(5, 2, 8), (16, 4, 8), (16, 2, 3)])
@torch.no_grad()
def test_other_sizes_go_through_the_parts(bands: int, groups: int, squeezed: int) -> None:
    block, x = CrossBandBlock(bands, 16, 5, groups, squeezed), torch.randn(1, 3, bands, 16)
    expected = block(x)
    assert torch.equal(prepare(block)(x), expected)
    assert block(x[:, :0]).shape == (1, 0, bands, 16)


@torch.no_grad()
def test_other_sizes_of_a_mamba_block_go_through_its_parts() -> None:
    block, x = Mamba(10, 5), torch.randn(1, 3, 4, 10)
    expected, _ = block(x)
    assert torch.equal(prepare(block)(x)[0], expected)


def test_where_a_gradient_is_asked_for_a_prepared_block_gives_it() -> None:
    block, x = prepare(CrossBandBlock(16, 16, 5, 2, 8)), torch.randn(1, 3, 16, 16, requires_grad=True)
    assert block(x).requires_grad
