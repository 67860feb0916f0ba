"""Kinds of output, a filter along time, a network that is not told the time: each streams, folds and is causal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sbm_cli.config import build, dump
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OUTPUTS, OSpatialNetConfig
from tests.nn.conftest import perturbed

END = torch.ones(1)
SMALL = {"bins": 33, "channels": 8, "blocks": 1, "d_state": 4, "cross_groups": 2, "head": 4}


def spectra(frames: int = 16) -> tuple[Tensor, Tensor]:
    state, noisy = torch.randn(2, 2, 33, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    return state, noisy


@pytest.fixture(
    params=[
        *({"output": output, "embedding": 4, "lookahead": 2} for output in OUTPUTS),
        *({"output": output, "embedding": 0, "untimed": True} for output in OUTPUTS),
        *({"embedding": 4, "filter_frames": 5, "filter_bins": 9, "lookahead": late} for late in (0, 1, 2, 4)),
    ],
    ids=str,
)
def network(request: pytest.FixtureRequest) -> OSpatialNet:
    return perturbed(OSpatialNetConfig(**SMALL, **request.param))


def test_blocks_with_carry_equal_the_whole(network: OSpatialNet) -> None:
    state, noisy = spectra()
    whole, _ = network(state, noisy, END)
    first, carry = network(state[..., :5], noisy[..., :5], END)
    second, _ = network(state[..., 5:], noisy[..., 5:], END, carry)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=0, atol=1e-5)


def test_future_does_not_move_the_past(network: OSpatialNet) -> None:
    state, noisy = spectra()
    before, _ = network(state, noisy, END)
    state, noisy = state.clone(), noisy.clone()
    state[..., 10:] += 1
    noisy[..., 10:] += 1
    after, _ = network(state, noisy, END)
    assert torch.equal(before[..., :10], after[..., :10])
    assert not torch.allclose(before[..., 10], after[..., 10])


def test_folding_changes_nothing_at_its_time(network: OSpatialNet) -> None:
    _, noisy = spectra()
    folded = network.fold()
    assert not folded.config.sees_state and folded.fold() is folded
    torch.testing.assert_close(folded(noisy, noisy, END)[0], network(noisy, noisy, END)[0], rtol=0, atol=1e-5)


def test_the_state_matters(network: OSpatialNet) -> None:
    state, noisy = spectra()
    assert not torch.allclose(network(state, noisy, END)[0], network(noisy, noisy, END)[0])


def test_an_untimed_network_does_not_hear_the_time() -> None:
    network = perturbed(OSpatialNetConfig(**SMALL, embedding=0, untimed=True))
    state, noisy = spectra()
    assert torch.equal(network(state, noisy, 0.3 * END)[0], network(state, noisy, END)[0])


@pytest.mark.parametrize(("output", "gain"), [("mask+residual", 1.0), ("mask", math.tanh(1)), ("direct", 0.0)])
def test_untrained_outputs(output: str, gain: float) -> None:
    state, noisy = spectra()
    estimate, _ = OSpatialNet(OSpatialNetConfig(**SMALL, output=output))(state, noisy, END)
    torch.testing.assert_close(estimate, gain * noisy, rtol=0, atol=1e-5)


def test_a_mask_never_amplifies_and_learns_from_zero() -> None:
    network = perturbed(OSpatialNetConfig(**SMALL, output="mask")).requires_grad_()
    state, noisy = spectra()
    assert network.head.bias is not None
    network.head.bias.data[:] = 50.0
    assert (network(state, noisy, END)[0].abs() <= noisy.abs() * (1 + 1e-5)).all()
    network.head.weight.data.zero_()
    network.head.bias.data.zero_()
    estimate, _ = network(state, noisy, END)
    (estimate - noisy).abs().square().mean().backward()
    gradient = network.head.bias.grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().max() > 0.1


def test_configs_from_before_these_options_are_read_unchanged() -> None:
    values = {name: value for name, value in dump(OSpatialNetConfig()).items() if name not in ("output", "untimed")}
    config = build(OSpatialNetConfig, values, "old")
    assert (config.output, config.untimed, config.sees_state) == ("mask+residual", False, True)


def test_config_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="output is one of mask"):
        OSpatialNetConfig(output="masks")
    with pytest.raises(ValueError, match="set it to 0"):
        OSpatialNetConfig(untimed=True)


def test_the_filter_is_centred_as_far_as_the_look_ahead_allows() -> None:
    """With taps of 1 and no mask, the estimate is the sum of the frames around it."""
    for lookahead, around in ((0, range(-4, 1)), (1, range(-3, 2)), (3, range(-2, 3))):
        config = OSpatialNetConfig(**SMALL, output="direct", filter_frames=5, filter_bins=33, lookahead=lookahead)
        network = OSpatialNet(config)
        assert network.filter is not None
        network.skip.bias.data.fill_(40.0)  # SiLU gives it back
        network.filter.weight.data[::2, 0, 0, 1] = 1 / 40  # real parts, from the first of the channels alone
        _, noisy = spectra()
        estimate, _ = network(noisy, noisy, END)
        taps = estimate[0, 3, lookahead + 4] / sum(noisy[0, 3, 4 + k] for k in around)
        assert abs(taps - 1) < 0.1


def test_one_network_keeps_the_room_or_not() -> None:
    network = perturbed(OSpatialNetConfig(**SMALL, embedding=4, keep_room=True))
    _, noisy = spectra()
    dry, kept = (network(noisy, noisy, END, None, torch.full((2,), room))[0] for room in (0.0, 1.0))
    torch.testing.assert_close(dry, network(noisy, noisy, END)[0], rtol=0, atol=1e-5)
    assert not torch.allclose(dry, kept)
    for room, expected in ((0.0, dry), (1.0, kept)):
        folded = network.fold(room=room)
        assert not folded.config.keep_room
        torch.testing.assert_close(folded(noisy, noisy, END)[0], expected, rtol=0, atol=1e-5)
    mixed = network(noisy, noisy, END, None, torch.tensor([0.0, 1.0]))[0]  # items of a batch ask for different things
    torch.testing.assert_close(mixed, torch.stack([dry[0], kept[1]]), rtol=0, atol=1e-5)


def test_only_who_was_trained_for_it_keeps_the_room() -> None:
    _, noisy = spectra()
    with pytest.raises(ValueError, match="not trained to keep"):
        perturbed(OSpatialNetConfig(**SMALL, embedding=4))(noisy, noisy, END, None, torch.ones(2))
    with pytest.raises(ValueError, match="need a time embedding"):
        OSpatialNetConfig(**SMALL, embedding=0, keep_room=True)


def test_a_network_that_jumps_is_told_where_to() -> None:
    network = perturbed(OSpatialNetConfig(**SMALL, embedding=4, jumps=True))
    state, noisy = spectra()
    near, far = (network(state, noisy, 0.8 * END, to=to * END)[0] for to in (0.5, 0.0))
    assert not torch.allclose(near, far)
    torch.testing.assert_close(network(state, noisy, 0.8 * END)[0], far, rtol=0, atol=1e-6)
    folded = network.fold()
    assert not folded.config.jumps
    torch.testing.assert_close(folded(noisy, noisy, END)[0], network(noisy, noisy, END)[0], rtol=0, atol=1e-5)


def test_only_who_was_trained_for_it_jumps() -> None:
    _, noisy = spectra()
    with pytest.raises(ValueError, match="not trained to jump"):
        perturbed(OSpatialNetConfig(**SMALL, embedding=4))(noisy, noisy, END, to=0.5 * END)
    with pytest.raises(ValueError, match="need a time embedding"):
        OSpatialNetConfig(**SMALL, embedding=0, jumps=True)
