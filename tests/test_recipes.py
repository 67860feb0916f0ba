"""Every shipped recipe builds, trains a step, and is what its documentation says."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from sbm_cli.bridge.schedule import Schedule
from sbm_cli.nn.configs import NCSNppConfig
from sbm_cli.training.config import TrainConfig, list_recipes, load_recipe
from sbm_cli.training.objectives.objective import STUDENT, Batch

RECIPES = sorted(list_recipes())
ABLATIONS = [name for name in RECIPES if name.startswith("ablations/")]
TABLE = Path(__file__).parent.parent / "docs" / "recipes.md"


@lru_cache
def parameters(name: str) -> tuple[int, int]:
    """Return the number of parameters as trained and folded."""
    network = load_recipe(name).model.network.build()
    first, second = (sum(p.numel() for p in n.parameters()) for n in (network, network.fold()))
    return first, second


def shrunk(config: TrainConfig) -> TrainConfig:
    """Return the recipe with a network of a few thousand parameters in place of its own, and everything else kept."""
    network = config.model.network
    if isinstance(network, NCSNppConfig):
        return replace(config, model=replace(config.model, network=replace(network, channels=(8, 8), blocks=1)))
    network = replace(
        network,
        channels=8,
        blocks=1,
        d_state=4,
        cross_groups=2,
        squeeze=2,
        head=2,
        stride=16,
        kernel=(2, 16),
    )
    network = replace(network, fullband_squeeze=min(1, network.fullband_squeeze))
    return replace(config, model=replace(config.model, network=network))


@pytest.mark.parametrize("name", [name for name in RECIPES if "sbctm" not in name])  # test_sbctm.py trains one
def test_one_step_of_training_lowers_the_loss(name: str) -> None:
    config = shrunk(load_recipe(name))
    torch.manual_seed(0)
    network = config.model.network.build()
    others = {key: learner.network for key, learner in config.objective.learners(config, network).items()}
    clean = 0.1 * torch.randn(2, 6000)
    noisy, items = clean + 0.1 * torch.randn(2, 6000), torch.arange(2)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(2):  # the same step twice: same times, same noise
        loss = config.objective.loss(config, Batch(noisy, clean, 0, items), STUDENT, {STUDENT: network, **others})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing_of_sbm_tiny(name: str) -> None:
    config, tiny = load_recipe(name), load_recipe("sbm-tiny")
    assert config.model.name == Path(name).name
    model = {field for field in vars(config.model) if getattr(config.model, field) != getattr(tiny.model, field)}
    rest = {field for field in vars(config) if getattr(config, field) != getattr(tiny, field)} - {"model"}
    assert len(model - {"name"}) + len(rest) == 1


def loudest(schedule: Schedule) -> float:
    return float(schedule.marginal(torch.linspace(0, 1, 10001, dtype=torch.float64))[2].max())


@pytest.mark.parametrize(("name", "factor"), [("vp", 1), ("gmax", 1), ("noise-x2", 2), ("noise-d3", 1 / 3)])
def test_noise_of_the_bridges_is_what_their_recipes_say(name: str, factor: float) -> None:
    tiny, other = (load_recipe(n).model.schedule for n in ("sbm-tiny", f"ablations/{name}"))
    assert loudest(tiny) == pytest.approx(0.30, abs=0.005)
    assert loudest(other) == pytest.approx(factor * loudest(tiny), rel=1e-3)


def test_sizes() -> None:
    assert parameters("sbm-tiny")[0] <= 300_000
    assert parameters("sbm-small")[0] == pytest.approx(1e6, rel=0.1)
    assert parameters("sbm-base")[0] == pytest.approx(3.93e6, rel=0.03)  # arXiv 2510.16834's model


def test_a_bridge_and_its_mapping_cost_the_same() -> None:
    assert parameters("ablations/mapping") == parameters("sbm-tiny")


def test_the_documented_table_is_what_is_built() -> None:
    rows = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    table = {row[1].strip(" `"): tuple(int(cell.replace(" ", "")) for cell in row[3:5]) for row in rows}
    assert table == {name: parameters(name) for name in RECIPES if name != "finetune"}  # that has any model's size
