"""A training on disk: the model as it could be released, and all that a bit-exact continuation needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from sbm_cli.checkpoint import save, write_atomically
from sbm_cli.config import dump
from sbm_cli.errors import ConfigError
from sbm_cli.nn.network import Network
from sbm_cli.training.config import TrainConfig

LAST = "last.safetensors"  # the checkpoint to resume from


def write_checkpoint(
    output: Path,
    config: TrainConfig,
    network: Network,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write NAME.safetensors, the moving average, and LAST: weights, average, Adam's moments and the next step."""
    from safetensors.torch import save as serialize

    released = Network(config.model.network)
    released.load_state_dict(average)
    save(released, config.model, output / f"{config.model.name}.safetensors")
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in average.items()}
    for name, parameter in network.named_parameters():
        tensors |= {f"{key}.{name}": tensor for key, tensor in optimizer.state[parameter].items()}
    metadata = {"step": str(step), "recipe": json.dumps(dump(config))}
    write_atomically(output / LAST, serialize({k: v.detach().contiguous() for k, v in tensors.items()}, metadata))


def check(path: Path, config: TrainConfig) -> None:
    """Raise ConfigError if a checkpoint is damaged or of another model than the recipe's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            recipe = json.loads(file.metadata()["recipe"])
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be resumed from ({error})", "Use another --output.") from error
    if recipe["model"] != dump(config.model):
        raise ConfigError(f"{path}: of another model than this recipe's", "Use another --output.")


def restore(path: Path, network: Network, average: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Put a checkpoint's state into network, average and optimizer; return the step to go on with."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)

    def group(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    network.load_state_dict(group("model."))
    for name, tensor in group("ema.").items():
        average[name].copy_(tensor)
    for name, parameter in network.named_parameters():
        optimizer.state[parameter] = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    return step
