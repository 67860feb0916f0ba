"""The flat optimiser is AdamW with clipping and a moving average; rates and decays follow their schedules."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sbm_cli.training.config import OptimizerConfig
from sbm_cli.training.optimizer import ALIGNMENT, Optimizer, ema_decay, learning_rate

CONFIG = OptimizerConfig(rate=1e-2, weight_decay=0.1, clip=0.5, warmup=3)
STEPS = 12


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3, bias=False))
    return made.eval()  # its statistics are buffers that stay


def gradients(module: nn.Module, step: int) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    (module(x).square().mean() * (10.0 if step % 2 else 0.01)).backward()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_is_torch_s(scaled: bool) -> None:
    ours, theirs = network(), network()
    flat = Optimizer(ours, CONFIG, scaled)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1]},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=CONFIG.betas, weight_decay=CONFIG.weight_decay)
    average = copy.deepcopy(theirs.state_dict())
    for step in range(STEPS):
        gradients(ours, step)
        flat.gradient.mul_(flat.scale)
        flat.loss += step
        gradients(theirs, step)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), CONFIG.clip)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(CONFIG, step, STEPS)
        adamw.step()
        adamw.zero_grad()
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - ema_decay(CONFIG.ema, step))
        loss, found, finite, in_row = flat.step(step, STEPS).tolist()
        assert (loss, finite, in_row) == (step, 1, 0) and found == pytest.approx(norm.item(), rel=1e-5)
        assert not flat.sums.any()
    tensors = flat.tensors()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(tensors[f"model.{name}"], tensor, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tensors[f"ema.{name}"], average[name], rtol=1e-4, atol=1e-6)
    assert (flat.scale == 1) == (not scaled)


def test_restoring_gives_the_same_steps() -> None:
    first, second = network(), network()
    one, two = Optimizer(first, CONFIG), Optimizer(second, CONFIG)
    for step in range(4):
        gradients(first, step)
        one.step(step, STEPS)
    two.restore({name: tensor.clone() for name, tensor in one.tensors().items()})
    for step in range(4, 8):
        for module, optimizer in ((first, one), (second, two)):
            gradients(module, step)
            optimizer.step(step, STEPS)
    left, right = one.tensors(), two.tensors()
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises((KeyError, RuntimeError)):
        two.restore({name: tensor for name, tensor in left.items() if "0.weight" not in name})


def test_parameters_are_aligned_and_swapping_twice_changes_nothing() -> None:
    module = network()
    optimizer = Optimizer(module, CONFIG)
    gradients(module, 1)
    optimizer.step(0, STEPS)
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    optimizer.swap()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[f"ema.{name}"]) and not torch.equal(parameter, before[f"model.{name}"])
        assert parameter.storage_offset() % ALIGNMENT == 0
    optimizer.swap()
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer.tensors().items())


def test_a_scale_that_is_too_large_falls_until_steps_are_made() -> None:
    module = network()
    optimizer = Optimizer(module, CONFIG, scaled=True)
    optimizer.scale.fill_(2.0**127)  # what is multiplied with it leaves float32
    rows = []
    while not rows or rows[-1]:
        gradients(module, 1)
        optimizer.gradient.mul_(optimizer.scale)
        rows.append(optimizer.step(0, STEPS)[3].item())
    assert rows[:-1] == list(range(1, len(rows))) and len(rows) > 1


@given(st.integers(0, 100000))
def test_the_average_is_short_at_first(step: int) -> None:
    assert ema_decay(0.999, step) == min(0.999, (1 + step) / (10 + step))


def test_learning_rate_warms_up_stays_and_falls() -> None:
    config = OptimizerConfig(rate=2e-3, final_rate=1e-5, warmup=200, decay=0.25)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and rates[99] == pytest.approx(1e-3)
    assert set(rates[200:750]) == {2e-3}
    assert rates[750:] == sorted(rates[750:], reverse=True) and rates[999] == pytest.approx(1e-5, rel=0.2)
    assert rates[:700] == [learning_rate(config, step, 2000) for step in range(700)]  # a longer run begins alike
