"""The folder of a server: gone with it, and what a killed one left, with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sbm_cli.serve.workspace import workspace

HOLD = "from sbm_cli.serve.workspace import workspace\nwith workspace() as folder: print(folder, flush=True); input()"


def test_it_is_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(KeyboardInterrupt), workspace() as folder:
        (folder / "upload").write_bytes(b"private")
        assert folder.is_relative_to(tmp_path) and folder.parent.stat().st_mode & 0o077 == 0
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_a_killed_server_left_is_removed_and_a_running_one_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    servers = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    folders = []
    for server in servers:
        assert server.stdout
        folders.append(Path(os.fsdecode(server.stdout.readline().rstrip())))
    (folders[0] / "upload").write_bytes(b"private")
    servers[0].send_signal(signal.SIGKILL)
    servers[0].wait()
    (tmp_path / "sbm-serve-notes.txt").write_text("of somebody else")
    with workspace():
        assert not folders[0].parent.exists() and folders[1].exists()
    servers[1].communicate(b"\n")
    for server in servers:
        assert server.stdin and server.stdout
        server.stdin.close()
        server.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["sbm-serve-notes.txt"]
