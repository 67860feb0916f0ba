"""`sbm doctor`: what is there, what is not, and what to do about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sbm_cli.cli import doctor
from sbm_cli.errors import ModelError


def states(sbm: Any) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(sbm("doctor", "--json").out)}


def test_a_sound_installation_is_status_0(sbm: Any, bundle: Any) -> None:
    result = sbm("doctor")
    assert (result.status, result.err) == (0, "")
    assert not any(line.startswith("fault") for line in result.out.splitlines())
    found = states(sbm)
    assert {"sbm", "python", "torch", "cuda", "numba", "model", "kernel cache", "model cache", "ESTOI"} <= set(found)
    assert [name for name in found if name.startswith("scan ")]
    assert str(bundle.weights) in found["model"]["found"]


def test_a_damaged_model_is_a_fault_with_its_cure(sbm: Any, bundle: Any) -> None:
    bundle.weights.write_bytes(b"other")
    result = sbm("doctor")
    assert result.status == 1
    assert "damaged or changed" in result.out
    assert states(sbm)["model"]["state"] == "fault"
    assert "pip install --force-reinstall sbm-cli" in states(sbm)["model"]["cure"]


def test_one_fault_does_not_hide_the_rest(sbm: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def _torch() -> Any:
        raise ImportError("libcudart.so: cannot open")
        yield

    monkeypatch.setattr(doctor, "_CHECKS", (_torch, doctor._model))
    found = states(sbm)
    assert found["torch"]["state"] == "fault"
    assert "libcudart.so" in found["torch"]["found"] and "pip install" in found["torch"]["cure"]
    assert found["model"]["state"] == "ok"


def test_what_is_optional_and_absent_is_a_note(sbm: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbm_cli.evaluation import metrics

    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    result = sbm("doctor")
    assert result.status == 0
    assert 'pip install "sbm-cli[metrics]"' in result.out and 'pip install "sbm-cli[pesq]"' in result.out


def test_half_an_extra_is_none(sbm: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: name not in ("starlette", "websockets"))
    extra = states(sbm)["extra serve"]
    assert (extra["state"], extra["found"]) == ("note", "not installed: starlette, websockets")


def test_caches_that_cannot_be_written(sbm: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_obstacle", lambda folder: "permission denied")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = states(sbm)
    assert found["kernel cache"]["state"] == found["model cache"]["state"] == "note"
    assert f"{tmp_path} cannot be written (permission denied)" in found["kernel cache"]["found"]
    assert "NUMBA_CACHE_DIR" in found["kernel cache"]["cure"]
    assert "HF_HOME" in found["model cache"]["cure"]


def test_a_cache_is_tried_in_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert doctor._obstacle(tmp_path / "not" / "yet") == ""
    (tmp_path / "file").touch()
    assert doctor._obstacle(tmp_path / "file") == "not a directory"
    assert doctor._obstacle(Path("~/.cache")) == "there is no home"  # as it stays where there is none


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_cache_on_a_full_disk_is_no_cache(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert doctor._obstacle(tmp_path) == "file too large"  # as near as a test comes to a full disk
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_default_model_is_the_one_checked(sbm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(model: object) -> None:
        raise ModelError("gone", "Fetch it.")

    monkeypatch.setattr("sbm_cli.hub.check", unknown)
    check = states(sbm)["model"]
    assert (check["state"], check["found"], check["cure"]) == ("fault", "gone", "Fetch it.")
