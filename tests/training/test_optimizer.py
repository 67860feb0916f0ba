"""The flat optimiser is AdamW or Muon with clipping and a moving average; rates and decays follow their schedules."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.training.config import OptimizerConfig
from sbm_cli.training.muon import RMS, orthogonal
from sbm_cli.training.optimizer import ALIGNMENT, LEAST, Optimizer, ema_decay, learning_rate, matrices, named_in

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


def test_the_averaged_network_follows_the_average_and_parameters_are_aligned() -> None:
    module = network()
    optimizer = Optimizer(module, CONFIG)
    averaged = optimizer.averaged()
    for step in range(2):
        gradients(module, 1)
        optimizer.step(step, STEPS)
        tensors = optimizer.tensors()
        for name, parameter in averaged.named_parameters():
            assert torch.equal(parameter, tensors[f"ema.{name}"]) and not torch.equal(
                parameter, tensors[f"model.{name}"]
            )
            assert parameter.storage_offset() % ALIGNMENT == 0
    assert averaged[1].running_mean is module[1].running_mean  # type: ignore[index]


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


def test_muon_moves_matrices_as_torch_s_does() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with PyTorch 2.9")
    config = replace(CONFIG, method="muon")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 16), nn.Linear(16, 24), nn.Linear(24, 8))
    theirs = copy.deepcopy(ours)
    moved = [theirs[1].weight, theirs[2].weight]
    muon = torch.optim.Muon(moved, weight_decay=0.1, momentum=config.momentum, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs[0].weight], betas=config.betas, weight_decay=0.1)
    flat = Optimizer(ours, config)
    for step in range(STEPS):
        for module in (ours, theirs):
            gradients(module, step)
        nn.utils.clip_grad_norm_(theirs.parameters(), config.clip)
        for optimizer in (muon, adamw):
            optimizer.param_groups[0]["lr"] = learning_rate(config, step, STEPS)
            optimizer.step()
        theirs.zero_grad()
        flat.step(step, STEPS)
        for i, tolerance in ((0, 1e-5), (1, 2e-3), (2, 2e-3)):  # products in bfloat16 in batches and one by one
            torch.testing.assert_close(ours[i].weight, theirs[i].weight, rtol=0, atol=tolerance)
            with torch.no_grad():  # the biases' steps are AdamW's, tested above
                theirs[i].bias.copy_(ours[i].bias)
                theirs[i].weight.copy_(ours[i].weight)


def test_muon_leaves_matrices_alone_when_the_gradient_is_not_finite() -> None:
    torch.manual_seed(0)
    module = nn.Linear(16, 16)
    optimizer = Optimizer(module, replace(CONFIG, method="muon"))
    for step in range(3):
        module(torch.randn(4, 16)).square().mean().backward()
        optimizer.step(step, STEPS)
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items() if not name.startswith("ema")}
    optimizer.gradient.fill_(math.nan)
    assert optimizer.step(3, STEPS)[3] == 1
    assert all(torch.equal(optimizer.tensors()[name], tensor) for name, tensor in before.items())


@given(st.integers(0, 2**31), st.integers(LEAST, 40), st.integers(LEAST, 40))
def test_orthogonal_keeps_directions_and_evens_sizes(seed: int, rows: int, columns: int) -> None:
    x = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed))
    left, sizes, right = torch.linalg.svd(x, full_matrices=False)
    found = left.mT @ orthogonal(x) @ right.mT / (RMS * max(rows, columns) ** 0.5)
    found = torch.diagonal(found, dim1=-2, dim2=-1)
    assert found.max() < 1.3 and found[sizes > 0.1 * sizes[:, :1]].min() > 0.5


def test_modules_name_what_does_not_decay() -> None:
    made = OSpatialNet(OSpatialNetConfig(blocks=1))
    assert named_in(made, "no_decay") == {"narrow.0.mamba.A_log", "full.mamba.A_log"}
    assert {name for name, _ in made.embedding.named_parameters("embedding")} <= named_in(made, "no_muon")  # type: ignore[union-attr]


def test_matrices_are_all_but_small_ones_and_the_time_s() -> None:
    found = matrices(OSpatialNet(OSpatialNetConfig()))
    assert found["narrow.0.mamba.in_proj.weight"] == (1, 256, 64)
    assert found["cross.0.conv1.conv.weight"] == (8, 8, 40) and found["cross.0.full.weight"] == (8, 32, 32)
    assert not [name for name in found if any(word in name for word in ("A_log", "conv1d", "modulation", "head"))]
