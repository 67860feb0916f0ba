"""`sbm export`: the file, what is said of it, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_it_writes_a_graph_and_says_how_far_it_is_from_ours(
    sbm: Any, model_file: Path, noisy: Path, tmp_path: Path
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    path = tmp_path / "small.onnx"
    result = sbm("export", model_file, "-o", path, "--check", noisy, "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["path"] == str(path) and report["bytes"] == path.stat().st_size
    assert report["difference"] <= 1e-4 and report["delay"] == 256
    assert sorted(file.name for file in tmp_path.iterdir()) == ["noisy.wav", "small.onnx"]


def test_what_exists_is_kept(sbm: Any, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(b"mine")
    result = sbm("export", model_file, "-o", path)
    assert (result.status, path.read_bytes()) == (1, b"mine")
    assert result.err.startswith(f"sbm: {path} exists.\n     Use --overwrite")


def test_where_nothing_can_be_written_is_told_before_the_work(sbm: Any, model_file: Path, tmp_path: Path) -> None:
    result = sbm("export", model_file, "-o", tmp_path / "none" / "small.onnx")
    assert (result.status, result.err) == (1, f"sbm: {tmp_path}/none/small.onnx: no such file or directory\n")


def test_an_unknown_model_is_an_error(sbm: Any, tmp_path: Path) -> None:
    result = sbm("export", "sbm-lifw", "-o", tmp_path / "x.onnx")
    assert result.status == 1
    assert "unknown model 'sbm-lifw', did you mean 'sbm-live'?" in result.err
    assert list(tmp_path.iterdir()) == []


def test_the_graph_is_named_as_what_it_is(sbm: Any) -> None:
    result = sbm("export", "-o", "live.txt")
    assert result.status == 2 and "name it .onnx" in result.err


def test_nothing_but_the_output_has_to_be_said(sbm: Any) -> None:
    result = sbm("export")
    assert result.status == 2
    assert "'--output' / '-o'" in result.err
