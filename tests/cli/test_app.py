"""Help, version, exit statuses, and what a person reads when something goes wrong."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer

import sbm_cli
from sbm_cli.cli.shared import errors
from sbm_cli.errors import AudioError

COMMANDS = [
    ["enhance"],
    ["batch"],
    ["data", "prepare"],
    ["data", "check"],
    ["data", "curate"],
    ["data", "pack"],
    ["train"],
    ["evaluate"],
    ["rtf"],
    ["live"],
    ["serve"],
    ["export"],
    ["models", "list"],
    ["models", "download"],
    ["models", "path"],
    ["models", "verify"],
    ["models", "info"],
    ["doctor"],
]


def test_no_command_is_help(sbm: Any) -> None:
    result = sbm()
    assert result.status == 0
    assert result.out.startswith("Usage: sbm ")
    assert result.err == ""
    assert sbm("-h").out == sbm("--help").out == result.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_examples(sbm: Any, command: list[str]) -> None:
    result = sbm(*command, "-h")
    assert result.status == 0
    assert f"  Examples:\n    sbm {' '.join(command)}" in result.out
    examples, _, _ = result.out.partition("  Examples:\n")[2].partition("\n\n")
    assert max(map(len, examples.splitlines())) <= 80


def test_the_list_of_commands_above_is_whole() -> None:
    from sbm_cli.cli.app import app

    def leaves(command: Any, path: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", None)
        shown = [name for name in inner or () if not inner[name].hidden]  # the rest are other names of these
        return [leaf for name in shown for leaf in leaves(inner[name], [*path, name])] if inner else [path]

    assert sorted(leaves(typer.main.get_command(app), [])) == sorted(COMMANDS)


def test_version_names_what_a_report_needs(sbm: Any) -> None:
    result = sbm("--version")
    assert result.status == 0
    lines = [line.split()[0] for line in result.out.splitlines()]
    assert lines == ["sbm", "python", "torch", "numba", "scan"]
    assert result.out.startswith(f"sbm {sbm_cli.__version__}\n")


def test_the_installed_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert version("sbm-cli") == sbm_cli.__version__


def test_python_m_is_the_same_program() -> None:
    result = subprocess.run([sys.executable, "-m", "sbm_cli", "-h"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: sbm ")


def test_help_is_quick() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "sbm_cli", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # Seconds of processor time and the best of several: other work on the machine is not the program's.
    assert min(seconds() for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enhanse"], "sbm: no such command 'enhanse'. Did you mean 'enhance'?\n     See sbm --help\n"),
        (["enhance"], "sbm: missing argument 'INPUT'.\n     See sbm enhance --help\n"),
        (["models", "list", "--jsn"], "sbm: no such option: --jsn"),
        (["models"], "sbm: missing command.\n     See sbm models --help\n"),
    ],
)
def test_wrong_usage_is_status_2(sbm: Any, arguments: list[str], message: str) -> None:
    result = sbm(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (AudioError("a.wav: not sound", "Convert it."), "a.wav: not sound", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "out of memory", 1),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory", 1),
        (OSError(errno.ENOSPC, "No space left on device", "b.wav"), "b.wav: no space left on device", 1),
        (PermissionError(errno.EACCES, "Permission denied", "c.wav"), "c.wav: permission denied", 1),
        (OSError(errno.EIO, "Input/output error"), "input/output error", 1),
        (typer.BadParameter("too loud"), "invalid value: too loud", 2),
        (RuntimeError("shape"), "RuntimeError: shape", 1),
    ],
)
def test_every_kind_of_error_has_words_and_a_status(error: BaseException, message: str, status: int) -> None:
    told = errors.describe(error)
    assert (told.message, told.status) == (message, status)


def test_errors_leave_no_traceback_unless_asked(sbm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("sbm_cli.hub.default_name", fail)
    quiet = sbm("models", "list")
    assert quiet.status == 1
    assert quiet.err.startswith("sbm: RuntimeError: a fault of ours\n     This is a bug.")
    monkeypatch.setenv("SBM_DEBUG", "1")
    told = sbm("models", "list").err
    assert "Traceback (most recent call last)" in told
    assert told.endswith(quiet.err)


def test_an_interrupt_is_status_130(sbm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sbm_cli.hub.default_name", interrupt)
    result = sbm("models", "list")
    assert (result.status, result.err) == (130, "sbm: interrupted\n")


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Enhancr'"):
        sbm_cli.Enhancr  # noqa: B018
    assert "Enhancer" in dir(sbm_cli)
    assert sbm_cli.Enhancer.__module__ == "sbm_cli.enhancer"


@pytest.mark.parametrize(("closed", "status"), [("2>&-", 0), (">&-", 0), ("<&- >&- 2>&-", 0), ("-o - -y >&-", 1)])
def test_streams_that_the_shell_closed(tmp_path: Path, noisy: Path, model_file: Path, closed: str, status: int) -> None:
    """None of them is another file by mistake, and sound that goes nowhere is no success."""
    command = f"{sys.executable} -m sbm_cli enhance noisy.wav -o clean.wav -m {model_file} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert (tmp_path / "clean.wav").exists() == (status == 0)
    if status == 0:
        assert soundfile.info(tmp_path / "clean.wav").frames == 8000
    else:
        assert done.stderr.startswith("sbm: bad file descriptor\n     stdout is closed")


def test_a_log_that_takes_nothing_does_not_stop_the_work(tmp_path: Path, noisy: Path, model_file: Path) -> None:
    command = f"{sys.executable} -m sbm_cli enhance noisy.wav -o clean.wav -m {model_file} 2> /dev/full"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path).returncode == 0
    assert (tmp_path / "clean.wav").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="shells of Windows close nothing")
@pytest.mark.parametrize("closed", ["2>&-", "<&-"])
@pytest.mark.parametrize("command", ["doctor", "evaluate --set folder . --unprocessed --metrics sig --workers 1"])
def test_closed_standard_files_lead_nowhere(command: str, closed: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1), 16000)
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m sbm_cli {command} {closed}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "fault" not in done.stdout + done.stderr
    assert done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


UNKNOWN = """
import os, pwd, resource, sys
def unknown(user): raise KeyError(user)
pwd.getpwuid = unknown
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from sbm_cli.cli.app import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows neither")
@pytest.mark.parametrize("command", ["doctor", "evaluate --set folder . --unprocessed --metrics sig,nisqa --workers 2"])
def test_without_home_or_password_entry(command: str, tmp_path: Path) -> None:
    """Nor a locale, nor many open files, as in a container that runs with any number as its user."""
    soundfile.write(tmp_path / "é.wav", np.full(8000, 0.1), 16000)
    (tmp_path / "run.py").write_text(UNKNOWN)
    done = subprocess.run(
        [sys.executable, "run.py", *command.split()],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(sbm_cli.__file__).parents[1]), "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "fault" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"é.wav", "run.py"}
    if command == "doctor":
        assert "~/.cache/huggingface/hub cannot be written (there is no home)" in done.stdout


@pytest.mark.parametrize("group", [(), ("data",), ("models",)])
def test_summaries_of_commands_fit_a_terminal(
    sbm: Any, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert re.findall(r"\w\.\.\.$", sbm(*group, "--help").out, re.M) == []
