"""The examples run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_bridge_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    image = pytest.importorskip("PIL.Image", reason="Pillow draws them")
    example = runpy.run_path(str(EXAMPLES / "bridge_on_digits.py"))
    example["main"](["--steps", "30", "-o", str(tmp_path / "digits.png")])
    rows = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:3]]
    for before, one, _ in rows:
        assert float(one) < 0.9 * float(before)
    with image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (500, 400)
