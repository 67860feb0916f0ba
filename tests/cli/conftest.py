"""Run `sbm` inside the test process, and give it something to work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sbm_cli.cli.app import main
from sbm_cli.cli.shared import console


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def sbm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command line as the shell would, minus the new process."""
    for name in ("SBM_DEBUG", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        console.configure(quiet=False, verbose=False)
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Write half a second of noise in 24 bits, stereo."""
    path = tmp_path / "noisy.wav"
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (8000, 2))
    soundfile.write(path, samples, 16000, subtype="PCM_24")
    return path
