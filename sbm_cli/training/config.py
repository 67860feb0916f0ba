"""Training recipe: strict YAML into frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sbm_cli.checkpoint import ModelConfig
from sbm_cli.config import build
from sbm_cli.errors import ConfigError
from sbm_cli.training.losses import LossConfig
from sbm_cli.training.mixing import MixConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the audio comes from: manifests (CSV), or folders of speech, noise and room responses."""

    manifests: tuple[str, ...] = ()
    speech: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    rir: tuple[str, ...] = ()
    rooms: int = 2400  # simulated, made once and cached
    cache: str = "runs/cache"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; rate rises over `warmup` steps, stays, and falls along a half cosine over the last `decay` of all steps.

    The constant part does not depend on the number of steps: a run can be continued before its end is decided.
    """

    rate: float = 2e-3
    final_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.final_rate <= self.rate or not 0 < self.decay <= 1 or not 0 <= self.ema < 1:
            raise ValueError(f"need 0 < final_rate <= rate, 0 < decay <= 1, 0 <= ema < 1, got {self}")


@dataclass(frozen=True)
class TimeConfig:
    """Bridge times of training: uniform on [t_min, 1] with a point mass at 1, which grows towards the end."""

    t_min: float = 1e-4
    end_mass: float = 0.5
    final_end_mass: float = 0.8
    final_part: float = 0.15  # of all steps

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1 or not 0 <= self.end_mass <= 1 or not 0 <= self.final_end_mass <= 1:
            raise ValueError(f"t_min lies in (0, 1), the masses in [0, 1], got {self}")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run gives."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    steps: int = 10000
    batch: int = 8
    seed: int = 0
    warm_level: float = 0.3  # share of segments whose level starts as if sound had gone before
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")


def load_recipe(name: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Return the recipe of a YAML file, or of a name in `sbm_cli/recipes`, with `key.key=value` overrides applied.

    Raises ConfigError for a file that is not there, is not YAML, or has an unknown key.
    """
    import yaml

    path = Path(name)
    if not path.suffix:
        path = recipes_folder() / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.yaml")))
        raise ConfigError(
            f"{name}: no such recipe ({error.strerror})", f"Give a YAML file, or one of: {known}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected key=value", "For example --set optimizer.rate=1e-3")
        _set(values, key.split("."), yaml.safe_load(text), override)
    return build(TrainConfig, values, str(path))


def recipes_folder() -> Path:
    return Path(__file__).parent.parent / "recipes"


def _set(values: Any, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {}) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise ConfigError(f"--set {override}: there is no such group of keys")
    if isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 1e-3 as a word
        except ValueError:
            pass
    values[keys[-1]] = value
