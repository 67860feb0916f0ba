"""What is evaluated: models with their options, programs, folders, and the rules that hold for the output of each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sbm_cli.errors import AudioError, SbmError
from sbm_cli.evaluation.systems import Folder, Program, all_options, load_models, run
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import Options
from sbm_cli.timing.commands import Command

NOISY = np.random.default_rng(0).uniform(-0.1, 0.1, 8000).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    Model(OSpatialNet(small), ModelConfig("small", network=small)).save(path)
    return path


def test_one_step_is_one_whatever_the_sampler() -> None:
    combined = [(options.steps, options.sampler) for options in all_options([1, 5], ["ode", "sde"])]
    assert combined == [(1, "ode"), (5, "ode"), (5, "sde")]
    assert [options.warm_up for options in all_options([1, 5], ["ode"], Options(warm_up=False))] == [False, False]
    with pytest.raises(ValueError, match="sampler"):
        all_options([2], ["euler"])


def test_models_are_called_after_their_configuration_and_steps(model: Path) -> None:
    options = all_options([1], ["ode"])
    assert [system.name for system in load_models([str(model)], options, 1)] == ["small"]
    other = str(model.with_name("small.safetensors"))
    assert [one.name for one in load_models([str(model.parent), other], options, 1)] == [str(model.parent), other]
    output, took = run(load_models([str(model)], options, 1)[0], "a", NOISY)
    assert output.shape == NOISY.shape and took > 0


def test_programs_read_and_write_files() -> None:
    copy = Program(
        Command("copy", (sys.executable, "-c", "import shutil, sys; shutil.copy(*sys.argv[1:])", "{in}", "{out}"))
    )
    output, _ = run(copy, "a", NOISY)
    assert np.abs(output - NOISY).max() <= 2**-16
    loud, _ = run(copy, "a", 40 * NOISY)  # beyond full scale, as a file of floats may be
    assert np.abs(loud - 40 * NOISY).max() <= 4 * 2**-15
    with pytest.raises(SbmError, match="no: exited with status 1"):
        run(Program(Command("no", (sys.executable, "-c", "exit(1)", "{in}", "{out}"))), "a", NOISY)


def test_enhanced_files_are_found_by_id_and_by_a_name_that_is_the_only_one(tmp_path: Path) -> None:
    for name, value in (("p1/a.wav", 0.1), ("p2/a.flac", 0.2), ("b.wav", 0.3), ("p1/c.wav", 0.4)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.full(8000, value), 16000)
    folder = Folder("theirs", tmp_path, ["p1/a", "p2/a", "p3/a", "p3/b", "c", "d"])
    for id, value in (("p1/a", 0.1), ("p2/a", 0.2), ("p3/b", 0.3), ("c", 0.4)):
        assert run(folder, id, NOISY)[0][0] == pytest.approx(value, abs=1e-4)
    with pytest.raises(AudioError, match="no enhanced file for p3/a"):
        run(folder, "p3/a", NOISY)
    with pytest.raises(AudioError, match="no enhanced file for p4/b"):  # the file is the one of p3/b
        run(Folder("theirs", tmp_path, ["p3/b", "p4/b"]), "p4/b", NOISY)
    with pytest.raises(SbmError, match="no sound files"):
        Folder("theirs", tmp_path / "none")


class Fixed:
    name, timed = "fixed", True

    def __init__(self, output: np.ndarray) -> None:
        self.output = output

    def enhance(self, id: str, noisy: np.ndarray) -> np.ndarray:
        return self.output


def test_an_output_may_end_a_little_early_or_late() -> None:
    early, late = np.ones(7500, np.float32), np.ones(8500, np.float32)
    assert run(Fixed(early), "a", NOISY)[0].tolist() == [1.0] * 7500 + [0.0] * 500
    assert run(Fixed(late), "a", NOISY)[0].tolist() == [1.0] * 8000
    with pytest.raises(AudioError, match="lasts 0.400 s, the input 0.500 s"):
        run(Fixed(np.ones(6400, np.float32)), "a", NOISY)
    with pytest.raises(AudioError, match="NaN"):
        run(Fixed(np.full(8000, np.nan, np.float32)), "a", NOISY)
