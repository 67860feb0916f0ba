"""SB-UFOGen: what the discriminator is shown, how it begins, and which gradient reaches whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sbm_cli.data.random import SECOND_NOISE, THIRD_NOISE
from sbm_cli.nn.configs import NCSNppConfig, NetworkConfig
from sbm_cli.nn.network import Network
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.objectives.bridge import Bridge
from sbm_cli.training.objectives.examples import draw_state
from sbm_cli.training.objectives.objective import STUDENT, Batch
from sbm_cli.training.objectives.ufogen import DISCRIMINATOR, Discriminator, UFOGen


@pytest.fixture(params=["ospatialnet", "ncsnpp"])
def ufogen(request: pytest.FixtureRequest, recipe: TrainConfig) -> TrainConfig:
    network: NetworkConfig = recipe.model.network
    if request.param == "ncsnpp":
        network = NCSNppConfig(channels=(8, 8), blocks=1)
    return replace(recipe, model=replace(recipe.model, network=network), objective=UFOGen())


def batch(items: int = 3) -> Batch:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1))
    return Batch(noisy, clean, 3, torch.arange(items))


def networks(config: TrainConfig) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    student = config.model.network.build()
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    (found,) = config.objective.learners(config, student).items()
    assert found[0] == DISCRIMINATOR and found[1].every == 2
    return {STUDENT: student, DISCRIMINATOR: found[1].network}


def test_the_discriminators_loss_does_not_reach_the_student(ufogen: TrainConfig) -> None:
    made = networks(ufogen)
    ufogen.objective.loss(ufogen, batch(), DISCRIMINATOR, made).backward()
    assert all(parameter.grad is None for parameter in made[STUDENT].parameters())
    discriminator = made[DISCRIMINATOR]
    assert isinstance(discriminator, Discriminator)
    unused = {id(parameter) for parameter in discriminator.network.output_layer.parameters()}
    reached = [
        p.grad is not None and bool(p.grad.abs().sum() > 0) for p in discriminator.parameters() if id(p) not in unused
    ]
    assert sum(reached) > 0.8 * len(reached)


def test_the_student_learns_to_pass_and_moves_nobody_else(ufogen: TrainConfig) -> None:
    made = networks(ufogen)
    student = made[STUDENT]
    assert isinstance(student, Network)
    losses = [UFOGen(adversarial=weight).loss(ufogen, batch(), STUDENT, made) for weight in (0.0, 1.0)]
    bridge = Bridge().loss(ufogen, batch(), STUDENT, made)
    plain, adversarial, expected = (
        torch.autograd.grad(loss, student.output_layer.weight, retain_graph=True)[0] for loss in (*losses, bridge)
    )
    torch.testing.assert_close(plain, expected)
    assert not torch.allclose(adversarial, expected)
    losses[1].backward(inputs=list(student.parameters()))  # as the loop does
    assert all(parameter.grad is None for parameter in made[DISCRIMINATOR].parameters())


def test_what_is_noised_anew_has_the_moments_of_the_bridge(recipe: TrainConfig) -> None:
    items, shape = 50, (50, 20, 20)
    clean, noisy = torch.full(shape, 1.0 - 1.0j), torch.full(shape, -0.5 + 2.0j)
    of = Batch(torch.zeros(items, 1), torch.zeros(items, 1), 0, torch.arange(items))
    states = []
    for t in (0.1, 0.5, 0.75):
        for noise in (SECOND_NOISE, THIRD_NOISE):
            states.append(draw_state(recipe, of, clean, noisy, torch.full((items,), t), noise))
            clean_weight, noisy_weight, std = (float(w) for w in recipe.model.schedule.marginal(torch.tensor(t)))
            away = states[-1] - clean_weight * clean - noisy_weight * noisy
            assert float(away.mean().abs()) < 5 * std / states[-1].numel() ** 0.5
            assert float(away.abs().square().mean().sqrt()) == pytest.approx(std, rel=0.02)
    one, other = (state - state.mean() for state in states[-2:])  # noise of its own for each
    assert float((one * other.conj()).mean().abs() / one.abs().square().mean()) < 0.05


def test_the_discriminator_begins_as_the_student(ufogen: TrainConfig) -> None:
    made = networks(ufogen)
    student, discriminator = made[STUDENT], made[DISCRIMINATOR]
    assert isinstance(discriminator, Discriminator)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, discriminator.network.state_dict()[name])
    noisy, t = torch.randn(2, 257, 8, dtype=torch.complex64), torch.tensor([0.3, 0.6])
    logits = discriminator(ufogen, noisy, noisy, t, None)
    assert logits.shape == (2,)
    single = [discriminator(ufogen, noisy[[i]], noisy[[i]], t[[i]], None) for i in range(2)]
    torch.testing.assert_close(logits, torch.cat(single))


def test_the_discriminator_moves_in_every_second_step(recipe: TrainConfig, tmp_path: Path) -> None:
    train(replace(recipe, objective=UFOGen(), steps=5), tmp_path, processes=1)
    found = torch.load(tmp_path / "last.pt", weights_only=True)
    assert found["learners"][DISCRIMINATOR]["step.score.weight"] == 3
    assert found["tensors"]["step.encoder.weight"] == 5


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\)"):
        UFOGen(delta=1.5)
