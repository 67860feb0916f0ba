"""SBCTM: times on the grid, the teacher's walk, two ways that must end alike, and the weight between both losses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sbm_cli.bridge.sampler import grid, ode_step, sample
from sbm_cli.config import build, dump
from sbm_cli.errors import ConfigError
from sbm_cli.model import Model
from sbm_cli.nn.network import Network
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.objectives.examples import predict, to_spectra
from sbm_cli.training.objectives.objective import AVERAGE, STUDENT, Batch
from sbm_cli.training.objectives.sbctm import LARGEST_WEIGHT, SBCTM, TEACHER, balance, walk
from sbm_cli.training.optimizer import Optimizer


@pytest.fixture
def sbctm(recipe: TrainConfig) -> TrainConfig:
    model = replace(recipe.model, network=replace(recipe.model.network, jumps=True))
    return replace(recipe, model=model, objective=SBCTM(teacher_steps=3))


def batch(items: int = 3, step: int = 3) -> Batch:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1))
    return Batch(noisy, clean, step, torch.arange(items))


def moved(config: TrainConfig) -> Network:
    torch.manual_seed(0)
    network = config.model.network.build()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def test_times_lie_on_the_grid_in_their_order(sbctm: TrainConfig) -> None:
    objective, last = SBCTM(), 39
    points = (1 + torch.arange(40) / last * (0.03 ** (1 / 7) - 1)) ** 7
    counts = torch.zeros(40)
    for step in range(300):
        crossed, *times = objective.draw_times(sbctm, batch(4, step))
        counts[crossed] += 1
        t, u, s = ((time[:, None] - points).abs().argmin(1) for time in times)
        for time, point in zip(times, (t, u, s), strict=True):
            torch.testing.assert_close(time, points[point])
        assert (u == t + crossed).all() and (s >= u).all()
    assert counts[0] == 0
    # In proportion to k: 2/3 of 39 intervals in the mean.
    assert float((counts * torch.arange(40)).sum() / counts.sum()) == pytest.approx(79 / 3, rel=0.05)


def test_an_item_has_its_times_whatever_it_stands_beside(sbctm: TrainConfig) -> None:
    objective, whole = SBCTM(), batch(5)
    alone = replace(whole, items=torch.tensor([4]))
    steps, *times = objective.draw_times(sbctm, whole)
    other, *single = objective.draw_times(sbctm, alone)
    assert steps == other and [time[4] for time in times] == [time[0] for time in single]
    assert objective.draw_denoising_time(sbctm, whole)[4] == objective.draw_denoising_time(sbctm, alone)[0]


def test_denoising_is_trained_on_the_whole_interval(sbctm: TrainConfig) -> None:
    times = SBCTM().draw_denoising_time(sbctm, replace(batch(1), items=torch.arange(4000)))
    assert 0.03 <= float(times.min()) < 0.04 and 0.99 < float(times.max()) <= 1
    early = (1 + 0.7 * (0.03 ** (1 / 7) - 1)) ** 7  # half of them are uniform, the other half is above this
    assert float((times < early).float().mean()) == pytest.approx(0.5 * (early - 0.03) / 0.97, abs=0.01)


def test_the_teacher_walks_along_the_ode(sbctm: TrainConfig) -> None:
    """From the noisy end through the sampler's grid it arrives where the sampler does, and one step is `ode_step`."""
    teacher, spectra = moved(sbctm), to_spectra(sbctm, batch())
    noisy, schedule = spectra.noisy, sbctm.model.schedule
    with torch.no_grad():
        times = torch.from_numpy(grid(4)).float()[:, None].expand(-1, 3)
        expected = sample(partial(predict, sbctm, teacher), schedule, noisy, 4)
        torch.testing.assert_close(walk(sbctm, teacher, spectra, noisy, times), expected)
        state, t, u = 0.5 * noisy, torch.tensor([1.0, 0.6, 0.3]), torch.tensor([0.5, 0.4, 0.1])
        one = ode_step(schedule, state, predict(sbctm, teacher, state, noisy, t), noisy, t, u)
        torch.testing.assert_close(walk(sbctm, teacher, spectra, state, torch.stack([t, u])), one)


def test_the_weight_makes_both_gradients_equally_long() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = (weight * torch.tensor([3.0, 4.0])).sum(), (weight * torch.tensor([0.0, 0.5])).sum()
    found = balance(*losses, weight)
    assert float(found) == pytest.approx(10) and not found.requires_grad
    gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(found * gradients[1].norm(), gradients[0].norm())
    assert float(balance(losses[0], 1e-6 * losses[1], weight)) == LARGEST_WEIGHT


