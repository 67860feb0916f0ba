"""`sbm train`: options reach the loop, and its progress is readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sbm_cli.training.loop import Progress


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a loop that only notes its arguments in place of ours."""
    noted: dict[str, Any] = {}

    def train(recipe: Any, output: Path, *, report: Any, **options: Any) -> None:
        noted.update(recipe=recipe, output=output, **options)
        report(Progress(50, 200, 12.34567, 1.0, 17.25, 7260.0))
        report(Progress(200, 200, 1.0, 1.0, 17.25, 0.0))

    monkeypatch.setattr("sbm_cli.training.loop.train", train)
    return noted


def test_options_reach_the_loop(sbm: Any, asked: dict[str, Any]) -> None:
    arguments = "--set steps=200 --set optimizer.rate=1e-3 --output mine --resume --max-minutes 1.5 --processes 2"
    result = sbm("train", "--config", "sbm-tiny", *arguments.split())
    assert (result.status, result.out) == (0, "")
    recipe = asked.pop("recipe")
    assert (recipe.steps, recipe.optimizer.rate) == (200, 1e-3)
    assert asked == {"output": Path("mine"), "resume": True, "max_minutes": 1.5, "processes": 2}
    assert result.err.splitlines() == [
        f"sbm-tiny: 200 steps of {recipe.batch} mixtures -> mine",
        "step 50/200  loss 12.3457  17.2 s of audio per second  2 h 01 min left",
        "step 200/200  loss 1.0000  17.2 s of audio per second  0 min left",
        "mine/sbm-tiny.safetensors",
    ]


def test_the_output_is_named_after_the_model(sbm: Any, asked: dict[str, Any]) -> None:
    assert sbm("train", "-c", "sbm-tiny", "--set", "model.name=mine", "-q").err == ""
    assert asked["output"] == Path("runs/mine")
    assert (asked["resume"], asked["max_minutes"], asked["processes"]) == (False, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "sbm-tiniest"], "sbm: sbm-tiniest: no such recipe"),
        (["-c", "sbm-tiny", "--set", "stepz=1"], "unknown key 'stepz', did you mean 'steps'?"),
        (["-c", "sbm-tiny", "--set", "steps"], "sbm: --set steps: expected key=value"),
    ],
)
def test_wrong_recipes_are_one_message(sbm: Any, asked: dict[str, Any], arguments: list[str], message: str) -> None:
    result = sbm("train", *arguments)
    assert (result.status, asked) == (1, {})
    assert message in result.err and "Traceback" not in result.err
