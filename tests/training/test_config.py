"""Recipes build on each other, are strict under their own file's name, and in JSON need no YAML reader."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sbm_cli.bridge.schedule import VE, VP
from sbm_cli.config import dump
from sbm_cli.errors import ConfigError
from sbm_cli.training.config import load_recipe


def write(folder: Path, **recipes: str) -> Path:
    """Write NAME.yaml files and return the last one's path."""
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{list(recipes)[-1]}.yaml"


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    path = write(tmp_path, mine="base: sbm-tiny\nmodel: {network: {blocks: 2}}\nsteps: 7")
    mine, tiny = load_recipe(path), load_recipe("sbm-tiny")
    assert (mine.model.network.blocks, mine.steps, mine.model.name) == (2, 7, "mine")
    assert mine.model.network.channels == tiny.model.network.channels and mine.mix == tiny.mix


def test_bases_form_a_chain_of_files_beside_each_other(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        first="model: {name: first}\nbatch: 3\nsteps: 5",
        second="base: first.yaml\nsteps: 6",
        third="base: second.yaml\nmodel: {name: other}",
    )
    config = load_recipe(path)
    assert (config.model.name, config.batch, config.steps) == ("other", 3, 6)


def test_another_kind_of_schedule_takes_nothing_from_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path, mine="base: sbm-tiny\nmodel: {schedule: {kind: vp, c: 0.1}}")
    assert load_recipe(path).model.schedule == VP(c=0.1)
    assert load_recipe("sbm-tiny", ["model.schedule.kind=vp"]).model.schedule == VP()
    assert load_recipe("sbm-tiny", ["model.schedule.c=0.2"]).model.schedule == VE(c=0.2)


def test_overrides_stand_on_top(tmp_path: Path) -> None:
    path = write(tmp_path, mine="base: sbm-tiny\noptimizer: {rate: 1e-4}")
    assert load_recipe(path).optimizer.rate == 1e-4
    config = load_recipe(path, ["optimizer.rate=2e-3", "data.speech=[a, b]", "mix.p_reverb=.5", "batch=2"])
    assert (config.optimizer.rate, config.data.speech) == (2e-3, ("a", "b"))
    assert (config.mix.p_reverb, config.batch) == (0.5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: sbm-tiny\noptimizer: {rat: 1.0}", r"mine\.yaml: optimizer: unknown key 'rat', did you mean 'rate'\?"),
        ("base: sbm-tiny\nmodle: {}", r"mine\.yaml: unknown key 'modle', did you mean 'model'\?"),
        ("base: sbm-tiny\nloss: {magnitud: 1.0}", "did you mean 'magnitude'"),
        ("base: sbm-tiny\nmodel: {network: {output: masks}}", r"mine\.yaml: model: network: output is one of"),
        ("base: broken.yaml", r"broken\.yaml: unknown key 'stepz', did you mean 'steps'"),
        ("base: mine.yaml", "is based on itself"),
        ("base: 3", "base is the name of a recipe"),
        ("base: sbm-huge", r"mine\.yaml: base: sbm-huge: no such recipe"),
        ("base: sbm-tny", r"sbm-tny: no such recipe \(No such file or directory\), did you mean 'sbm-tiny'\?"),
        ("base: sbm-tiny\nsteps: 2\nsteps: 3", r"mine\.yaml: not valid YAML \('steps' stands twice, line 3\)$"),
        ("base: sbm-tiny\nloss: {magnitude: 1.0, magnitude: 2.0}", "'magnitude' stands twice"),
        ('{"base": "sbm-tiny", "steps": 2, "steps": 3}', "'steps' stands twice"),
        ("- 1", "expected keys and values"),
        ("# nothing yet", r"mine\.yaml: expected keys and values, got nothing"),
        ("a: [", r"mine\.yaml: not valid YAML"),
        ("base: sbm-tiny\nsteps: {x: 1}", "steps: expected a whole number"),
    ],
)
def test_errors_name_the_file_they_are_in(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, broken="model: {name: x}\nstepz: 3", mine=text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.rat=1", r"^--set optimizer\.rat=1: unknown key 'rat', did you mean 'rate'"),
        ("batch", "expected key=value"),
        ("batch=many", "^--set batch=many: expected a whole number, got 'many'$"),
        ("batch=0", r"^--set batch=0: batch must be in \[1, 1000000\], got 0$"),
        ("steps.x=1", r"^--set steps\.x=1: expected a whole number"),
        ("objective.foo=1", "^--set objective.foo=1: kind is one of bridge, .*, and has to be given first$"),
        ("model.schedule.kind=vx", r"^--set model\.schedule\.kind=vx: kind is one of ve, vp, gmax"),
        ("model.network.untimed=true", r"^--set model\.network\.untimed=true: .*set it to 0"),
        ("mix.snr_db=[1", r"^--set mix\.snr_db=\[1: not valid YAML \(expected .*, line 1\)$"),
        ("mix.snr_db=[20, -5]", r"snr_db has its lower end first, got \[20, -5\]$"),
        ("mix.snr_db=[nan, 3]", "expected a number, got 'nan'$"),
        ("data.speech=voices", r"expected a list, such as \[voices\], got 'voices'$"),
        ("mix=", "^--set mix=: expected keys and values, got nothing$"),
        ("optimizer.rate=-1", r"^--set optimizer\.rate=-1: rate must be above 0, got -1$"),
        ("model.network.blocks=0", r"^--set model\.network\.blocks=0: blocks must be in \[1, 256\], got 0$"),
    ],
)
def test_errors_of_overrides_name_them(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("sbm-tiny", ["seed=1", "optimizer.warmup=9", "steps=9", override, "checkpoint_minutes=5"])


def test_an_unknown_name_is_answered_with_all_recipes() -> None:
    with pytest.raises(ConfigError, match="sbm-huge: no such recipe") as caught:
        load_recipe("sbm-huge")
    assert {"sbm-tiny,", "ablations/mapping,"} <= set(caught.value.hint.split())


def test_json_needs_no_yaml_reader(tmp_path: Path) -> None:
    tiny = load_recipe("sbm-tiny")
    path, heir = tmp_path / "whole.json", tmp_path / "heir.json"
    path.write_text(json.dumps(dump(tiny)))
    heir.write_text('{"base": "whole.json", "model": {"name": "sbm-tiny"}}')
    assert load_recipe(path) == load_recipe(heir) == tiny
    script = (
        "import sys; sys.modules['yaml'] = None\n"
        "from sbm_cli.training.config import load_recipe\n"
        f"print(load_recipe({str(heir)!r}, ['steps=3']).steps)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "3", run.stderr
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".", "..", ".hidden", "a\\b", "/x", "\x1b[31mevil\n"])
def test_a_model_is_not_called_like_a_path(name: str) -> None:
    """Files are named after it, and whose recipe or model it is may be anybody."""
    with pytest.raises(ConfigError, match="name must be a plain file name"):
        load_recipe("sbm-tiny", [f"model.name={json.dumps(name)}"])


