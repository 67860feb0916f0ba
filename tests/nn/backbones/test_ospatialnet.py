"""The network is causal, streams exactly, starts as the identity, and folds exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.blocks import FullBandBlock, ModulatedNorm
from sbm_cli.nn.configs import OSpatialNetConfig

END = torch.ones(1)


def spectra(batch: int = 2, frames: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state, noisy = torch.randn(2, batch, 33, frames, dtype=torch.complex64, generator=generator)
    return state, noisy


@pytest.mark.parametrize("embedding", [0, 16])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_untrained_network_returns_its_input(embedding: int, lookahead: int) -> None:
    network = OSpatialNet(
        OSpatialNetConfig(bins=33, channels=8, blocks=1, cross_groups=2, embedding=embedding, lookahead=lookahead)
    )
    state, noisy = spectra()
    estimate, _ = network(state, noisy, torch.rand(2))
    torch.testing.assert_close(estimate[..., lookahead:], noisy[..., : noisy.shape[2] - lookahead], rtol=0, atol=1e-6)


def test_future_does_not_move_the_past(network: OSpatialNet) -> None:
    state, noisy = spectra()
    before, _ = network(state, noisy, END)
    state, noisy = state.clone(), noisy.clone()
    state[..., 20:] += 1
    noisy[..., 20:] += 1
    after, _ = network(state, noisy, END)
    assert torch.equal(before[..., :20], after[..., :20])
    assert not torch.allclose(before[..., 20], after[..., 20])


def test_lookahead_is_used() -> None:
    """The estimate of frame k, which comes out at k + 2, changes with input frame k + 2."""
    from tests.nn.conftest import perturbed

    network = perturbed(OSpatialNetConfig(bins=33, channels=8, blocks=1, cross_groups=2, lookahead=2))
    _, noisy = spectra()
    before, _ = network(noisy, noisy, END)
    changed = noisy.clone()
    changed[..., 12] += 1
    after, _ = network(changed, changed, END)
    assert not torch.allclose(before[..., 12], after[..., 12])  # the estimate of frame 10


@pytest.mark.parametrize("cuts", [[0], [1], [2, 3, 4], [13], [29, 30]])
def test_blocks_with_carry_equal_the_whole(network: OSpatialNet, cuts: list[int]) -> None:
    state, noisy = spectra()
    whole, _ = network(state, noisy, END)
    carry, parts = None, []
    for s, n in zip(torch.tensor_split(state, cuts, 2), torch.tensor_split(noisy, cuts, 2), strict=True):
        if n.shape[2]:
            part, carry = network(s, n, END, carry)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-5)


def test_every_frame_of_history_is_carried(network: OSpatialNet) -> None:
    _, noisy = spectra()
    _, carry = network(noisy, noisy, END)
    fresh, _ = network(noisy, noisy, END)
    continued, _ = network(noisy, noisy, END, carry)
    assert not torch.allclose(fresh[..., :3], continued[..., :3])


@pytest.mark.parametrize("t", [1.0, 0.4])
def test_folding_changes_nothing_at_its_time(network: OSpatialNet, t: float) -> None:
    _, noisy = spectra()
    folded = network.fold(t)
    assert folded.embedding is None and folded.config.embedding == 0
    expected, _ = network(noisy, noisy, torch.full((1,), t))
    torch.testing.assert_close(folded(noisy, noisy, END)[0], expected, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in network.parameters())


def test_time_and_state_matter_before_folding(network: OSpatialNet) -> None:
    state, noisy = spectra()
    base, _ = network(noisy, noisy, END)
    assert not torch.allclose(network(noisy, noisy, 0.5 * END)[0], base)
    assert not torch.allclose(network(state, noisy, END)[0], base)


def test_a_time_for_each_item_equals_items_alone(network: OSpatialNet) -> None:
    state, noisy = spectra()
    t = torch.tensor([0.2, 0.9])
    together, _ = network(state, noisy, t)
    for i in range(2):
        alone, _ = network(state[i : i + 1], noisy[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_modulation_starts_as_a_plain_norm() -> None:
    norm = ModulatedNorm(8, 4)
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(norm(x, torch.randn(2, 4)), norm(x))


def test_full_band_block_starts_as_the_identity() -> None:
    block = FullBandBlock(bands=4, channels=8, squeezed=2, state=4, embedding=4)
    x = torch.randn(2, 6, 4, 8)
    assert torch.equal(block(x, torch.randn(2, 4))[0], x)


def test_gradients_reach_every_parameter() -> None:
    from tests.nn.conftest import perturbed

    network = perturbed(OSpatialNetConfig(bins=33, channels=8, blocks=2, cross_groups=2)).requires_grad_(True)
    state, noisy = spectra()
    network(state, noisy, torch.rand(2))[0].abs().square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_refuses_another_number_of_frequencies(network: OSpatialNet) -> None:
    noisy = torch.zeros(1, 30, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="expected 33 frequencies"):
        network(noisy, noisy, END)


@pytest.mark.parametrize(
    "wrong",
    [{"bins": 256}, {"cross_groups": 5}, {"kernel": (3, 15)}, {"embedding": 3}, {"lookahead": -1}, {"blocks": 0}],
)
def test_config_refuses_what_does_not_fit(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        OSpatialNetConfig(**wrong)  # type: ignore[arg-type]
