"""Run `sbm` inside the test process, and give it something to work on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sbm_cli.cli.app import main
from sbm_cli.cli.shared import console
from sbm_cli.enhancer import Enhancer


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Compile the kernels before the tests do: the first start on a machine says so, and these compare what is said."""
    Enhancer.load(None, "cpu")


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


@pytest.fixture
def folder(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder that holds noisy.wav."""
    monkeypatch.chdir(noisy.parent)
    return noisy.parent


class Piped:
    """What stands in for standard input and output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._out = io.BytesIO()

    def give(self, content: bytes, terminal: bool = False) -> None:
        """Put new streams in place: terminals, or pipes of which one brings the content."""
        self._out = io.BytesIO()
        for name, stream in (("stdin", io.BytesIO(content)), ("stdout", self._out)):
            stream.seekable = lambda: False  # type: ignore[method-assign]
            stand_in = SimpleNamespace(buffer=stream, isatty=lambda: terminal, encoding="utf-8")
            self._patch.setattr(sys, name, stand_in)

    @property
    def taken(self) -> bytes:
        return self._out.getvalue()


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Piped:
    return Piped(monkeypatch)


def names(folder: Path) -> set[str]:
    """Return everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
