"""Training recipe: strict YAML or JSON into frozen dataclasses, one recipe based on another."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from sbm_cli.config import UnknownKeyError, build, check_ranges, did_you_mean, dump, parse_json, shown, written
from sbm_cli.data.manifest import RATE
from sbm_cli.data.mixing import MixConfig
from sbm_cli.data.sources import DataConfig
from sbm_cli.errors import ConfigError
from sbm_cli.model import ModelConfig, upgraded
from sbm_cli.training.losses import LossConfig
from sbm_cli.training.objectives import AnyObjective
from sbm_cli.training.objectives.bridge import Bridge

RECIPES = Path(__file__).parent.parent / "recipes"
MANY = 10**9  # steps of a training, at most, and what is counted in them
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class OptimizerConfig:
    """Rate rises over `warmup` steps, stays, and falls along a half cosine over the last `decay` of all steps.

    The constant part does not depend on the number of steps: a run can be continued before its end is decided.
    """

    method: str = "adamw"  # "muon": matrices take Muon's steps, as large as AdamW's; the rest is AdamW's
    rate: float = 2e-3
    final_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = 0.95  # Muon's
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.method not in ("adamw", "muon"):
            raise ValueError(f"method is adamw or muon, got {self.method!r}")
        check_ranges(self, rate="(0, inf)", final_rate="(0, inf)", decay="(0, 1]", ema="[0, 1)", clip="(0, inf)")
        check_ranges(self, betas="[0, 1)", momentum="[0, 1)", weight_decay="[0, inf)", warmup=f"[0, {MANY}]")
        if self.final_rate > self.rate:
            raise ValueError(f"final_rate must be at most rate, got {self.final_rate} and {self.rate}")


@dataclass(frozen=True)
class TimeConfig:
    """Bridge times of training: uniform on [t_min, 1] with a point mass at 1, which grows towards the end."""

    t_min: float = 1e-4
    end_mass: float = 0.5
    final_end_mass: float = 0.8
    final_part: float = 0.15  # of all steps

    def __post_init__(self) -> None:
        check_ranges(self, t_min="(0, 1)", end_mass="[0, 1]", final_end_mass="[0, 1]", final_part="[0, 1]")


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs on a machine. Of what is learnt only the rounding depends on it."""

    micro_batch: int = 0  # items of one forward pass; 0: one on a CPU (they stay in its caches), all there are on a GPU
    precision: str = "float32"  # of the network's products: float32, bfloat16 or float16
    tf32: bool = True  # float32 products of a GPU with 10 bits of mantissa
    skip_limit: int = 20  # steps in a row without a finite loss and gradient, after which the training stops
    report_every: int = 50  # steps
    validate_every: int = 500  # steps; 0: never
    validate_items: int = 16  # mixtures of the valid split

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_ranges(self, **dict.fromkeys(("micro_batch", "validate_every"), f"[0, {MANY}]"))
        check_ranges(self, **dict.fromkeys(("skip_limit", "report_every", "validate_items"), f"[1, {MANY}]"))


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run gives."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    objective: AnyObjective = field(default_factory=Bridge)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    steps: int = 10000
    batch: int = 8
    seed: int = 0
    warm_level: float = 0.3  # fraction of segments whose level starts as if sound had gone before,
    warm_level_db: tuple[float, float] = (-6.0, 6.0)  # so much louder or softer than the segment
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, steps=f"[1, {MANY}]", batch="[1, 1000000]")
        check_ranges(self, warm_level="[0, 1]", checkpoint_minutes="[0, inf)")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed lies between 0 and 2**63 - 1, got {self.seed}")
        if self.warm_level_db[0] > self.warm_level_db[1] or max(map(abs, self.warm_level_db)) > 60:
            raise ValueError(
                f"warm_level_db is a range within 60 dB, the lower end first, got {written(self.warm_level_db)}"
            )
        if self.mix.p_keep_room and not self.model.network.keep_room:
            raise ValueError("mix.p_keep_room needs a network that can be asked for it: model.network.keep_room")
        if self.model.rate != RATE:
            raise ValueError(f"mixtures are made at {RATE} Hz, and so is the model's rate, got {self.model.rate}")
        self.objective.check(self)


class OverrideError(ConfigError):
    """A `key.key=value` that a recipe cannot take."""


