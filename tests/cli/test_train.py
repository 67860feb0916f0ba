"""`sbm train`: options reach the loop, its progress is readable, and forgetting is reported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sbm_cli import hub
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.dry_run import Forecast
from sbm_cli.training.loop import Outcome, Progress
from sbm_cli.training.validation import Score


class Asked(dict[str, Any]):
    """The arguments that a loop got which only notes them, and the scores that it is to return."""

    before: dict[str, Score] = {}
    after: dict[str, Score] = {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    noted = Asked()

    def train(recipe: Any, output: Path, *, report: Any, bars: Any, **options: Any) -> Outcome:
        output.mkdir(parents=True)
        (output / "train.csv").write_text("step,loss\n50,12.34567\n200,1.0\n")
        noted.update(recipe=recipe, output=output, **options)
        report(Progress(50, 200, 12.34567, 1.0, 1e-3, 17.25, 0.0, 0, 7260.0))
        report(Progress(200, 200, 1.0, 1.0, 1e-3, 17.25, 0.0, 3, 0.0, {"valid": Score(2.5, 11.0, 9.5)}))
        return Outcome(200, False, noted.before, noted.after)

    monkeypatch.chdir(tmp_path)  # where the picture of the loss goes
    monkeypatch.setattr("sbm_cli.training.loop.train", train)
    monkeypatch.setattr("sbm_cli.data.sources.check_data", lambda data: [])
    monkeypatch.setattr("sbm_cli.training.loop.check_start", lambda path, config: None)
    monkeypatch.delenv("RANK", raising=False)
    return noted


def test_options_reach_the_loop(sbm: Any, asked: Asked) -> None:
    arguments = "--set steps=200 --set optimizer.rate=1e-3 --output mine --resume --max-minutes 1.5 --processes 2"
    result = sbm("train", "--config", "sbm-tiny", *arguments.split(), "--device", "cpu", "--precision", "bfloat16")
    assert (result.status, result.out) == (0, "")
    recipe = asked.pop("recipe")
    assert (recipe.steps, recipe.optimizer.rate, recipe.loop.precision) == (200, 1e-3, "bfloat16")
    assert asked == {
        "output": Path("mine"), "resume": True, "max_minutes": 1.5, "processes": 2, "start": None, "device": "cpu"
    }  # fmt: skip
    assert result.err.splitlines() == [
        "mine: nothing to resume; the training starts from the beginning",
        f"sbm-tiny: 200 steps of {recipe.batch} mixtures -> mine",
        "step 50/200  loss 12.3457  17.2 s of audio per second  2 h 01 min left",
        "step 200/200  loss 1.0000  17.2 s of audio per second  0 s left  3 steps skipped",
        "  valid: loss 2.5000  SI-SDR 11.00 dB (+1.50)",
        "mine/loss.svg shows the loss",
        "mine/sbm-tiny.safetensors",
    ]


def test_the_output_is_named_after_the_model(sbm: Any, asked: Asked) -> None:
    assert sbm("train", "-c", "sbm-tiny", "--set", "model.name=mine", "--pack", "a b", "-q").err == ""
    assert asked["output"] == Path("runs/mine") and asked["recipe"].data.pack == "a b"
    assert (asked["resume"], asked["max_minutes"], asked["processes"]) == (False, None, None)
    assert (asked["start"], asked["device"]) == (None, "auto")


def test_one_process_of_torchrun_speaks(sbm: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert sbm("train", "-c", "sbm-tiny").err == "" and asked


def test_fine_tuning_takes_the_model_s_own_dimensions(sbm: Any, asked: Asked) -> None:
    name = hub.default_name()
    weights = hub.resolve(name)
    assert sbm("train", "--from", name).status == 0
    assert asked["start"] == weights and asked["output"] == Path("runs") / f"{name}-tuned"
    assert asked["recipe"].model.name == f"{name}-tuned" and asked["recipe"].data.own_share > 0
    assert asked["recipe"].mix.p_keep_room > 0  # which it has learnt
    assert sbm("train", "--from", weights, "--config", "sbm-tiny", "--output", "here").status == 0
    assert asked["recipe"].model.name == "sbm-tiny" and asked["recipe"].data.own_share == 0


@pytest.mark.parametrize(
    ("general", "warning"),
    [
        ((11.0, 10.8), None),
        ((11.0, 10.6), "sbm: warning: the model got 0.40 dB worse on general noise"),
        (None, "sbm: warning: without general noise, nothing shows what the model forgot"),
    ],
)
def test_forgetting_is_reported(
    sbm: Any, asked: Asked, general: tuple[float, float] | None, warning: str | None
) -> None:
    asked.before, asked.after = ({"own": Score(3.0, si_sdr, 5.0)} for si_sdr in (8.0, 9.5))
    if general is not None:
        for scores, si_sdr in zip((asked.before, asked.after), general, strict=True):
            scores["general"] = Score(3.0, si_sdr, 9.0)
    lines = sbm("train", "--from", hub.default_name()).err.splitlines()
    assert "own: SI-SDR 8.00 -> 9.50 dB" in lines
    assert [line for line in lines if "warning" in line] == ([warning] if warning else [])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-c", "sbm-tiniest"], 1, "sbm: sbm-tiniest: no such recipe"),
        (["-c", "sbm-tiny", "--set", "stepz=1"], 2, "unknown key 'stepz', did you mean 'steps'?"),
        (["-c", "sbm-tiny", "--set", "steps"], 2, "sbm: --set steps: expected key=value"),
        (["--from", "sbm-tiniest"], 1, "unknown model 'sbm-tiniest'"),
        ([], 2, "give a recipe, or --from a model to fine-tune"),
    ],
)
def test_what_cannot_be_trained_is_one_message(
    sbm: Any, asked: Asked, arguments: list[str], status: int, message: str
) -> None:
    result = sbm("train", *arguments)
    assert (result.status, asked) == (status, {})
    assert message in result.err and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("data.speech=[nope]", "sbm: nope: not a folder"),
        ("data.speech=[voices]", "sbm: no noise in the train split"),
        ("data.pack=nope", "sbm: nope: not a folder"),
        ("data.cache=elsewhere", "sbm: no training data was named"),
    ],
)
def test_paths_are_checked_before_anything_else(
    sbm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voices").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "voices" / name).touch()  # nothing is decoded
    result = sbm("train", "-c", "sbm-tiny", "--set", value)
    assert result.status == 1 and result.err.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["voices"]


def test_a_dry_run_tries_everything_and_leaves_nothing(
    sbm: Any, recipe: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    speech, noise = recipe.data.speech[0], recipe.data.noise[0]
    ours = ["-c", "sbm-tiny", "--set", f"data.speech=[{speech}]", "--set", f"data.noise=[{noise}]", "--dry-run"]
    result = sbm("train", *ours, "--device", "cpu", "--processes", "2", "--set", "steps=100", "--set", "batch=4")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "model   sbm-tiny, 0.29 million parameters",
        "speech  8 s in 5 files to train on, 2 s in 1 file to validate on",
        "noise   4 s in 2 files to train on, 2 s in 1 file to validate on",
        "steps   100 of 12 s each, 20 min of audio in all",
        "device  cpu, 2 processes, float32",
        "output  runs/sbm-tiny",
    ]
    assert not list(tmp_path.iterdir())
    (tmp_path / "bad.wav").write_text("no sound")
    result = sbm("train", *ours, "--set", f"data.noise=[{noise}, {tmp_path}]")
    assert result.status == 1 and "bad.wav: not a sound file" in result.err


def test_a_single_noise_is_not_validated_on(
    sbm: Any, recipe: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = tmp_path / "noise"
    noise.mkdir()
    shutil.copy(next(Path(recipe.data.noise[0]).iterdir()), noise)
    ours = ["--set", f"data.speech=[{recipe.data.speech[0]}]", "--set", f"data.noise=[{noise}]", "--device", "cpu"]
    ours += ["--set", "batch=1", "--dry-run"]
    for begin, valid in (("--config", "none"), ("--from", "the same")):
        result = sbm("train", begin, "sbm-tiny", *ours)
        assert result.out.splitlines()[2] == f"noise   2 s in 1 file to train on, {valid} to validate on"
        assert ("nothing is validated, and best/ will hold the last model: no noise" in result.err) == (valid == "none")


def test_where_a_training_goes_on_is_said(sbm: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = Forecast("cpu", 1, 10**6, {})
    monkeypatch.setattr("sbm_cli.training.dry_run.dry_run", lambda *_: forecast)
    monkeypatch.setattr("sbm_cli.training.loop.check_output", lambda *_: None)
    ours = ["train", "-c", "sbm-tiny", "--set", "steps=200", "-o", "mine", "--resume"]
    assert sbm(*ours, "--dry-run").out.endswith(
        "output  mine: nothing to resume; the training starts from the beginning\n"
    )
    monkeypatch.setattr("sbm_cli.training.state.saved_step", lambda output: 150)
    assert sbm(*ours, "--dry-run").out.endswith("output  mine: goes on after 150 steps\n")
    monkeypatch.setattr("sbm_cli.training.state.saved_step", lambda output: 200)
    lines = sbm(*ours).err.splitlines()
    assert lines[0] == "mine: complete already, after 200 steps" and "mixtures" not in lines[1]


@pytest.mark.parametrize(
    ("step", "said"), [(None, "nothing was saved yet"), (70, "saved after step 70 of 200; --resume goes on")]
)
def test_an_interrupted_training_says_what_is_saved(
    sbm: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch, step: int | None, said: str
) -> None:
    def train(*_: object, **__: object) -> Outcome:
        raise KeyboardInterrupt

    saved = iter([None, step])
    monkeypatch.setattr("sbm_cli.training.state.saved_step", lambda output: next(saved))
    monkeypatch.setattr("sbm_cli.training.loop.train", train)
    result = sbm("train", "-c", "sbm-tiny", "--set", "steps=200", "-o", "mine")
    assert result.status == 130 and result.err.splitlines()[1:] == [f"mine: {said}", "sbm: interrupted"]


def test_a_folder_in_use_is_refused_first(sbm: Any, asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "last.pt").touch()
    assert sbm("train", "-c", "sbm-tiny", "-o", tmp_path).err.startswith(f"sbm: {tmp_path}: holds a training already")
    assert asked == {}
