"""A model: a network with the chain from waveform to spectrum and back, and its form on disk.

NAME.safetensors has the weights, NAME.json everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sbm_cli.arrays import Array
from sbm_cli.atomic import write_atomically
from sbm_cli.bridge.sampler import SAMPLERS
from sbm_cli.bridge.schedule import VE, Schedule
from sbm_cli.config import build, dump, parse_json
from sbm_cli.dsp.compress import Compression
from sbm_cli.dsp.level import Level
from sbm_cli.dsp.stft import Stft
from sbm_cli.errors import ModelError
from sbm_cli.nn.configs import WINDOW, Backbone, OSpatialNetConfig

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sbm_cli.engine.plan import Plan
    from sbm_cli.nn.network import Network

FORMAT = 2  # of NAME.json
FOLDED = 4  # networks that are kept, for the latest shares of the room
Weights = Mapping[str, "NDArray[np.float32]"]


@dataclass(frozen=True)
class ModelConfig:
    """The chain from waveform to spectrum and back, the bridge, and the dimensions of the network.

    Spectra are complex [batch, freq, frames], levels are powers [batch, frames].
    """

    name: str
    rate: int = 16000
    stft: Stft = Stft()
    level: Level = Level()
    compression: Compression = Compression()
    schedule: Schedule = VE()
    network: Backbone = field(default_factory=OSpatialNetConfig)

    def __post_init__(self) -> None:
        # It becomes part of file names.
        plain = self.name.isprintable() and Path(self.name).name == self.name
        if not self.name or not plain or self.name.startswith(".") or "\\" in self.name:
            raise ValueError(f"name must be a plain file name without suffix, got {self.name!r}")
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate must be between 1000 and 192000 Hz, got {self.rate}")
        if not 0 <= self.level.low_hz <= self.rate / 4:
            raise ValueError(f"level.low_hz lies between 0 and a quarter of the rate, got {self.level.low_hz}")
        if self.stft.bins != self.network.bins:
            raise ValueError(f"the STFT has {self.stft.bins} frequencies, the network {self.network.bins}")

    @property
    def bin_hz(self) -> float:
        """How far apart the frequencies of a spectrum are."""
        return self.rate / self.stft.n_fft

    def power(self, spectrum: Array) -> Array:
        """Return the power of every frame, [batch, frames], which the level follows."""
        return self.level.power(spectrum, self.bin_hz)

    def compress(self, spectrum: Array, level: Array) -> Array:
        """Return a spectrum as the network sees it: divided by the level, compressed."""
        return self.compression.compress(spectrum / level[:, None] ** 0.5)

    def expand(self, estimate: Array, level: Array) -> Array:
        """Return the spectrum of an estimate: the inverse of `compress`."""
        return self.compression.expand(estimate) * level[:, None] ** 0.5

    def to_network(self, waveform: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the compressed spectra of whole waveforms [batch, samples], and their level.

        start: the level before the first frame, [batch], relative to the waveform's mean power; 0 (or None for all)
        stands for the power of the first frame.
        """
        spectrum = self.stft.forward(waveform)
        power = self.power(spectrum).clamp_min(self.level.floor)
        carry = None if start is None else start * power.mean(1)
        level, _ = self.level.track(power, self.stft.hop / self.rate, carry)
        return self.compress(spectrum, level), level

    def to_waveform(self, estimate: Tensor, level: Tensor, samples: int) -> Tensor:
        """Return the waveforms [batch, samples] of estimates: the inverse of `to_network`."""
        return self.stft.inverse(self.expand(estimate, level), samples)