@pytest.mark.parametrize("rate", [8000, 48000])
def test_the_model_has_the_rate_of_the_mixtures(rate: int) -> None:
    with pytest.raises(ConfigError, match=f"mixtures are made at 16000 Hz, and so is the model's rate, got {rate}"):
        load_recipe("sbm-tiny", [f"model.rate={rate}"])


@pytest.mark.parametrize(
    "override",
    [
        "data.rooms=0",
        "data.own_share=1.5",
        "mix.p_reverb=-0.1",
        "mix.snr_db=[0, 1e9]",
        "mix.shelf_db=-1",
        "mix.clip_db=[-1, 3]",
        "mix.level_dbfs=[.nan, 0]",
        "loss={magnitude: 0, complex: 0, multi_magnitude: 0, multi_complex: 0, snr: 0, disturbance: 0}",
        "loss.snr=-1",
        "loss.snr=.inf",
        "loss.windows=[1048576]",
        "loss.exponent=0",
        "optimizer.clip=0",
        "optimizer.clip=-1",
        "optimizer.betas=[0.9, 1]",
        "optimizer.momentum=1",
        "optimizer.weight_decay=-1",
        "optimizer.warmup=-1",
        "optimizer.ema=1",
        "optimizer.rate=.nan",
        "time.end_mass=2",
        "time.final_part=1.5",
        "time.t_min=0",
        "loop.validate_items=0",
        "loop.report_every=0",
        "loop.micro_batch=-1",
        "steps=0",
        "seed=-1",
        "warm_level=1.1",
        "checkpoint_minutes=-1",
    ],
)
def test_values_out_of_range_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe("sbm-tiny", [override])


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_what_is_nested_too_deeply_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    path.write_text('{"steps": ' + 50_000 * "[" + 50_000 * "]" + "}")
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_recipe("sbm-tiny", ["steps=" + 5000 * "["])


def test_the_model_to_tune_takes_the_place_of_finetune_s(tmp_path: Path) -> None:
    tuned = replace(load_recipe("sbm-small").model, name="sbm-small-tuned")
    heir = tmp_path / "mine.yaml"
    heir.write_text("base: finetune\nsteps: 7\nmodel: {schedule: {c: 0.3}}\n")
    assert load_recipe("finetune", [], tuned).model == tuned
    assert load_recipe("finetune", ["model.name=other"], tuned).model == replace(tuned, name="other")
    found = load_recipe(heir, [], tuned)
    assert found.model == replace(tuned, name="mine", schedule=replace(tuned.schedule, c=0.3)) and found.steps == 7
    assert load_recipe("sbm-tiny", [], tuned) == load_recipe("sbm-tiny")


def test_a_key_on_the_wrong_level_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match="unknown key 'batch'\n") as caught:
        load_recipe("sbm-tiny", ["loop.batch=4"])
    assert caught.value.hint.startswith("A recipe has batch. Known keys: micro_batch")