class Knows(torch.nn.Module):
    """Gives one estimate whatever it is shown, and writes down how it was asked."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean, self.asked = clean, []

    def forward(self, state: Tensor, noisy: Tensor, t: Tensor, carry: None, room: None, to: Tensor | None) -> tuple:
        self.asked.append((t, to))
        return self.clean, None


def test_the_networks_are_asked_for_the_jumps_that_are_theirs(sbctm: TrainConfig) -> None:
    of, student = batch(), moved(sbctm)
    clean = to_spectra(sbctm, of).clean
    average, teacher = Knows(clean), Knows(clean)
    asked = []
    student.register_forward_pre_hook(lambda _, inputs: asked.append((inputs[2], inputs[5])))
    sbctm.objective.loss(sbctm, of, STUDENT, {STUDENT: student, AVERAGE: average, TEACHER: teacher})
    crossed, t, u, s = SBCTM().draw_times(sbctm, of)
    assert len(teacher.asked) == min(3, crossed) and all(to is None for _, to in teacher.asked)
    assert torch.equal(teacher.asked[0][0], t)
    end, denoising = torch.zeros(3), SBCTM().draw_denoising_time(sbctm, of)
    expected = {"average": [(u, s), (s, end), (s, end)], "student": [(t, s), (denoising, denoising)]}
    for found, pairs in ((average.asked, expected["average"]), (asked, expected["student"])):
        for one, other in zip(found, pairs, strict=True):
            assert all(map(torch.equal, one, other))


def test_the_loss_falls(sbctm: TrainConfig) -> None:
    student = moved(sbctm)
    made = {STUDENT: student, TEACHER: sbctm.objective.learners(sbctm, student)[TEACHER].network}
    optimizer = Optimizer(student, replace(sbctm.optimizer, warmup=0, rate=2e-3, ema=0.5))
    made[AVERAGE] = optimizer.averaged()
    losses = []
    for step in range(8):
        loss = sbctm.objective.loss(sbctm, batch(), STUDENT, made)  # the same times in each step
        loss.backward(inputs=list(student.parameters()))
        optimizer.step(step, 100)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_it_wants_a_trained_model_and_a_network_that_jumps(sbctm: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with a trained model") as caught:
        train(sbctm, tmp_path, processes=1)
    assert caught.value.hint.startswith("First train the bridge")
    values = dump(sbctm)
    with pytest.raises(ConfigError, match="needs a network that jumps"):
        build(
            TrainConfig,
            {**values, "model": dump(replace(sbctm.model, network=replace(sbctm.model.network, jumps=False)))},
            "recipe",
        )


def test_the_teacher_may_be_another_model(recipe: TrainConfig, sbctm: TrainConfig, tmp_path: Path) -> None:
    model = Model(moved(recipe), replace(recipe.model, name="teacher"))
    model.save(tmp_path / "teacher.safetensors")
    named = replace(sbctm, objective=SBCTM(teacher=str(tmp_path / "teacher.safetensors")))
    assert not named.objective.wants_start
    teacher = named.objective.learners(named, moved(named))[TEACHER]
    assert teacher.optimizer is None
    expected = Model.load(tmp_path / "teacher.safetensors").network.state_dict()
    assert torch.equal(teacher.network.state_dict()["encoder.weight"], expected["encoder.weight"])
    other = replace(named, model=replace(named.model, compression=replace(named.model.compression, exponent=0.7)))
    with pytest.raises(ConfigError, match="hears or walks otherwise"):
        other.objective.learners(other, moved(other))


def test_the_teacher_may_move_but_not_change(recipe: TrainConfig, sbctm: TrainConfig, tmp_path: Path) -> None:
    teacher = Model(moved(recipe), replace(recipe.model, name="teacher"))
    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
        if folder == "other":
            teacher.network.decoder.bias.data += 1
        teacher.save(tmp_path / folder / "teacher.safetensors")

    def taught(folder: str, steps: int) -> TrainConfig:
        path = str(tmp_path / folder / "teacher.safetensors")
        return replace(sbctm, steps=steps, objective=SBCTM(teacher=path, teacher_steps=1))

    train(taught("here", 1), tmp_path / "out", processes=1)
    train(taught("there", 2), tmp_path / "out", processes=1, resume=True)
    with pytest.raises(ConfigError, match="objective.teacher: is not the model that the training in"):
        train(taught("other", 3), tmp_path / "out", processes=1, resume=True)
