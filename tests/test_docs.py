"""What the documentation takes from the program is what the program says."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = runpy.run_path(str(ROOT / "tools" / "docs.py"))["DOCUMENTS"]


@pytest.mark.parametrize(("name", "document"), DOCUMENTS.items())
def test_documents_are_up_to_date(name: str, document: Callable[[], str]) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == document(), "make docs"
