"""What the documentation takes from the program is what the program says."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = runpy.run_path(str(ROOT / "tools" / "docs.py"))["DOCUMENTS"]


@pytest.mark.parametrize(("name", "document"), DOCUMENTS.items())
def test_documents_are_up_to_date(name: str, document: Callable[[], str]) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == document(), "make docs"


def test_messages_of_the_troubleshooting_are_those_of_the_program() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sbm_cli").rglob("*.py"))
    titles = re.findall(
        r"^### (`.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    quoted = [message for title in titles for message in re.findall("`(.*?)`", title)]
    assert len(quoted) > 5 and [message for message in quoted if message not in source] == []


def test_the_tests_that_documents_name_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text))
    missing = [
        (file, test)
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert len(named) > 20 and missing == []


def anchors(text: str) -> set[str]:
    """Return the names that the headings of a Markdown text have on GitHub."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.stem
)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8"))
    targets = [(path.parent / file if file else path, anchor) for file, anchor in links]
    broken = [
        (target.name, anchor)
        for target, anchor in targets
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
    ]
    assert broken == []
