"""Write what the documentation takes from the program: the help of all commands, tables of formats and hostile files.

The same as make docs. tests/test_docs.py compares.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from sbm_cli.cli.app import app

ROOT = Path(__file__).parent.parent
WIDTH = 110


def commands() -> str:
    """Return docs/commands.md: the help of every command."""
    intro = "# Commands\n\nWhat `--help` says of every command. Written by `make docs`.\n"
    sections = [f"\n## {path}\n\n```text\n{text.rstrip()}\n```\n" for path, text in _help(typer.main.get_command(app))]
    return intro + "".join(sections)


def _help(command: Any, name: str = "sbm", parent: Any = None) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _help(inner, name, context)


def robustness() -> str:
    """Return docs/robustness.md, whose end is the table of the cases in tests/cli/test_hostile.py."""
    text, _, _ = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8").partition("\n| ")
    return text.rstrip() + "\n\n" + runpy.run_path(str(ROOT / "tests" / "cli" / "test_hostile.py"))["table"]()


def formats() -> str:
    """Return docs/formats.md, whose end is the table of the formats in tests/audio/test_formats.py."""
    text, _, _ = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").partition("\n| ")
    return text.rstrip() + "\n\n" + runpy.run_path(str(ROOT / "tests" / "audio" / "test_formats.py"))["table"]()


DOCUMENTS: dict[str, Callable[[], str]] = {"commands.md": commands, "formats.md": formats, "robustness.md": robustness}

if __name__ == "__main__":
    for name, document in DOCUMENTS.items():
        (ROOT / "docs" / name).write_text(document(), encoding="utf-8")
