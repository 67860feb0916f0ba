"""README's blocks are run as they stand; what cannot be run here, and what docs say, is compared with what there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A block with such a line changes the machine, needs a network or takes hours: its lines are checked, not run.
NOT_RUN = re.compile(r"^(pip|make|git|docker|apt-get|sbm train)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    line: int
    code: str

    @property
    def runs(self) -> bool:
        """Blocks without a language show a command line that is only checked."""
        return self.language == "python" or (self.language == "bash" and not NOT_RUN.search(self.code))


def blocks(text: str) -> list[Block]:
    """Return the blocks of a Markdown text in bash, in python, or in no stated language."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(match[1], text[: match.start()].count("\n") + 1, match[2]) for match in found]
    return [block for block in every if block.language in ("bash", "python", "")]


def faults(line: str) -> list[str]:
    """Return what a line of a block that is not run names and what does not exist."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["make"]:
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [f"make {word}" for word in words[1:] if "=" not in word and word not in targets]
    if words[:2] == ["pip", "install"]:
        named = [
            extra.strip() for word in words for group in re.findall(r"\[(.*)\]", word) for extra in group.split(",")
        ]
        return [f"extra {extra}" for extra in named if extra not in extras()]
    if words[:1] == ["sbm"]:
        command = words[1:3] if words[1] in ("data", "models") else words[1:2]  # groups of commands
        shown = usage(*command)
        options = [word.partition("=")[0] for word in words[2:] if word.startswith("-")]
        return [
            f"sbm {' '.join(command)} {option}" for option in options or [""] if not re.search(rf"{option}\b", shown)
        ]
    return []


@cache
def usage(*command: str) -> str:
    run = subprocess.run([sys.executable, "-m", "sbm_cli", *command, "-h"], capture_output=True, text=True)
    return run.stdout


def extras() -> set[str]:
    """Return the names of the extras in pyproject.toml; read by pattern, since Python 3.10 has no TOML reader."""
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^([a-z]+) = \[", table, re.MULTILINE))


def test_there_are_blocks_to_run() -> None:
    languages = {block.language for block in blocks(README) if block.runs}
    assert languages == {"bash", "python"}


@pytest.mark.parametrize(
    "block", [block for block in blocks(README) if block.runs], ids=lambda block: f"line {block.line}"
)
def test_blocks_run(block: Block, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "noisy.wav", tmp_path)
    interpreter = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*interpreter, block.code],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_commands_name_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = [block.code for block in blocks(text) if block.language != "python"]
    lines = "\n".join(found).replace("\\\n", " ").splitlines() + re.findall("`(sbm [^`]*)`", text)
    assert [fault for line in lines for fault in faults(line)] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("make demo", []),
        ("make tea  # please", ["make tea"]),
        ("make test PYTHON=python3.12", []),
        ('pip install "sbm-cli[metrics,train]"', []),
        ('pip install "sbm-cli[metrics,coffee]"', ["extra coffee"]),
        ("sbm train --config x.yaml --resume", []),
        ("sbm train --config x.yaml --resumee", ["sbm train --resumee"]),
        ("sbm trian", ["sbm trian "]),
    ],
)
def test_the_check_can_fail(line: str, found: list[str]) -> None:
    assert faults(line) == found


def test_blocks_are_found() -> None:
    text = "# T\n\n```bash\nsbm -h\n```\n\n```text\nno\n```\n\n```python\nimport sbm_cli\n```\n\n```\nmake demo\n```\n"
    found = blocks(text)
    assert [(block.language, block.line, block.runs) for block in found] == [
        ("bash", 3, True),
        ("python", 11, True),
        ("", 15, False),
    ]
