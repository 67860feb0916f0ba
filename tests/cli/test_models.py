"""`sbm models`: list, path, verify, info; download of what is here. The rest of it is in test_download.py."""

from __future__ import annotations

import json
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_list_marks_the_default(sbm: Any, bundle: Any) -> None:
    far = bundle.record(source="huggingface", repository="o/m", revision=COMMIT)
    bundle.describe({"other": bundle.record(), "small": bundle.record(), "far": far})
    result = sbm("models", "list")
    assert (result.status, result.err) == (0, "")
    assert [line.split() for line in result.out.splitlines()] == [
        ["other", "0.00", "MB", "bundled", "Apache-2.0"],
        ["*", "small", "0.00", "MB", "bundled", "Apache-2.0"],
        ["far", "0.00", "MB", "Hugging", "Face", "Apache-2.0"],
    ]


def test_list_as_json(sbm: Any, bundle: Any) -> None:
    (model,) = json.loads(sbm("models", "list", "--json").out)
    assert model["name"] == "small"
    assert model["default"] is True
    assert model["path"] == str(bundle.weights)


def test_download_points_to_what_is_bundled(sbm: Any, bundle: Any) -> None:
    result = sbm("models", "download")
    assert (result.status, result.out) == (0, "")
    assert result.err == "no model has been published for download yet\nbundled with the package: small\n"
    named = sbm("models", "download", "small")
    assert (named.status, named.out, named.err) == (0, f"{bundle.weights}\n", "bundled with the package: small\n")
    assert json.loads(sbm("models", "download", "small", "--json").out) == {"small": str(bundle.weights)}


def test_path_is_the_file_and_nothing_else(sbm: Any, bundle: Any) -> None:
    assert sbm("models", "path").out == sbm("models", "path", "small").out == f"{bundle.weights}\n"
    assert json.loads(sbm("models", "path", "--json").out) == {"path": str(bundle.weights)}


def test_path_of_a_damaged_model_is_refused(sbm: Any, bundle: Any) -> None:
    bundle.weights.write_bytes(b"other")
    result = sbm("models", "path")
    assert (result.status, result.out) == (1, "")
    assert "damaged or changed" in result.err


def test_verify(sbm: Any, bundle: Any) -> None:
    assert sbm("models", "verify").out == sbm("models", "verify", "small").out == "small: ok\n"
    bundle.config.write_bytes(b"other")
    damaged = sbm("models", "verify")
    assert (damaged.status, damaged.out) == (1, "")
    assert "small.json: damaged or changed" in damaged.err
    listed = sbm("models", "verify", "--json")
    assert listed.status == 1
    assert json.loads(listed.out) == [{"name": "small", "ok": False}]


def test_verify_goes_on_after_a_damaged_model(sbm: Any, bundle: Any) -> None:
    bundle.describe({"bad": bundle.record(sha256="0" * 64), "small": bundle.record()})
    result = sbm("models", "verify")
    assert (result.status, result.out) == (1, "small: ok\n")


def test_verify_without_models_is_an_error(sbm: Any, bundle: Any) -> None:
    bundle.describe({})
    result = sbm("models", "verify")
    assert result.status == 1
    assert result.err.startswith("sbm: there is no model on this machine")


def test_info_shows_all_that_is_known(sbm: Any, bundle: Any) -> None:
    lines = dict(line.split(maxsplit=1) for line in sbm("models", "info").out.splitlines())
    assert lines["name"] == "small"
    assert lines["scores.noise.si_sdr"] == "12.0"
    assert lines["path"] == str(bundle.weights)
    assert "repository" not in lines
    assert json.loads(sbm("models", "info", "small", "--json").out)["scores"] == {"noise": {"si_sdr": 12.0}}


def test_info_states_the_latency(sbm: Any, bundle: Any) -> None:
    assert json.loads(sbm("models", "info", "--json").out)["latency"] is None  # a damaged configuration says nothing
    bundle.put(b"weights", b'{"name": "small", "network": {"lookahead": 2}}')
    latency = json.loads(sbm("models", "info", "--json").out)["latency"]
    resampler = latency.pop("resampler_48_khz_ms")
    assert latency.pop("resampler_44_khz_ms") > resampler
    assert latency == {"window_ms": 32, "hop_ms": 16, "lookahead_ms": 32, "algorithmic_ms": 64}
    assert 20 < resampler < 100
    assert "latency.algorithmic_ms" in sbm("models", "info").out


def test_unknown_names_are_status_1(sbm: Any, bundle: Any) -> None:
    for command in ("path", "verify", "info"):
        result = sbm("models", command, "smal")
        assert result.status == 1
        assert "did you mean 'small'?" in result.err
