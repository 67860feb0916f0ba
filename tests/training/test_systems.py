"""Each system of the paper learns on a toy corpus, goes on bit for bit after a stop, and enhances as it streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbm_cli.bridge.schedule import Flow
from sbm_cli.data.sources import open_sources
from sbm_cli.enhancer import Enhancer
from sbm_cli.model import Model
from sbm_cli.nn.configs import NCSNppConfig
from sbm_cli.options import Options
from sbm_cli.training.config import TimeConfig, TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.objectives.flow import FlowMatching
from sbm_cli.training.objectives.sbctm import SBCTM
from sbm_cli.training.objectives.ufogen import UFOGen
from sbm_cli.training.validation import validate


def system(recipe: TrainConfig, name: str) -> TrainConfig:
    """Return the recipe with what makes it a system of `recipes/systems`."""
    toy, at_end = recipe.model.network, TimeConfig(end_mass=1.0, final_end_mass=1.0)
    model: dict[str, Any] = {
        "sb-ncsnpp": {"network": NCSNppConfig(channels=(4, 4, 4, 4, 4), blocks=1)},
        "sbctm": {"network": replace(toy, jumps=True)},
        "flow": {"schedule": Flow(0.3)},
        "mapping": {"network": replace(toy, embedding=0)},
        "lstm": {"network": replace(toy, sequence="lstm")},
        "attention": {"network": replace(toy, sequence="attention")},
    }.get(name, {})
    rest: dict[str, Any] = {
        "sbctm": {"objective": SBCTM(teacher_steps=2)},
        "sb-ufogen": {"objective": UFOGen(rate=1e-3)},
        "flow": {"objective": FlowMatching()},
        "mapping": {"time": at_end},
    }.get(name, {})
    return replace(recipe, model=replace(recipe.model, name=name, **model), **rest)


@pytest.mark.parametrize("name", ["sb-ncsnpp", "sbctm", "sb-ufogen", "flow", "mapping", "lstm", "attention"])
def test_a_system_learns_goes_on_and_streams(name: str, recipe: TrainConfig, tmp_path: Path) -> None:
    config, start = system(recipe, name), None
    if config.objective.wants_start:
        torch.manual_seed(0)
        start = tmp_path / "start.safetensors"
        bridge = recipe.model.network.build()
        for parameter in bridge.parameters():
            parameter.data += 0.03 * torch.randn_like(parameter)
        Model(bridge, recipe.model).save(start)
    train(config, tmp_path / "whole", processes=1, start=start)
    train(config, tmp_path / "parts", max_minutes=0, processes=1, start=start)
    train(config, tmp_path / "parts", resume=True, processes=1)
    whole, parts = (networks(tmp_path / part / "last.pt") for part in ("whole", "parts"))
    for of, tensors in whole.items():
        assert all(torch.equal(tensor, parts[of][key]) for key, tensor in tensors.items())

    trained = tmp_path / "whole" / f"{name}.safetensors"
    if start is None:
        source, *_ = open_sources(config.data, config.mix, torch.device("cpu")).valid.values()
        torch.manual_seed(config.seed)
        pair = config.model.network.build(), Model.load(trained).network
        before, after = (validate(config, network, source, torch.device("cpu"), 4).score.loss for network in pair)
        assert after < before

    enhancer = Enhancer.load(trained, "cpu")
    noisy = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32)
    steps = [Options(warm_up=True)] if name == "mapping" else [Options(warm_up=True), Options(steps=2, warm_up=True)]
    for options in [*steps, Options(steps=3, sampler="jump", warm_up=True)] if name == "sbctm" else steps:
        stream = enhancer.stream(16000, 1, options)
        blocks = [stream.feed(noisy[k : k + 1234]) for k in range(0, noisy.size, 1234)]
        streamed = np.concatenate([*blocks, stream.flush()])
        np.testing.assert_allclose(streamed, enhancer.enhance(noisy, 16000, options), atol=1e-5)


def networks(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return all that a checkpoint keeps of the student, of those that learn beside it, and of those that do not."""
    found = torch.load(checkpoint, weights_only=True)
    return {"student": found["tensors"], **found["learners"], **found["frozen"]}
