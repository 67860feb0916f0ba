"""Recordings to work on, and the stand-in for the enhancer where processes find it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return a function that writes a recording in the folder `in`, a second of noise if not told otherwise."""

    def write(name: str, seconds: float = 1.0) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(name.encode())
        soundfile.write(path, np.random.default_rng(seed).uniform(-0.1, 0.1, round(16000 * seconds)), 16000)
        return path

    return write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write what the journal takes for a model."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights")
    path.with_suffix(".json").write_bytes(b"config")
    return path


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
