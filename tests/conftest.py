"""Fixtures that several rooms of the tests share."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sbm_cli import hub

# No deadline: the machine is shared, and a first call compiles. Fixed examples: a failure is seen again.
settings.register_profile("sbm", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("sbm")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: on a busy machine several wait for each other at every operator."""
    import torch

    torch.set_num_threads(1)


class Bundle:
    """A source tree of its own, with checkpoints.json and one bundled model, `small`, which is the default."""

    def __init__(self, tree: Path) -> None:
        self.package = tree / "sbm_cli"
        self.weights = self.package / "weights" / "small.safetensors"
        self.config = self.weights.with_suffix(".json")
        self.weights.parent.mkdir(parents=True)
        self.put(b"weights", b"config")

    def put(self, weights: bytes, config: bytes) -> None:
        """Replace the model by another one, and describe it."""
        self.weights.write_bytes(weights)
        self.config.write_bytes(config)
        self.describe({"small": self.record()})

    def record(self, **changes: Any) -> dict[str, Any]:
        """Return the entry of `small` as it stands in checkpoints.json, with changes."""
        return {
            "source": "bundled",
            "file": "small.safetensors",
            "config": "small.json",
            "bytes": self.weights.stat().st_size,
            "sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            "config_sha256": hashlib.sha256(self.config.read_bytes()).hexdigest(),
            "license": "Apache-2.0",
            "training_data": ["ours"],
            "scores": {"noise": {"si_sdr": 12.0}},
            "command": "sbm evaluate",
            **changes,
        }

    def describe(self, models: Mapping[str, Any], default: str = "small", inside: bool = False) -> None:
        """Write checkpoints.json, beside the package or inside it."""
        folder = self.package if inside else self.package.parent
        (folder / "checkpoints.json").write_text(json.dumps({"default": default, "models": models}))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Put a source tree with one model of a few bytes in place of ours."""
    made = Bundle(tmp_path / "tree")
    monkeypatch.setattr(hub, "_PACKAGE", made.package)
    return made


@pytest.fixture(scope="session", autouse=True)
def _heard_signals() -> None:
    """Programs that the tests start inherit which signals are ignored, and nohup has SIGHUP ignored."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
