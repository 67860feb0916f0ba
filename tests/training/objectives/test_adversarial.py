"""The adversarial objective: who learns from whom, how the two gradients are weighed, and what telling apart takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sbm_cli.training.config import OptimizerConfig, TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.objectives.adversarial import DISCRIMINATOR, Adversarial, Discriminator
from sbm_cli.training.objectives.bridge import Bridge
from sbm_cli.training.objectives.objective import STUDENT, Batch
from sbm_cli.training.optimizer import Optimizer

SMALL = Adversarial(windows=(128, 256), channels=4, seconds=0.2, ramp=0)


@pytest.fixture
def adversarial(recipe: TrainConfig) -> TrainConfig:
    return replace(recipe, objective=SMALL)


def batch(items: int = 3) -> Batch:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1))
    return Batch(noisy, clean, 3, torch.arange(items))


def part_of(of: Batch, rows: slice) -> Batch:
    return Batch(of.noisy[rows], of.clean[rows], of.step, of.items[rows])


def networks(config: TrainConfig) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    student = config.model.network.build()
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return {STUDENT: student, DISCRIMINATOR: config.objective.learners(config, student)[DISCRIMINATOR].network}


def gradient(config: TrainConfig, of: Batch, made: dict[str, torch.nn.Module]) -> Tensor:
    loss = config.objective.loss(config, of, STUDENT, made)
    return torch.cat([x.flatten() for x in torch.autograd.grad(loss, list(made[STUDENT].parameters()))])


def test_the_gradient_of_the_recipes_loss_and_as_much_again(adversarial: TrainConfig) -> None:
    """Seen at the estimate, where the two are weighed: the output layer's bias of one item is their sum along time."""
    made = networks(adversarial)
    values = [x.loss(adversarial, batch(), STUDENT, made) for x in (SMALL, Bridge())]
    torch.testing.assert_close(*values)  # the loss that is shown stays the recipe's
    plain = gradient(replace(adversarial, objective=Bridge()), batch(), made)
    torch.testing.assert_close(
        gradient(replace(adversarial, objective=replace(SMALL, weight=0.0)), batch(), made), plain
    )
    moved = [gradient(replace(adversarial, objective=replace(SMALL, weight=w)), batch(), made) - plain for w in (1, 3)]
    assert moved[0].norm() > 0.01 * plain.norm()
    torch.testing.assert_close(moved[1], 3 * moved[0], rtol=1e-3, atol=1e-3 * float(moved[0].abs().max()))


def test_the_weight_rises_with_the_steps(adversarial: TrainConfig) -> None:
    made, plain = networks(adversarial), replace(adversarial, objective=Bridge())
    rising = replace(adversarial, objective=replace(SMALL, ramp=6))
    whole, half = (gradient(x, batch(), made) - gradient(plain, batch(), made) for x in (adversarial, rising))
    torch.testing.assert_close(half, 0.5 * whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_items_are_weighed_apart(adversarial: TrainConfig) -> None:
    """So how many are computed at once changes nothing."""
    made = networks(adversarial)
    parts = [gradient(adversarial, part_of(batch(4), slice(i, i + 2)), made) for i in (0, 2)]
    whole = gradient(adversarial, batch(4), made)
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


@pytest.mark.parametrize("learner", [STUDENT, DISCRIMINATOR])
def test_nobody_else_takes_a_gradient(adversarial: TrainConfig, learner: str) -> None:
    made = networks(adversarial)
    loss = adversarial.objective.loss(adversarial, batch(), learner, made)
    loss.backward(inputs=list(made[learner].parameters()))  # as the loop does
    for name, network in made.items():
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]
        assert sum(reached) > 0.8 * len(reached) if name == learner else not any(reached)


def test_discriminators_learn_to_rank(adversarial: TrainConfig) -> None:
    """A student of random weights beside clean speech: the higher verdict goes to the clean one."""
    made, of = networks(adversarial), batch(4)
    optimizer = Optimizer(made[DISCRIMINATOR], OptimizerConfig(rate=3e-3, warmup=0))
    losses = []
    for _ in range(30):
        loss = adversarial.objective.loss(adversarial, of, DISCRIMINATOR, made)
        loss.backward(inputs=list(made[DISCRIMINATOR].parameters()))
        losses.append(float(loss.detach()))
        optimizer.step(0, 100)
    assert losses[-1] < 0.3 < 0.6 < losses[0]


def test_each_window_has_layers_and_a_verdict_of_its_own() -> None:
    found = Discriminator((128, 512), 4)(torch.randn(2, 3200))
    assert [len(outputs) for outputs in found] == [5, 5]
    assert [outputs[-1].shape[:2] for outputs in found] == [(2, 1), (2, 1)]
    assert found[0][-1].shape[2] > found[1][-1].shape[2]


def test_it_is_resumed_bit_for_bit(adversarial: TrainConfig, tmp_path: Path) -> None:
    train(adversarial, tmp_path / "whole", processes=1)
    train(adversarial, tmp_path / "parts", max_minutes=0, processes=1)
    train(adversarial, tmp_path / "parts", resume=True, processes=1)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for of in (lambda found: found["tensors"], lambda found: found["learners"][DISCRIMINATOR]):
        assert all(torch.equal(tensor, of(parts)[name]) for name, tensor in of(whole).items())


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"weight": -1}, {"every": 0}, {"rate": 0}, {"windows": (510,)}, {"windows": ()}, {"seconds": 1e-9}):
        with pytest.raises(ValueError, match="got"):
            Adversarial(**wrong)  # type: ignore[arg-type]
