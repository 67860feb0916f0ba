"""What walks along time is causal, carries on exactly however it is cut, and is as large as the Mamba beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.nn.sequence import SEQUENCES, Attention

every = pytest.mark.parametrize("kind", SEQUENCES)


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SEQUENCES[kind](16, 4).eval().requires_grad_(False)


def sound(frames: int = 200) -> torch.Tensor:
    return torch.randn(2, frames, 3, 16, generator=torch.Generator().manual_seed(1))


@every
@pytest.mark.parametrize("cuts", [[200], [1] * 5 + [195], [130, 70], [127, 1, 72]])
def test_cuts_change_nothing(kind: str, cuts: list[int]) -> None:
    """A context of 128 frames is exceeded on the way."""
    module, x = made(kind), sound()
    whole, _ = module(x)
    carry, parts = None, []
    for block in x.split(cuts, 1):
        y, carry = module(block, carry)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    assert whole.shape == x.shape and all(part.shape[:2] == (2, 3) for part in carry)


@every
def test_the_future_does_not_move_the_past(kind: str) -> None:
    module, x = made(kind), sound()
    changed = x.clone()
    changed[:, 150:] += 1
    before, after = module(x)[0], module(changed)[0]
    torch.testing.assert_close(before[:, :150], after[:, :150], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 150:], after[:, 150:])


@every
def test_bands_and_items_are_apart(kind: str) -> None:
    module, x = made(kind), sound(20)
    torch.testing.assert_close(module(x[1:, :, 2:])[0], module(x)[0][1:, :, 2:], rtol=0, atol=1e-6)


@every
@pytest.mark.parametrize(("channels", "state"), [(32, 16), (64, 16), (128, 16), (224, 16), (48, 8)])
def test_they_are_of_one_size(kind: str, channels: int, state: int) -> None:
    sizes = [sum(p.numel() for p in SEQUENCES[name](channels, state).parameters()) for name in (kind, "mamba")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)


def test_attention_sees_its_context_and_no_more() -> None:
    module = Attention(16, 4, context=10)
    x = sound(40).requires_grad_()
    module(x)[0][:, 30].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == list(range(21, 31))


@every
def test_in_the_network_each_folds_and_streams(kind: str) -> None:
    torch.manual_seed(0)
    network = OSpatialNetConfig(bins=33, channels=8, blocks=2, d_state=4, cross_groups=2, head=4, sequence=kind).build()
    for parameter in network.requires_grad_(False).parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    noisy, end = torch.randn(2, 33, 30, dtype=torch.complex64), torch.ones(1)
    whole, _ = network(noisy, noisy, end)
    folded = network.fold()
    first, carry = folded(noisy[..., :7], noisy[..., :7], end)
    second, _ = folded(noisy[..., 7:], noisy[..., 7:], end, carry)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=0, atol=1e-4)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="sequence is one of mamba, lstm, attention, got 'gru'"):
        OSpatialNetConfig(sequence="gru")
