"""Training by one process: bit-exact resume, forward passes of any size, steps left out, validation, interrupts."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sbm_cli.data.sources import Sources
from sbm_cli.errors import ConfigError, TrainingError
from sbm_cli.model import Model
from sbm_cli.training.config import LoopConfig, OptimizerConfig, TrainConfig
from sbm_cli.training.loop import Progress, train
from sbm_cli.training.state import locked


def last(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = torch.load(folder / "last.pt", weights_only=True)["tensors"]
    return tensors


def column(path: Path, name: str) -> list[float]:
    with open(path, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Recorded:
    """A few seconds of fixed sound as mixtures; `act` is called before each step's are made."""

    device = torch.device("cpu")
    bad: tuple[int, ...] = ()  # steps that are not finite
    interrupted: int = -1  # step at which the process gets an interrupt

    def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        if step == self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        generator = torch.Generator().manual_seed(step)
        clean = 0.1 * torch.randn(len(items), 4000, generator=generator)
        noisy = clean + 0.1 * torch.randn(len(items), 4000, generator=generator)
        return noisy * (math.nan if step in self.bad else 1.0), clean


def test_resume_is_bit_exact(recipe: TrainConfig, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", processes=1)
    # A training stopped after its third step: time is up at once, three times.
    for attempt in range(3):
        train(recipe, tmp_path / "parts", resume=attempt > 0, max_minutes=0, processes=1)
    train(recipe, tmp_path / "parts", resume=True, processes=1)
    whole, parts = (last(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_the_size_of_a_forward_pass_does_not_matter(recipe: TrainConfig, tmp_path: Path) -> None:
    for size in (1, 3, 4):
        train(replace(recipe, loop=LoopConfig(micro_batch=size, validate_every=0)), tmp_path / str(size), processes=1)
    one, three, four = (last(tmp_path / name) for name in ("1", "3", "4"))
    for name in one:
        if name.startswith("model."):
            for other in (three, four):
                torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-3, msg=name)
    losses = [column(tmp_path / name / "train.csv", "loss") for name in ("1", "3", "4")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] == pytest.approx(losses[2], rel=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_learns_alike(recipe: TrainConfig, tmp_path: Path, precision: str) -> None:
    losses = {}
    for name in ("float32", precision):
        loop = LoopConfig(precision=name, validate_every=0, report_every=10)
        train(replace(recipe, loop=loop, steps=20), tmp_path / name, processes=1, sources=Sources(Recorded()))
        losses[name] = column(tmp_path / name / "train.csv", "loss")
        assert column(tmp_path / name / "train.csv", "skipped") == [0, 0]
    assert losses[precision] != losses["float32"]
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.03)


def test_loss_falls_and_the_average_is_released(recipe: TrainConfig, tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcome = train(replace(recipe, steps=60), tmp_path, processes=1, report=seen.append)
    assert [progress.step for progress in seen] == [50, 60] and outcome.step == 60
    assert seen[1].loss < 0.8 * seen[0].loss
    assert all(0 <= progress.waiting < 1 and progress.skipped == 0 for progress in seen)
    found = Model.load(tmp_path / "toy.safetensors")
    network, config = found.network, found.config
    average = last(tmp_path)
    assert config == recipe.model
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, average[f"ema.{name}"], rtol=1e-3, atol=1e-6)  # stored in float16


def test_a_step_that_is_not_finite_is_left_out(recipe: TrainConfig, tmp_path: Path) -> None:
    """Adam counts it neither: the rest of the training is the same as if the step before were the last one."""
    short = replace(recipe, steps=3)
    train(short, tmp_path / "bad", processes=1, sources=Sources(Recorded(bad=(2,))))
    for resume in (False, True):  # one step each
        train(short, tmp_path / "good", resume, max_minutes=0, processes=1, sources=Sources(Recorded()))
    bad, good = last(tmp_path / "bad"), last(tmp_path / "good")
    for name in good:
        if not name.startswith("ema."):
            assert torch.equal(bad[name], good[name]), name
    assert column(tmp_path / "bad" / "train.csv", "skipped") == [1]
    assert all(torch.isfinite(tensor).all() for tensor in bad.values())


def test_many_such_steps_in_a_row_stop_the_training(recipe: TrainConfig, tmp_path: Path) -> None:
    loop = LoopConfig(skip_limit=3, report_every=1, validate_every=0)
    longer = replace(recipe, loop=loop, steps=20)
    with pytest.raises(TrainingError, match="step 7: .* 3 steps in a row") as caught:
        train(longer, tmp_path, processes=1, sources=Sources(Recorded(bad=(0, 1, 4, 5, 6, 7))))
    assert "optimizer.rate" in caught.value.hint


def test_an_interrupt_ends_the_step_and_leaves_a_checkpoint(recipe: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(replace(recipe, steps=50), tmp_path, processes=1, sources=Sources(Recorded(interrupted=4)))
    step = torch.load(tmp_path / "last.pt", weights_only=True)["step"]
    assert 1 <= step <= 5  # mixtures are made ahead
    assert train(replace(recipe, steps=7), tmp_path, resume=True, processes=1).step == 7


def test_validation_finds_the_best_on_fixed_mixtures(recipe: TrainConfig, tmp_path: Path) -> None:
    loop = LoopConfig(validate_every=15, validate_items=3, report_every=15)
    seen: list[Progress] = []
    outcome = train(replace(recipe, loop=loop, steps=45, seed=5), tmp_path / "a", processes=1, report=seen.append)
    assert outcome.before == {} and outcome.after == seen[-1].valid
    losses = [progress.valid["valid"].loss for progress in seen]
    assert column(tmp_path / "a" / "valid.csv", "loss") == pytest.approx(losses)
    assert losses[-1] < losses[0]
    assert torch.load(tmp_path / "a" / "last.pt", weights_only=True)["best"] == min(losses)
    Model.load(tmp_path / "a" / "best" / "toy.safetensors")
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    # Of another seed, begun with the first one's weights: the same mixtures, and the same score before its first step.
    other = replace(recipe, loop=loop, steps=1, optimizer=OptimizerConfig(rate=1e-5))
    tuned = train(other, tmp_path / "b", processes=1, start=tmp_path / "a" / "toy.safetensors")
    assert tuned.before["valid"].loss == pytest.approx(outcome.after["valid"].loss, rel=1e-2)  # stored in float16
    assert tuned.before["valid"].noisy_si_sdr == outcome.after["valid"].noisy_si_sdr


@pytest.mark.parametrize("loop", [LoopConfig(validate_every=0), LoopConfig()], ids=["not wanted", "nothing there"])
def test_without_validation_the_last_model_is_the_best(recipe: TrainConfig, tmp_path: Path, loop: LoopConfig) -> None:
    train(replace(recipe, loop=loop), tmp_path, processes=1, sources=Sources(Recorded()))
    assert (tmp_path / "best" / "toy.safetensors").read_bytes() == (tmp_path / "toy.safetensors").read_bytes()


def test_validation_does_not_touch_the_training(recipe: TrainConfig, tmp_path: Path) -> None:
    for every in (0, 2):
        loop = LoopConfig(validate_every=every, validate_items=2)
        train(replace(recipe, loop=loop), tmp_path / str(every), processes=1)
    without, beside = last(tmp_path / "0"), last(tmp_path / "2")
    assert all(torch.equal(without[name], beside[name]) for name in without)


def test_a_resumed_log_has_each_step_once(recipe: TrainConfig, tmp_path: Path) -> None:
    loop = LoopConfig(report_every=1, validate_every=0)
    train(replace(recipe, loop=loop, steps=3), tmp_path, processes=1)
    with open(tmp_path / "train.csv", "a") as file:
        file.write("4,1,1,1,1,1,0\n5,1")  # of a process that was killed before it wrote a checkpoint
    train(replace(recipe, loop=loop), tmp_path, resume=True, processes=1)
    assert column(tmp_path / "train.csv", "step") == [1, 2, 3, 4, 5, 6]


def test_training_begins_with_released_weights(recipe: TrainConfig, tmp_path: Path) -> None:
    train(replace(recipe, steps=2), tmp_path / "old", processes=1)
    released = tmp_path / "old" / "toy.safetensors"
    slow = replace(recipe, model=replace(recipe.model, name="new"), steps=1, optimizer=OptimizerConfig(rate=1e-5))
    train(slow, tmp_path / "new", processes=1, start=released)
    old, new = (
        Model.load(tmp_path / name).network.state_dict() for name in ("old/toy.safetensors", "new/new.safetensors")
    )
    for name in old:
        torch.testing.assert_close(old[name], new[name], rtol=2e-3, atol=1e-4)
    other = replace(recipe, model=replace(recipe.model, network=replace(recipe.model.network, channels=16)))
    with pytest.raises(ConfigError, match="belongs to another model"):
        train(other, tmp_path / "other", processes=1, start=released)


def test_two_trainings_do_not_share_a_folder(recipe: TrainConfig, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another training is writing to it"):
        train(recipe, tmp_path, processes=1)
    with locked(tmp_path):
        pass


def test_refuses_to_start_over_a_training_and_to_resume_another_one(recipe: TrainConfig, tmp_path: Path) -> None:
    train(replace(recipe, steps=1), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="holds a training already"):
        train(recipe, tmp_path)
    other = replace(recipe, model=replace(recipe.model, network=replace(recipe.model.network, channels=16)))
    with pytest.raises(ConfigError, match="belongs to another model"):
        train(other, tmp_path, resume=True)


def test_an_error_before_the_first_step_leaves_no_folder(recipe: TrainConfig, tmp_path: Path) -> None:
    absent = replace(recipe, data=replace(recipe.data, manifests=(str(tmp_path / "absent.csv"),)))
    with pytest.raises(ConfigError, match="absent.csv"):
        train(absent, tmp_path / "new", processes=1)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="absent.csv"):
        train(absent, tmp_path / "mine", processes=1)
    assert list((tmp_path / "mine").iterdir()) == []
