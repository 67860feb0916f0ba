"""`sbm evaluate`: a table of a split, or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a corpus of gated tones and noise, all of it `valid`."""
    rng = np.random.default_rng(0)
    rows = ["path,kind,source,speaker,split"]
    for i in range(4):
        time = np.arange(80000) / 16000
        tone = 0.2 * np.sin(2 * np.pi * (200 + 50 * i) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        soundfile.write(tmp_path / f"s{i}.wav", tone, 16000)
        soundfile.write(tmp_path / f"n{i}.wav", 0.1 * rng.standard_normal(80000), 16000)
        rows += [f"s{i}.wav,speech,s,{i % 2},valid", f"n{i}.wav,noise,n,,valid"]
    path = tmp_path / "corpus.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_an_untrained_model_gains_nothing(sbm: Any, manifest: Path, model_file: Path, tmp_path: Path) -> None:
    common = ["evaluate", manifest, "--model", model_file, "--count", 4, "--workers", 1, "--cache", tmp_path / "cache"]
    result = sbm(*common, "--metrics", "si_sdr", "--json")
    assert (result.status, result.err) == (0, "")
    document = json.loads(result.out)
    assert (document["model"], document["split"], document["absent"]) == ("small", "valid", [])
    for half in ("noise", "reverb"):
        assert document["scores"][half]["si_sdr"]["gain"]["mean"] == pytest.approx(0, abs=0.01)
    table = sbm(*common, "--metrics", "si_sdr")
    assert table.out.count("| SI-SDR (dB) |") == 2


def test_wrong_use_is_one_message(sbm: Any, manifest: Path) -> None:
    result = sbm("evaluate", manifest, "--metrics", "beauty")
    assert result.status == 2 and "unknown beauty" in result.err
    result = sbm("evaluate", manifest.with_name("none.csv"))
    assert result.status == 1 and "none.csv" in result.err and "Traceback" not in result.err
