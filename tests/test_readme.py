"""README's blocks are run as they stand; what cannot be run here, and what docs say, is compared with what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import PATIENCE

ROOT = Path(__file__).parent.parent
FFMPEG = shutil.which("ffmpeg")
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


# What a line of a document gets in addition, so that it takes seconds and no device.
FEW = {
    "live": "-h",
    "serve": "-h",
    "train": "--device cpu --processes 1 --set steps=1 --set batch=1 --set mix.segment_seconds=0.5 --set data.rooms=2 "
    "--set loop.validate_items=1",
    "evaluate": "--metrics si_sdr,sig --workers 1 --count 2 --overwrite",
}


def lines_of(path: Path) -> list[str]:
    """Return the command lines of a document that can be run here; without GPU, cluster and corpora some cannot."""
    if path.name in ("gpu.md", "cluster.md", "reproduce.md", "publishing.md"):
        return []
    code = "".join(block.code for block in blocks(path.read_text(encoding="utf-8")) if not block.runs)
    lines = dict.fromkeys(code.replace("\\\n", " ").replace("/corpora/", "corpora/").splitlines())
    return [line for line in lines if line.startswith(("sbm ", "torchrun ")) and ("ffmpeg" not in line or FFMPEG)]


def stage(folder: Path) -> None:
    """Write all that the documents' lines name: recordings of half a second, and the trees of corpora."""
    chance = np.random.default_rng(0)

    def sound(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * chance.standard_normal(8000), 16000)

    for name in ("noisy.wav", "talk.wav", "recordings/a.wav", "cleaned/a.flac", "noisy/a.wav", "clean/a.wav"):
        sound(name)
    for name in ("voices", "noises", "my_noise", "my-noise"):
        for number in range(3):
            sound(f"{name}/{number}.wav")
    for part, name in (("train-clean-100", "19-198"), ("dev-clean", "84-121"), ("test-clean", "61-70")):
        sound(f"corpora/LibriSpeech/{part}/{name.replace('-', '/')}/{name}-0000.flac")
    sound("corpora/musan/noise/free-sound/noise-free-sound-0000.wav")
    sound("corpora/DNS-Challenge/datasets/clean/book_00000_chp_0009_reader_06709_11.wav")
    for part, number in (("dev", 1), ("eval", 2)):
        sound(f"corpora/FSD50K/FSD50K.{part}_audio/{number}.wav")
        row = f"{number},Engine,/m/0,train\n"
        table = folder / f"corpora/FSD50K/FSD50K.ground_truth/{part}.csv"
        table.parent.mkdir(exist_ok=True)
        table.write_text(f"fname,labels,mids,split\n{row}" if part == "dev" else f"fname,labels,mids\n{row[:-7]}\n")
        clips = folder / f"corpora/FSD50K/FSD50K.metadata/{part}_clips_info_FSD50K.json"
        clips.parent.mkdir(exist_ok=True)
        clips.write_text(json.dumps({str(number): {"license": "http://creativecommons.org/publicdomain/zero/1.0/"}}))
    rows = ["path,kind,source,speaker,split"]
    for split in ("train", "valid", "report"):
        for kind in ("speech", "noise"):
            sound(f"corpus/{split}-{kind}.wav")
            rows.append(f"corpus/{split}-{kind}.wav,{kind},mine,{split if kind == 'speech' else ''},{split}")
    (folder / "corpus.csv").write_text("\n".join(rows) + "\n")
    for name in ("noisy", "clean"):
        sound(f"VoiceBank/{name}_testset_wav/p232_001.wav")
        sound(f"test_set/synthetic/no_reverb/{name}/{'clean' if name == 'clean' else 'a'}_fileid_1.wav")


@pytest.mark.parametrize(
    "path",
    [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if lines_of(path)],
    ids=lambda path: path.name,
)
def test_command_lines_run(path: Path, tmp_path: Path) -> None:
    stage(tmp_path)
    few = "\n".join(f'{command}) exec "{sys.executable}" -m sbm_cli "$@" {more};;' for command, more in FEW.items())
    for name, before in (("sbm", ""), ("torchrun", "shift 4")):  # --nproc-per-node N -m sbm_cli
        program = tmp_path / "programs" / name
        program.parent.mkdir(exist_ok=True)
        rest = f'*) exec "{sys.executable}" -m sbm_cli "$@";;'
        program.write_text(f'#!/bin/bash\n{before}\ncase "$1" in\n{few}\n{rest}\nesac\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(lines_of(path))],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'programs'}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


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
        timeout=PATIENCE,
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
