"""The wheel carries the models and the recipes, and works without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with what is installed, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """Unpack it as pip would."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def python(site: Path, folder: Path, *arguments: str) -> str:
    """Run Python on an unpacked wheel, which comes before an installed sbm_cli, away from the source tree."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_carries_all_that_is_not_code(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    data = [
        path
        for room in ("weights", "recipes", "serve/page")
        for path in (ROOT / "sbm_cli" / room).iterdir()
        if path.is_file()
    ]
    assert {"sbm_cli/checkpoints.json", "sbm_cli/py.typed"} <= inside
    assert {str(path.relative_to(ROOT)) for path in data} <= inside
    assert any(name.endswith("LICENSE") for name in inside)
    assert not any(name.startswith(("tests", "benchmarks", "examples")) for name in inside)


def test_it_works_without_the_source_tree(unpacked: Path, tmp_path: Path) -> None:
    where = python(unpacked, tmp_path, "-c", "from sbm_cli import hub; print(hub.checkpoints_path())")
    assert Path(where.strip()) == unpacked / "sbm_cli" / "checkpoints.json"
    listed = json.loads(python(unpacked, tmp_path, "-m", "sbm_cli", "models", "list", "--json"))
    assert {model["name"] for model in listed if model["default"]} == {
        json.loads((ROOT / "checkpoints.json").read_text())["default"]
    }


def test_it_enhances_without_the_source_tree(unpacked: Path, tmp_path: Path) -> None:
    noisy = ROOT / "examples" / "noisy.wav"
    python(unpacked, tmp_path, "-m", "sbm_cli", "enhance", str(noisy), "-o", "clean.wav")
    assert (tmp_path / "clean.wav").stat().st_size == noisy.stat().st_size