class Model:
    """A network with its config, on a device: as trained, and folded for one step at t = 1.

    network: a module of PyTorch, or its weights by name. From weights the module is made once it is asked for: with
    a plan, enhancement on a CPU does not need it.
    """

    def __init__(self, network: Network | Weights, config: ModelConfig) -> None:
        self.config = config
        self.side_by_side: int | None = None  # files that fit into memory together; None: it has not run out
        self.device = "cpu"
        self.before_call: Callable[[], object] = go_on  # of the network: between two it may raise
        self._weights: Weights | None = None
        self._network: Network | None = None
        if isinstance(network, Mapping):
            self._weights = network
        else:
            self._network = network
            self.device = str(next(network.parameters()).device)
        self._folded: dict[float, Network] = {}
        self._plans: dict[tuple[bool, bool], Plan] = {}

    @property
    def network(self) -> Network:
        """The network as a module of PyTorch."""
        if self._network is None:
            import torch

            with torch.device("meta"):  # needs no memory or random numbers for weights that follow
                self._network = self.config.network.build().eval()
            weights = {name: torch.from_numpy(weight.copy()) for name, weight in (self._weights or {}).items()}
            self._network.load_state_dict(weights, assign=True)
        return self._network

    def to(self, device: str | torch.device) -> Model:
        """Move the model to a device for enhancement; it cannot be trained afterwards."""
        if self._network is not None or str(device) != "cpu":
            self.network.to(device).eval().requires_grad_(False)
            self._folded.clear()
            self._plans.clear()
        self.device = str(device)
        return self

    def folded(self, room: float = 0.0) -> Network:
        """Return the network folded for one step; room: share of reverberation to keep, 0 to 1."""
        if room not in self._folded:
            self._folded[room] = self.network.fold(room=room).eval().requires_grad_(False)
            if len(self._folded) > FOLDED:
                del self._folded[next(iter(self._folded))]  # the oldest
        return self._folded[room]

    def plan(self, steps: int = 1, halves: bool = False) -> Plan | None:
        """Return the network for so many steps as compiled kernels take it; None if they do not, or not here.

        halves: whether the largest products are in bfloat16, if the processor has them.
        """
        if self.device != "cpu":
            return None
        try:
            from sbm_cli.engine.plan import plan, supports
        except ImportError:  # of Numba; PyTorch's way says so
            return None

        network = self.config.network
        if not isinstance(network, OSpatialNetConfig) or not supports(network):
            return None
        folded = steps == 1 and not self.config.schedule.end_std  # the state is the noisy signal
        if (folded, halves) not in self._plans:
            weights = self._weights
            if weights is None:
                weights = {name: tensor.float().numpy() for name, tensor in self.network.state_dict().items()}
            self._plans[folded, halves] = plan(network, weights, folded, halves)
        return self._plans[folded, halves]

    def frames_late(self, sampler: str = "ode", steps: int = 1) -> int:
        """Return by how many frames the output is late: by the look-ahead of all network calls, or by a window."""
        network = self.config.network
        return network.lookahead * SAMPLERS[sampler].nfe(steps) if network.causal else WINDOW

    @property
    def latency_seconds(self) -> float:
        """Algorithmic delay between an input sample and its output: window and look-ahead."""
        stft = self.config.stft
        return (stft.window + self.frames_late() * stft.hop) / self.config.rate

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Return the model of a file, in float32 and eval mode.

        Raises ModelError if the file or its config is missing or damaged, or if they do not belong together;
        ConfigError for an unknown key or a value out of range.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(path)
        config = load_config(path)
        try:
            stored = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: cannot be read as safetensors ({error})", "Download or copy the model again."
            ) from error
        except (AttributeError, TypeError) as error:  # NumPy has no such type
            raise ModelError(f"{path}: not weights of a known type ({error})", "Save them in float16.") from error
        for name, weight in stored.items():
            if weight.dtype.kind != "f":
                raise ModelError(
                    f"{path}: not weights of a known type ({name!r} is {weight.dtype})", "Save them in float16."
                )
            if not np.isfinite(weight).all():
                raise ModelError(f"{path}: the weights {name!r} are not all finite numbers", "Copy the model again.")
        # A copy: float32 weights may be mapped from the file, which somebody may write to.
        model = cls({name: weight.astype(np.float32) for name, weight in stored.items()}, config)
        try:
            if model.plan() is None:
                _ = model.network
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{path}: the weights do not fit {path.with_suffix('.json').name}",
                "Both files must come from the same training.",
            ) from error
        return model

    def save(self, path: str | Path) -> None:
        """Write float16 weights to `path` (NAME.safetensors) and the config beside it, each whole or not at all."""
        from safetensors.torch import save

        path = Path(path)
        tensors = self.network.state_dict().items()
        write_atomically(path, save({name: tensor.detach().half().contiguous() for name, tensor in tensors}))
        text = json.dumps({"format": FORMAT} | dump(self.config), indent=2) + "\n"
        write_atomically(path.with_suffix(".json"), text.encode())


def go_on() -> None:
    """Let the work go on."""


def load_config(path: Path) -> ModelConfig:
    """Return the config beside the weights at `path`."""
    beside = path.with_suffix(".json")
    try:
        values = parse_json(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: its configuration {beside.name} is missing", "Put it beside the weights.") from error
    except ValueError as error:
        raise ModelError(f"{beside}: not valid JSON ({error})", "Download or copy the model again.") from error
    if isinstance(values, Mapping):
        number = values.get("format", 1)
        if number not in range(1, FORMAT + 1):
            raise ModelError(f"{beside}: unknown format {number!r}", "Update sbm-cli: pip install --upgrade sbm-cli")
        values = upgraded({key: value for key, value in values.items() if key != "format"})
    return build(ModelConfig, values, str(beside))


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model in the current format, whichever it was written in."""
    values, network = dict(values), values.get("network")
    if isinstance(network, Mapping) and "kind" not in network:  # format 1: there was one backbone
        words = {"state": "d_state"}
        values["network"] = {"kind": "ospatialnet"} | {words.get(key, key): value for key, value in network.items()}
    return values
