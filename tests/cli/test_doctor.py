"""`sbm doctor`: what is there, what is not, and what to do about it."""

from __future__ import annotations

import json
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
    def broken() -> Any:
        raise ImportError("libcudart.so: cannot open")
        yield

    monkeypatch.setitem(doctor._CHECKS, "torch", broken)
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


def test_caches_that_cannot_be_written(sbm: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = states(sbm)
    assert found["kernel cache"]["state"] == found["model cache"]["state"] == "note"
    assert str(tmp_path) in found["kernel cache"]["found"] and "NUMBA_CACHE_DIR" in found["kernel cache"]["cure"]
    assert "HF_HOME" in found["model cache"]["cure"]


def test_writable_looks_at_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert doctor._writable(tmp_path / "not" / "yet")
    (tmp_path / "file").touch()
    assert not doctor._writable(tmp_path / "file")
    assert not doctor._writable(Path("~/.cache"))  # as it stays where there is no home


def test_the_default_model_is_the_one_checked(sbm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(model: object) -> None:
        raise ModelError("gone", "Fetch it.")

    monkeypatch.setattr("sbm_cli.hub.check", unknown)
    check = states(sbm)["model"]
    assert (check["state"], check["found"], check["cure"]) == ("fault", "gone", "Fetch it.")
