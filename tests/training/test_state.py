"""A training that is killed at any moment goes on from a whole checkpoint, to the bit where it would have come."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sbm_cli.config import dump
from sbm_cli.data.mixing import MixConfig
from sbm_cli.data.sources import DataConfig
from sbm_cli.errors import ConfigError
from sbm_cli.model import Model
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.training.config import LoopConfig, OptimizerConfig, TimeConfig, TrainConfig
from sbm_cli.training.loop import train
from sbm_cli.training.losses import LossConfig
from sbm_cli.training.objectives.objective import STUDENT
from sbm_cli.training.optimizer import Optimizer
from sbm_cli.training.state import LAST, check, check_start, restore, write_checkpoint
from tests.conftest import PATIENCE

# Each trial is a fork, so that one process pays for the imports; every step writes a checkpoint.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from sbm_cli.config import build
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.loop import train

torch.set_num_threads(1)
config, output = build(TrainConfig, json.loads(sys.argv[1]), "recipe"), Path(sys.argv[2])
train(config, output / "whole", processes=1)
for trial in range(4):
    child = os.fork()
    if not child:
        train(config, output / "killed", resume=True, processes=1)
        os._exit(0)
    last = output / "killed" / "last.pt"
    before, alive = last.exists() and last.stat().st_mtime_ns, True
    while (last.exists() and last.stat().st_mtime_ns) == before and alive:
        time.sleep(0.01)  # however busy the machine is
        alive = os.waitpid(child, os.WNOHANG) == (0, 0)
    time.sleep(0.2 * random.random())
    if alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(torch.load(last, weights_only=True)["step"] if last.exists() else 0)
train(config, output / "killed", resume=True, processes=1)
"""


def test_killed_at_any_moment_it_goes_on_to_the_bit(recipe: TrainConfig, tmp_path: Path) -> None:
    often = replace(recipe, steps=40, batch=1, checkpoint_minutes=0.0)
    script = [sys.executable, "-c", KILLED, json.dumps(dump(often)), str(tmp_path)]
    result = subprocess.run(script, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    steps = [int(line) for line in result.stdout.split()]
    assert len(steps) == 4 and steps == sorted(steps) and 0 < steps[-1]
    killed, whole = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("killed", "whole"))
    assert killed["step"] == whole["step"] == 40
    assert all(torch.equal(killed["tensors"][name], tensor) for name, tensor in whole["tensors"].items())
    assert not list((tmp_path / "killed").glob(".*"))


def save(folder: Path, recipe: TrainConfig) -> int:
    """Write an untrained network as a checkpoint, and return its number of parameters."""
    folder.mkdir(exist_ok=True)
    network = OSpatialNet(recipe.model.network)
    write_checkpoint(folder, recipe, {STUDENT: Optimizer(network, recipe.optimizer)}, 3, 1.5)
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_best_of_other_mixtures_is_none(recipe: TrainConfig, tmp_path: Path) -> None:
    save(tmp_path, recipe)
    optimizers = {STUDENT: Optimizer(OSpatialNet(recipe.model.network), recipe.optimizer)}
    assert restore(tmp_path / LAST, replace(recipe, steps=9), optimizers, {}) == (3, 1.5)
    for other in (
        replace(recipe, loop=replace(recipe.loop, validate_items=5)),
        replace(recipe, data=replace(recipe.data, noise=recipe.data.speech)),
    ):
        assert restore(tmp_path / LAST, other, optimizers, {}) == (3, math.inf)


def test_a_damaged_checkpoint_is_one_message(recipe: TrainConfig, tmp_path: Path) -> None:
    save(tmp_path, recipe)
    path = tmp_path / LAST
    check(path, recipe)
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2], whole[:-100], b"\x80" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="cannot be resumed from"):
            check(path, recipe)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"batch": 3}, "batch 4 -> 3"),
    ({"seed": 9, "warm_level": 0.0}, "seed 0 -> 9, warm_level 0.3 -> 0.0"),
    ({"optimizer": OptimizerConfig(warmup=2, rate=1e-3)}, "optimizer.rate 0.005 -> 0.001"),
    ({"loss": LossConfig(snr=0)}, "loss.snr 1.0 -> 0"),
    ({"mix": MixConfig(segment_seconds=0.5, snr_db=(0, 5))}, r"mix.snr_db \[-5.0, 20.0\] -> \[0, 5\]"),
    ({"time": TimeConfig(end_mass=0.9)}, "time.end_mass 0.5 -> 0.9"),
    ({"data": DataConfig(rooms=7)}, "data.rooms 4 -> 7"),
]


