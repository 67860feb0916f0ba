"""A training on disk: the model as it could be released, and all that a bit-exact continuation needs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sbm_cli.atomic import write_atomically
from sbm_cli.config import build, dump, parse_json
from sbm_cli.errors import ConfigError
from sbm_cli.lock import lock
from sbm_cli.model import Model, load_config, upgraded
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.objectives.objective import STUDENT
from sbm_cli.training.optimizer import Optimizer

LAST = "last.pt"  # the checkpoint to resume from
BEST = "best"  # folder of the model that was best on validation, or else of the last one


def write_checkpoint(
    output: Path,
    config: TrainConfig,
    optimizers: Mapping[str, Optimizer],
    step: int,
    best: float,
    frozen: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write LAST (tensors of the optimizers, next step, best loss so far, recipe) and the moving average as a model.

    frozen: networks that stay as they are, by name.
    """
    learners = {
        learner: {name: tensor.cpu() for name, tensor in optimizer.tensors().items()}
        for learner, optimizer in optimizers.items()
    }
    found = {"step": step, "best": best, "recipe": json.dumps(dump(config)), "tensors": learners.pop(STUDENT)}
    data = io.BytesIO()
    found |= {"learners": learners, "frozen": {name: network.state_dict() for name, network in (frozen or {}).items()}}
    torch.save(found, data)
    write_atomically(output / LAST, data.getvalue())
    write_model(output, config, optimizers[STUDENT])


def write_model(folder: Path, config: TrainConfig, optimizer: Optimizer) -> None:
    """Write the moving average as NAME.safetensors and NAME.json, if safetensors is installed.

    A rented GPU often has nothing but torch; LAST holds the average too, and a resumed training begins with this.
    """
    if find_spec("safetensors") is None:
        return
    average = {name[4:]: tensor for name, tensor in optimizer.tensors().items() if name.startswith("ema.")}
    network = config.model.network.build()
    network.load_state_dict(average)
    folder.mkdir(exist_ok=True)
    Model(network, config.model).save(folder / f"{config.model.name}.safetensors")


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the folder of a training, and keep others out of it: two would write in turns what neither has learnt.

    Raises ConfigError if another training has it.
    """
    output.mkdir(parents=True, exist_ok=True)
    if os.name != "posix" or os.environ.get("RANK", "0") != "0":  # the first process of torchrun has it for all
        yield
        return
    number = os.open(output, os.O_RDONLY)
    try:
        if not lock(number):
            raise ConfigError(
                f"{output}: another training is writing to it", "Wait for it, or choose another --output."
            )
        yield
    finally:
        os.close(number)


# What may be another when a training goes on: how long, where data and teacher lie, and what the machine asks for.
MAY_CHANGE = re.compile(
    r"steps|checkpoint_minutes|loop\..+|data\.(manifests|speech|noise|rir|cache|pack)|objective\.teacher"
)
SHOWN = 5  # values in a message


def check(path: Path, config: TrainConfig) -> None:
    """Raise ConfigError if a checkpoint is damaged, or of another recipe but for what may change."""
    try:
        recipe = parse_json(_read(path)["recipe"])
        before = build(TrainConfig, recipe | {"model": upgraded(recipe["model"])}, f"{path}: its recipe")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: its recipe cannot be read ({error})", "Choose another --output.") from error
    if before.model != config.model:
        raise ConfigError(f"{path}: belongs to another model than the recipe's", "Choose another --output.")
    values = dict(_flat(dump(config)))
    changed = [
        f"{key} {value} -> {values[key]}"
        for key, value in _flat(dump(before))
        if value != values[key] and not MAY_CHANGE.fullmatch(key)
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ConfigError(
            f"{path}: belongs to another recipe: {', '.join(changed[:SHOWN])}{more}",
            "Only steps, loop, checkpoint_minutes and the paths of data and teacher may change; --from starts a new "
            "training.",
        )


def saved_step(output: Path) -> int | None:
    """Return after how many steps the checkpoint of a training was written, None if there is none."""
    return int(_read(output / LAST)["step"]) if (output / LAST).exists() else None


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


BEGIN_WITH = (
    "First train the bridge that it begins with: systems/tiny for sbctm-tiny, systems/sb-ncsnpp for sbctm. Then name "
    "the result with --from."
)


def check_start(path: Path, config: TrainConfig) -> None:
    """Raise ConfigError if a model cannot be trained on by a recipe: it must be the recipe's, or have grown into it.

    The name and the level may differ. A network grows by blocks, a look-ahead (and as many frames of the encoder's
    kernel), a filter, or the wish to keep the room: see `Network.inherit`.
    """
    found, wanted = load_config(path), config.model
    grown = found.network.grown(wanted.network)
    if replace(found, name=wanted.name, level=wanted.level, network=grown) != wanted:
        raise ConfigError(
            f"{path}: belongs to another model than the recipe's",
            BEGIN_WITH if config.objective.wants_start else f"Use the recipe that {found.name} was trained with.",
        )


def restore(
    path: Path, config: TrainConfig, optimizers: Mapping[str, Optimizer], frozen: Mapping[str, nn.Module]
) -> tuple[int, float]:
    """Put a checkpoint's state into the optimizers and all networks; return the next step and the best loss.

    Losses on other mixtures compare with nothing: the best is infinite if validation has changed.
    """
    found = _read(path)
    try:
        learners = {STUDENT: found["tensors"], **found.get("learners", {})}  # older files have the student alone
        for learner, optimizer in optimizers.items():
            optimizer.restore(learners[learner])
        for name, network in frozen.items():
            before = found["frozen"][name]
            if not config.objective.wants_start and not all(  # they come from files, which may have moved
                torch.equal(tensor.cpu(), before[key]) for key, tensor in network.state_dict().items()
            ):
                raise ConfigError(
                    f"objective.{name}: is not the model that the training in {path.parent} began with",
                    "Name that one, wherever it lies now.",
                )
            network.load_state_dict(before)
        before, now = (dict(_flat(recipe)) for recipe in (parse_json(found["recipe"]), dump(config)))
        validated_on = [key for key in before | now if key == "loop.validate_items" or key.startswith("data.")]
        same = all(before.get(key) == now.get(key) for key in validated_on)
        return int(found["step"]), float(found["best"]) if same else math.inf
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be resumed from ({error!r})", "Choose another --output.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its reader stumbles over
        raise ConfigError(f"{path}: cannot be resumed from ({error})", "Choose another --output.") from error
