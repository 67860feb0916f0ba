"""A network is plain modules: it hears of changes, runs hooks and can be exported."""

from __future__ import annotations

import pytest
import torch

from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.configs import OSpatialNetConfig
from tests.nn.conftest import perturbed

CONFIG = OSpatialNetConfig(bins=129, channels=16, blocks=2, cross_groups=2, embedding=0)  # whole vectors everywhere
END = torch.ones(1)


def spectrum(frames: int = 5) -> torch.Tensor:
    return torch.randn(1, CONFIG.bins, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> OSpatialNet:
    return perturbed(CONFIG)


@torch.no_grad()
def test_every_implementation_computes_the_same(network: OSpatialNet) -> None:
    noisy = spectrum()
    expected, _ = network(noisy, noisy, END)
    with kernels.use("reference"):
        torch.testing.assert_close(network(noisy, noisy, END)[0], expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(noisy, noisy, END)[0] - expected).norm() <= 0.03 * expected.norm()


@torch.no_grad()
def test_a_network_hears_of_every_change(network: OSpatialNet) -> None:
    noisy = spectrum()
    before, _ = network(noisy, noisy, END)
    for name, weight in network.named_parameters():
        kept = weight.clone()
        weight += 0.1 * torch.rand_like(weight)
        assert not torch.equal(network(noisy, noisy, END)[0], before), name
        weight.data = kept
        assert torch.equal(network(noisy, noisy, END)[0], before), name


@torch.no_grad()
def test_forward_hooks_run(network: OSpatialNet) -> None:
    called = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))  # type: ignore[misc]
    network(spectrum(), spectrum(), END)
    blocks = [f"cross.{i}{part}" for i in range(2) for part in ("", ".conv1", ".full", ".conv2")]
    blocks += [f"narrow.{i}{part}" for i in range(2) for part in ("", ".norm", ".mamba")]
    assert {"", "encoder", "full", "full.mamba", "decoder", "head", *blocks} <= set(called)


def test_a_network_can_be_exported(network: OSpatialNet) -> None:
    noisy = spectrum()
    program = torch.export.export(network, (noisy, noisy, END))
    with torch.no_grad(), kernels.use("reference"):
        expected, carry = network(noisy, noisy, END)
    found, carried = program.module()(noisy, noisy, END)
    torch.testing.assert_close(found, expected)
    assert carried.keys() == carry.keys()
    again = torch.export.export(network, (noisy, noisy, END, carry)).module()(noisy, noisy, END, carry)
    torch.testing.assert_close(again[0], network(noisy, noisy, END, carry)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cross_band_block_takes_no_frames() -> None:
    assert CrossBandBlock(16, 16, 5, 4, 8)(torch.randn(1, 0, 16, 16)).shape == (1, 0, 16, 16)