@pytest.mark.parametrize(("changes", "reported"), CHANGES, ids=lambda value: value if isinstance(value, str) else "")
def test_another_recipe_is_refused(recipe: TrainConfig, tmp_path: Path, changes: dict[str, Any], reported: str) -> None:
    save(tmp_path, recipe)
    with pytest.raises(ConfigError, match=f"last.pt: belongs to another recipe: {reported}"):
        check(tmp_path / LAST, replace(recipe, **changes))
    moved = replace(recipe.data, speech=("elsewhere",), manifests=("other.csv",), cache="there")
    longer = {"steps": 99, "checkpoint_minutes": 1.0, "loop": LoopConfig(precision="bfloat16"), "data": moved}
    check(tmp_path / LAST, replace(recipe, **longer))


def test_a_checkpoint_in_the_words_of_the_first_version_is_that_of_today(recipe: TrainConfig, tmp_path: Path) -> None:
    network = dump(recipe.model.network)
    network["state"] = network.pop("d_state")
    torch.save(
        {"recipe": json.dumps(dump(recipe) | {"model": dump(recipe.model) | {"network": network}})}, tmp_path / LAST
    )
    check(tmp_path / LAST, recipe)


def test_a_checkpoint_with_a_hostile_recipe_is_one_message(recipe: TrainConfig, tmp_path: Path) -> None:
    for hostile in ("[" * 100_000, "{", "[]", 7):
        torch.save({"step": 1, "best": 1.0, "recipe": hostile, "tensors": {}}, tmp_path / LAST)
        with pytest.raises(ConfigError, match="recipe"):
            check(tmp_path / LAST, recipe)


def test_what_a_killed_training_left_is_removed(recipe: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    for left in (".sbm-7-aa.part", "best/.sbm-8-bb.part"):
        (tmp_path / left).touch()
    (tmp_path / ".other.tmp").touch()
    train(recipe, tmp_path, processes=1)
    assert [path.name for path in tmp_path.rglob(".*")] == [".other.tmp"]


def test_where_safetensors_is_missing_resuming_elsewhere_makes_the_model(
    recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a rented GPU: the checkpoint is all that comes home."""
    with monkeypatch.context() as bare:
        bare.setattr("sbm_cli.training.state.find_spec", lambda name: None)
        train(replace(recipe, steps=2), tmp_path, processes=1)
    assert not (tmp_path / "toy.safetensors").exists()
    train(replace(recipe, steps=2), tmp_path, resume=True, processes=1)
    Model.load(tmp_path / "toy.safetensors")


def test_a_checkpoint_of_a_million_parameters_comes_home(recipe: TrainConfig, tmp_path: Path) -> None:
    """16 MiB is what a rented machine gives back of one file."""
    large = replace(recipe, model=replace(recipe.model, network=OSpatialNetConfig(channels=112, blocks=5)))
    parameters = save(tmp_path, large)
    size = (tmp_path / LAST).stat().st_size
    assert size < 16 * parameters * 1.02 + 200_000


GROWN = {"blocks": 4, "lookahead": 2, "kernel": (5, 16), "filter_frames": 5, "keep_room": True, "jumps": True}


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_grown_network_begins_as_the_small_one_was(blocks: int, recipe: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = replace(recipe, model=replace(recipe.model, network=replace(recipe.model.network, blocks=blocks)))
    small = OSpatialNet(recipe.model.network)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    Model(small, recipe.model).save(tmp_path / "toy.safetensors")
    model = replace(recipe.model, name="more", network=replace(recipe.model.network, **GROWN))
    check_start(tmp_path / "toy.safetensors", replace(recipe, model=model))
    grown = OSpatialNet(model.network)
    grown.inherit(Model.load(tmp_path / "toy.safetensors").network)
    noisy = torch.randn(1, 257, 12, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    small, end = Model.load(tmp_path / "toy.safetensors").network, torch.ones(1)
    # Begun in silence, as the one that waits for its future has: its first two frames are none.
    silent = torch.nn.functional.pad(noisy, (2, 0))
    expected, found = small(silent, silent, end)[0], grown(noisy, noisy, end)[0]
    torch.testing.assert_close(found, expected[..., :12], rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [{"lookahead": 2}, {"kernel": (5, 16)}, {"channels": 16}, {"output": "mask"}])
def test_what_has_not_grown_into_a_recipe_is_refused(change: dict, recipe: TrainConfig, tmp_path: Path) -> None:
    Model(OSpatialNet(recipe.model.network), recipe.model).save(tmp_path / "toy.safetensors")
    model = replace(recipe.model, network=replace(recipe.model.network, **change))
    with pytest.raises(ConfigError, match="another model"):
        check_start(tmp_path / "toy.safetensors", replace(recipe, model=model))
