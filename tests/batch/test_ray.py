"""A batch on a Ray cluster: two machines, here of one, of which one dies in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sbm_cli.batch.ray import RayWorkers, _in_short, _room
from sbm_cli.batch.work import Work
from sbm_cli.errors import DependencyError, SbmError
from sbm_cli.options import Options
from tests.conftest import PATIENCE

HERE = Path(__file__).parent


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start two machines of a core each; the second can be asked for to be removed."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent.parent), str(HERE)]))  # of their processes
    monkeypatch.setenv("SLOWLY", "0.01")
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False)
        second = cluster.add_node(num_cpus=1)
    except Exception as error:
        cluster.shutdown()
        pytest.skip(f"Ray does not start: {error}")  # on a busy host it gives up after half a minute
    try:
        yield cluster, second
    finally:
        cluster.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_machine_and_a_process_die_and_the_outputs_are_those_of_one_machine(
    machines: Any, record: Any, model: Path, tmp_path: Path
) -> None:
    cluster, second = machines
    for number in range(24):
        record(f"{number}.wav", seconds=0.5 + 0.05 * number)
    record("killed.wav")  # takes its process with it, twice
    command = [sys.executable, str(HERE / "slow_copy.py"), "batch", "in", "-m", str(model), "-o"]
    with subprocess.Popen(
        [*command, "out", "--engine", "ray", "--address", cluster.address],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as batch:
        while len(list(tmp_path.glob("out/*.wav"))) < 6:
            time.sleep(0.02)
            assert batch.poll() is None, batch.communicate()
        cluster.remove_node(second, allow_graceful=False)
        out, err = batch.communicate(timeout=PATIENCE)
    assert (batch.returncode, out) == (1, ""), err
    assert "killed.wav: its process, " in err and "died twice" in err
    assert "25 files: " in err and "24 done" in err and "1 failed" in err
    local = subprocess.run([*command, "plain", "--workers", "1"], cwd=tmp_path, capture_output=True)
    assert local.returncode == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") and len(contents(tmp_path / "out")) == 24


def test_room_for_processes() -> None:
    assert _room({"CPU": 16.0}, 4, 0) == 4
    assert _room({"CPU": 16.0, "GPU": 2.0}, 1, 0.25) == 8
    assert _room({"CPU": 3.0, "GPU": 8.0}, 1, 1) == 3
    assert _room({"CPU": 16.0}, 1, 1) == _room({}, 1, 0) == 0


def test_long_messages_in_short() -> None:
    assert _in_short(ValueError("Traceback\n  line\nModuleNotFoundError: No module named 'sbm_cli'\n")) == (
        "ModuleNotFoundError: No module named 'sbm_cli'"
    )
    assert _in_short(KeyError()) == "KeyError"


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    workers = RayWorkers(Work(tmp_path, Options(), 1), tmp_path, 1)
    with pytest.raises(DependencyError, match="needs ray") as caught, workers:
        pass
    assert caught.value.hint == 'pip install "sbm-cli[ray]"'


@pytest.mark.filterwarnings("default")
def test_the_address_of_a_client(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    workers = RayWorkers(Work(tmp_path, Options(), 1), tmp_path, 1, address="ray://head:10001")
    with pytest.raises(SbmError, match="of a Ray client"), workers:
        pass
