"""An objective of one's own in one file: a second network with an optimizer of its own, and the moving average."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sbm_cli.config import build, dump
from sbm_cli.errors import ConfigError
from sbm_cli.nn.network import Network
from sbm_cli.training.config import OptimizerConfig, TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.objectives import OBJECTIVES
from sbm_cli.training.objectives.examples import predict
from sbm_cli.training.objectives.objective import AVERAGE, STUDENT, Batch, Learner, Objective


@dataclass(frozen=True)
class Toy(Objective):
    """The student wants its estimate to pass for clean before a critic, and to stay near its own moving average."""

    weight: float = 0.1
    rate: float = 1e-2  # of the critic
    wants_average: ClassVar[bool] = True

    def learners(self, config: TrainConfig, student: Network) -> Mapping[str, Learner]:
        critic = nn.Sequential(nn.Conv1d(config.model.network.bins, 4, 3), nn.SiLU(), nn.Conv1d(4, 1, 1))
        return {"critic": Learner(critic, OptimizerConfig(rate=self.rate, warmup=0))}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        y, level = config.model.to_network(batch.noisy)
        x0 = config.model.compress(config.model.stft.forward(batch.clean), level)
        end, critic = torch.ones(len(y)), networks["critic"]
        with torch.set_grad_enabled(learner == STUDENT):
            estimate = predict(config, networks[STUDENT], y, y, end)
        if learner == "critic":
            return (critic(x0.abs()) - 1).square().mean() + critic(estimate.abs()).square().mean()
        with torch.no_grad():
            settled = predict(config, networks[AVERAGE], y, y, end)
        fooled = (critic(estimate.abs()) - 1).square().mean()
        return (estimate - x0).abs().mean() + (estimate - settled).abs().mean() + self.weight * fooled


@pytest.fixture
def toy(recipe: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """The recipe with this objective, which is made one of those that a recipe can name."""
    monkeypatch.setitem(OBJECTIVES, "toy", Toy)
    values = dump(recipe)
    assert values["objective"] == {"kind": "bridge"}
    return build(TrainConfig, {**values, "objective": {"kind": "toy", "weight": 0.2}}, "recipe")


def test_it_trains_and_is_resumed_bit_for_bit(toy: TrainConfig, tmp_path: Path) -> None:
    train(toy, tmp_path / "whole", processes=1)
    for attempt in range(3):  # time is up at once
        train(toy, tmp_path / "parts", resume=attempt > 0, max_minutes=0, processes=1)
    early = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    train(toy, tmp_path / "parts", resume=True, processes=1)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for of in (lambda found: found["tensors"], lambda found: found["learners"]["critic"]):
        assert of(whole).keys() == of(parts).keys()
        assert all(torch.equal(tensor, of(parts)[name]) for name, tensor in of(whole).items())
        assert any(not torch.equal(tensor, of(early)[name]) for name, tensor in of(whole).items() if "model" in name)
    with open(tmp_path / "parts" / "train.csv", newline="") as file:
        assert all(float(row["critic_loss"]) > 0 for row in csv.DictReader(file))
    assert whole["learners"]["critic"]["step.0.weight"] == whole["tensors"]["step.encoder.weight"] == toy.steps


def test_a_learner_takes_the_gradient_of_its_own_loss_alone(toy: TrainConfig, tmp_path: Path) -> None:
    """Without the critic in its loss the student learns the same, whatever the critic learns."""
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        objective = Toy(weight=0.0, rate=rate)
        train(replace(toy, objective=objective), tmp_path / name, processes=1)
    slow, fast = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("slow", "fast"))
    assert all(torch.equal(tensor, fast["tensors"][name]) for name, tensor in slow["tensors"].items())
    name = "model.0.weight"
    assert not torch.equal(slow["learners"]["critic"][name], fast["learners"]["critic"][name])


def test_an_unknown_objective_is_refused(recipe: TrainConfig) -> None:
    with pytest.raises(
        ConfigError, match="objective: kind is one of bridge, adversarial, flow, sbctm, ufogen, got 'drift'"
    ):
        build(TrainConfig, {**dump(recipe), "objective": {"kind": "drift"}}, "recipe")
