"""A model on disk: NAME.safetensors with the weights, NAME.json with everything else one needs to use them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sbm_cli.atomic import write_atomically
from sbm_cli.bridge.schedule import VE, Schedule
from sbm_cli.config import build, dump, parse_json
from sbm_cli.dsp.compress import Compression
from sbm_cli.dsp.level import Level
from sbm_cli.dsp.stft import Stft
from sbm_cli.errors import ModelError
from sbm_cli.nn.network import Network, NetworkConfig


@dataclass(frozen=True)
class ModelConfig:
    """The chain from waveform to spectrum and back, the bridge, and the network's dimensions."""

    name: str
    rate: int = 16000
    stft: Stft = Stft()
    level: Level = Level()
    compression: Compression = Compression()
    schedule: Schedule = VE()
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        # Files are named after it.
        if not self.name or Path(self.name).name != self.name or self.name.startswith(".") or "\\" in self.name:
            raise ValueError(f"name is the beginning of a file's name, without folders, got {self.name!r}")
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate lies between 1000 and 192000 Hz, got {self.rate}")
        if self.stft.bins != self.network.bins:
            raise ValueError(f"the STFT has {self.stft.bins} frequencies, the network {self.network.bins}")


def save(network: Network, config: ModelConfig, path: Path) -> None:
    """Write weights in float16 to `path` (NAME.safetensors) and the config beside it, each whole or not at all."""
    from safetensors.torch import save as serialize

    weights = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, serialize(weights))
    write_atomically(path.with_suffix(".json"), (json.dumps(dump(config), indent=2) + "\n").encode())


def load(path: Path) -> tuple[Network, ModelConfig]:
    """Return the network, in float32 and eval mode, and the config of a model file.

    Raises ModelError if the file or its config is missing, damaged, or does not fit the other one; ConfigError for an
    unknown key or a value out of range.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = load_config(path)
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path}: cannot be read as safetensors ({error})", "Download or copy the model again."
        ) from error
    for name, tensor in weights.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ModelError(f"{path}: the weights {name!r} are not all finite numbers", "Copy the model again.")
    with torch.device("meta"):  # neither memory nor random numbers nor torch's defaults for weights that follow
        network = Network(config.network)
    # A copy: those of float32 may lie in the file, which somebody may write to.
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the weights do not fit {path.with_suffix('.json').name}",
            "Both files must come from the same training.",
        ) from error
    return network.eval(), config


def load_config(path: Path) -> ModelConfig:
    """Return the config that lies beside the weights at `path`."""
    beside = path.with_suffix(".json")
    try:
        values = parse_json(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: its configuration {beside.name} is missing", "Put it beside the weights.") from error
    except ValueError as error:
        raise ModelError(f"{beside}: not valid JSON ({error})", "Download or copy the model again.") from error
    return build(ModelConfig, values, str(beside))
