"""Training: schedule of rate and time, bit-exact resume, several processes, and a loss that falls."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from sbm_cli import checkpoint
from sbm_cli.checkpoint import ModelConfig
from sbm_cli.errors import ConfigError
from sbm_cli.nn.network import NetworkConfig
from sbm_cli.training.config import DataConfig, OptimizerConfig, TimeConfig, TrainConfig, load_recipe, recipes_folder
from sbm_cli.training.loop import Progress, draw_time, learning_rate, train
from sbm_cli.training.mixing import MixConfig

TINY = NetworkConfig(channels=8, blocks=1, state=4, cross_groups=2, squeeze=2, fullband_squeeze=1, head=2, embedding=4)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Six short "utterances" of gated tones and two noises, four rooms, half-second segments."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for i in range(6):
        time = np.arange(24000) / 16000
        tone = np.sin(2 * np.pi * (150 + 30 * i) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        (folder / "speech").mkdir(exist_ok=True)
        soundfile.write(folder / "speech" / f"{i}.wav", 0.2 * tone, 16000)
    for i in range(3):
        (folder / "noise").mkdir(exist_ok=True)
        soundfile.write(folder / "noise" / f"{i}.wav", 0.05 * rng.standard_normal(32000), 16000)
    data = DataConfig(
        speech=(str(folder / "speech"),), noise=(str(folder / "noise"),), rooms=4, cache=str(folder / "cache")
    )
    return TrainConfig(
        ModelConfig("toy", network=TINY),
        data,
        MixConfig(segment_seconds=0.5),
        optimizer=OptimizerConfig(warmup=2, rate=5e-3),
        steps=6,
        batch=4,
        checkpoint_minutes=1000,
    )


def test_resume_is_bit_exact(recipe: TrainConfig, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", processes=1)
    # A training stopped after its third step: time is up at once, three times.
    for attempt in range(3):
        train(recipe, tmp_path / "parts", resume=attempt > 0, max_minutes=0, processes=1)
    train(recipe, tmp_path / "parts", resume=True, processes=1)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_two_processes_follow_one(recipe: TrainConfig, tmp_path: Path) -> None:
    """The same batches, shared: losses agree to the rounding of sums taken in another order."""
    for processes in (1, 2):
        train(recipe, tmp_path / str(processes), processes=processes)
    one, two = (json.loads((tmp_path / name / "log.jsonl").read_text())["loss"] for name in ("1", "2"))
    assert one == pytest.approx(two, rel=1e-3)


def test_loss_falls_and_the_average_is_released(recipe: TrainConfig, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(replace(recipe, steps=100), tmp_path, processes=1, report=seen.append)
    assert [progress.step for progress in seen] == [50, 100]
    assert seen[1].loss < 0.8 * seen[0].loss
    network, config = checkpoint.load(tmp_path / "toy.safetensors")
    average = load_file(tmp_path / "last.safetensors")
    assert config == recipe.model
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, average[f"ema.{name}"], rtol=1e-3, atol=1e-6)  # stored in float16


def test_refuses_to_start_over_a_training_and_to_resume_another_one(recipe: TrainConfig, tmp_path: Path) -> None:
    train(replace(recipe, steps=1), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="holds a training already"):
        train(recipe, tmp_path)
    other = replace(recipe, model=replace(recipe.model, network=replace(TINY, channels=16)))
    with pytest.raises(ConfigError, match="of another model"):
        train(other, tmp_path, resume=True)


def test_learning_rate_warms_up_stays_and_falls() -> None:
    config = OptimizerConfig(rate=2e-3, final_rate=1e-5, warmup=200, decay=0.25)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and rates[99] == pytest.approx(1e-3)
    assert set(rates[200:750]) == {2e-3}
    assert rates[750:] == sorted(rates[750:], reverse=True) and rates[999] == pytest.approx(1e-5, rel=0.2)
    assert rates[:700] == [learning_rate(config, step, 2000) for step in range(700)]  # a longer run begins alike


def test_times_have_the_stated_point_mass() -> None:
    config = TimeConfig(end_mass=0.5, final_end_mass=0.8, final_part=0.15)
    generator = torch.Generator().manual_seed(0)
    for step, mass in ((0, 0.5), (849, 0.5), (850, 0.8)):
        times = torch.cat([draw_time(config, step, 1000, generator) for _ in range(2000)])
        assert (times == 1).float().mean().item() == pytest.approx(mass, abs=0.04)
        rest = times[times < 1]
        assert rest.min() >= 1e-4 and rest.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("path", sorted(recipes_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_complete(path: Path) -> None:
    config = load_recipe(path.stem)
    assert config.model.name == path.stem and math.isfinite(config.steps)


def test_recipe_overrides_and_its_errors() -> None:
    config = load_recipe("sbm-tiny", ["optimizer.rate=1e-3", "data.speech=[a, b]", "batch=2"])
    assert (config.optimizer.rate, config.data.speech, config.batch) == (1e-3, ("a", "b"), 2)
    for override, message in [
        ("optimizer.rat=1", "did you mean 'rate'"),
        ("batch", "expected key=value"),
        ("batch=many", "expected int"),
        ("batch=0", "at least 1"),
        ("steps.x=1", "no such group"),
        ("model.schedule.kind=vx", "kind is one of ve, vp, gmax"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_recipe("sbm-tiny", [override])
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe("sbm-huge")
