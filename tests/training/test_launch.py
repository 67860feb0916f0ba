"""Several processes: the loss of one, started here or by torchrun; errors keep their hint, interrupts their status."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from sbm_cli.config import dump
from sbm_cli.data.sources import open_sources
from sbm_cli.errors import DependencyError, TrainingError
from sbm_cli.training.config import LoopConfig, TrainConfig
from sbm_cli.training.launch import Worker, launch
from sbm_cli.training.loop import _Training, train
from tests.conftest import PATIENCE


def losses(folder: Path) -> list[float]:
    with open(folder / "train.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def alone(recipe: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, list[float]]:
    """Train by one process, every step reported."""
    each = replace(recipe, loop=LoopConfig(report_every=1, validate_every=3, validate_items=2))
    folder = tmp_path_factory.mktemp("alone")
    train(each, folder, processes=1)
    return each, losses(folder)


def test_two_processes_follow_one(alone: tuple[TrainConfig, list[float]], tmp_path: Path) -> None:
    """The same batches, shared: losses agree to the rounding of sums taken in another order."""
    outcome = train(alone[0], tmp_path, processes=2)
    assert losses(tmp_path) == pytest.approx(alone[1], rel=1e-3)
    assert outcome.step == alone[0].steps and "valid" in outcome.after
    assert "MASTER_PORT" not in os.environ


def test_torchrun_follows_one(alone: tuple[TrainConfig, list[float]], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dump(alone[0])))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = ["-m", "sbm_cli", "train", "--config", "recipe.yaml", "--output", "out", "--device", "cpu"]
    result = subprocess.run([*torchrun, *command], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "out") == pytest.approx(alone[1], rel=1e-3)
    assert result.stderr.count("toy: 6 steps of 4 mixtures -> out") == 1  # one process speaks


def fail(worker: Worker, error: Exception) -> None:
    if worker.rank == 1:
        raise error
    time.sleep(30)  # the other one is ended


def test_an_error_of_any_process_is_reported_whole(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError) as caught:
        launch(fail, "cpu", 2, TrainingError("step 3: lost", "Look for it."))
    assert (caught.value.message, caught.value.hint) == ("step 3: lost", "Look for it.")
    assert capfd.readouterr().err == ""  # torch says which process it ends


def test_an_interrupted_training_ends_with_status_130_and_a_checkpoint(recipe: TrainConfig, tmp_path: Path) -> None:
    long = replace(recipe, steps=100000, loop=LoopConfig(report_every=1, validate_every=0))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dump(long)))
    command = [sys.executable, "-m", "sbm_cli", "train", "-c", "recipe.yaml", "-o", "out", "--processes", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        reported = ""
        while "step 2/" not in reported and (line := process.stderr.readline()):
            reported += line
        process.send_signal(signal.SIGINT)  # to the parent alone, as `kill` does
        reported += process.stderr.read()
    assert process.returncode == 130, reported
    assert (
        reported.rstrip().endswith("sbm: interrupted") and "Traceback" not in reported and "distributed" not in reported
    )
    assert torch.load(tmp_path / "out" / "last.pt", weights_only=True)["step"] >= 2


def test_without_fabric_one_process_trains_and_two_are_refused(
    recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    train(replace(recipe, steps=1), tmp_path / "one", processes=1)
    with pytest.raises(DependencyError, match="lightning_fabric") as caught:
        train(recipe, tmp_path / "two", processes=2)
    assert 'pip install "sbm-cli[train]"' in caught.value.hint


def test_cuda_is_asked_for_only_where_it_is(recipe: TrainConfig, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DependencyError, match="no device cuda: torch sees 0 NVIDIA GPUs"):
        train(recipe, tmp_path, device="cuda")


LEAN = """
import json, sys
from pathlib import Path
for name in ("yaml", "scipy", "soundfile", "soxr", "safetensors", "lightning_fabric", "tensorboard", "typer"):
    sys.modules[name] = None
import torch
from sbm_cli.config import build
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.loop import _Training, train
from sbm_cli.data.sources import open_sources
from sbm_cli.data.sources import Sources

class Noise:
    device = torch.device("cpu")
    def batch(self, seed, step, items):
        return torch.randn(len(items), 4000), torch.randn(len(items), 4000)

recipe = build(TrainConfig, json.loads(sys.argv[1]), "recipe")
train(recipe, Path(sys.argv[2]), sources=Sources(Noise(), {"valid": Noise()}))
"""


def test_a_lean_machine_trains(recipe: TrainConfig, tmp_path: Path) -> None:
    """As a rented GPU is: nothing but torch and numpy. (Numba is left to the scan of this CPU.)"""
    short = replace(recipe, steps=2, loop=LoopConfig(validate_items=2))
    script = [sys.executable, "-c", LEAN, json.dumps(dump(short)), str(tmp_path)]
    result = subprocess.run(script, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "last.pt").exists() and (tmp_path / "valid.csv").exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_does_not_wait_for_the_gpu(recipe: TrainConfig, tmp_path: Path, precision: str) -> None:
    config = replace(recipe, loop=LoopConfig(precision=precision, validate_every=0))
    worker = Worker(torch.device("cuda"))
    sources = open_sources(config.data, config.mix, worker.device)
    with closing(_Training(worker, config, tmp_path, None, sources)) as training:
        for step in range(4):
            torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")  # the first steps compile
            try:
                training.learn(*sources.train.batch(config.seed, step, training.items))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(training.optimizer.average).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_follows_the_cpu_and_its_checkpoint_is_resumed_there(
    alone: tuple[TrainConfig, list[float]], tmp_path: Path
) -> None:
    exact = replace(alone[0], loop=replace(alone[0].loop, tf32=False))
    train(exact, tmp_path, device="cuda")
    assert losses(tmp_path) == pytest.approx(alone[1], rel=1e-2)
    outcome = train(replace(exact, steps=8), tmp_path, resume=True, device="cpu", processes=1)
    assert outcome.step == 8