def load_recipe(name: str | Path, overrides: list[str] | None = None, model: ModelConfig | None = None) -> TrainConfig:
    """Return a recipe, with `key.key=value` overrides applied.

    name: of a recipe in `sbm_cli/recipes`, such as "sbm-tiny" or "ablations/mapping", or a YAML or JSON file. What it
    does not say comes from the recipe that its `base` names, a file beside it or a shipped one; the model is then
    named after the file. JSON needs no YAML reader.
    model: takes the place of the model of `finetune`, in it and in recipes that are based on it.

    Raises ConfigError for a file that is not there, is not YAML or JSON, or has an unknown key, OverrideError for an
    override.
    """
    path = _find(str(name), Path())
    values = _inherited(path, (), model)
    recipe, about = _build(values, str(path)), ""
    failure: ConfigError | None = None
    for override in overrides or []:
        values = _merge(values, _change(override))
        try:
            recipe, failure = _build(values, str(path)), None
        except ConfigError as error:
            if failure is None or error.message != failure.message:  # else it is still about the one before
                about, failure = override, error
    if failure is None:
        return recipe
    message = failure.message.removeprefix(f"{path}: ")
    for key in about.partition("=")[0].split("."):
        message = message.removeprefix(f"{key}: ")
    raise OverrideError(f"--set {about}: {message}", failure.hint) from failure


def _change(override: str) -> dict[str, Any]:
    """Return the values that `key.key=value` changes."""
    keys, equals, text = override.partition("=")
    if not equals:
        raise OverrideError(f"--set {override}: expected key=value", "For example --set optimizer.rate=1e-3")
    try:
        change: dict[str, Any] = _parse(text, f"--set {override}")
    except ConfigError as error:
        raise OverrideError(error.message) from error
    for key in reversed(keys.split(".")):
        change = {key: change}
    return change


def _build(values: Any, where: str) -> TrainConfig:
    """Return the recipe; a key on a wrong level is told where it belongs."""
    try:
        return build(TrainConfig, values, where)
    except UnknownKeyError as error:
        if places := [path for path in _paths(TrainConfig) if path.rpartition(".")[2] == error.key]:
            hint = f"A recipe has {' and '.join(places)}. {error.hint}"
            raise ConfigError(error.message, hint) from error
        raise


def _paths(cls: Any, group: str = "") -> Iterator[str]:
    """Yield the paths of all keys, such as optimizer.rate."""
    for name, hint in get_type_hints(cls).items():
        yield group + name
        if is_dataclass(hint):
            yield from _paths(hint, f"{group}{name}.")


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    files = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path.parent, path.stem))
    return [_name(path) for path in files]


def _name(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix("").as_posix()


def _find(name: str, folder: Path) -> Path:
    """Return the file of a recipe; a file's name (it has a suffix) is looked for in `folder`."""
    return folder / name if Path(name).suffix else RECIPES / f"{name}.yaml"


def _inherited(path: Path, heirs: tuple[Path, ...], model: ModelConfig | None) -> dict[str, Any]:
    """Return the values of a recipe and of those that it is based on, each checked under its own file's name.

    model: as in `load_recipe`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})", "Save the recipe as UTF-8.") from error
    except OSError as error:
        recipes, heir = list_recipes(), f"{heirs[0]}: base: " if heirs else ""
        name = _name(path) if path.is_relative_to(RECIPES) else str(path)
        raise ConfigError(
            f"{heir}{name}: no such recipe ({error.strerror}){did_you_mean(name, recipes)}",
            textwrap.fill(f"Give a file, or one of {', '.join(recipes)}.", 75, break_on_hyphens=False),
        ) from error
    said = _parse(text, str(path), json_only=path.suffix == ".json")
    if not isinstance(said, dict):
        raise ConfigError(f"{path}: expected keys and values, got {shown(said)}", "For example base: sbm-tiny")
    values: dict[str, Any] = said
    base = values.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: base is the name of a recipe, got {base!r}")
        parent = _find(base, path.parent).resolve()
        if parent in [heir.resolve() for heir in (path, *heirs)]:
            raise ConfigError(f"{path}: is based on itself, through base: {base}")
        inherited = _inherited(parent, (path, *heirs), model)
        values = _merge(_merge(inherited, {"model": {"name": path.stem}}), values)
    elif isinstance(values.get("model"), dict):
        values["model"] = upgraded(values["model"])
    if model is not None and path.resolve() == RECIPES.resolve() / "finetune.yaml":
        values["model"] = dump(model)
        if model.network.keep_room:  # or it would forget how
            values = _merge({"mix": {"p_keep_room": 0.25}}, values)
    _build(values, str(path))
    return values


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with `changes`, group by group; a group of another `kind` replaces the old one."""
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(change, dict) and change.get("kind") in (None, old.get("kind")):
            change = _merge(old, change)
        merged[key] = change
    return merged


def _parse(text: str, where: str, json_only: bool = False) -> Any:
    """Return what a text in JSON or YAML says."""
    try:
        return parse_json(text, unique=True)
    except ValueError as error:
        if json_only:
            raise ConfigError(f"{where}: not valid JSON ({error})") from error
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as a number, as YAML 1.2 does; for YAML 1.1 it is a word. Refuses a key that stands twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)))
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        problem = str(error).partition("\n")[0]
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            problem = f"{error.problem}, line {error.problem_mark.line + 1}"
        raise ConfigError(f"{where}: not valid YAML ({problem})") from error
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
