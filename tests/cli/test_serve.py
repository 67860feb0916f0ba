"""`sbm serve`: it says where, serves what its help shows, and leaves nothing behind, however it ends."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import numpy as np
import pytest
import soundfile

from sbm_cli.cli.serve import _listen, serve
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.cli.conftest import Run

pytest.importorskip("uvicorn")


@contextmanager
def started(model: Path, folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start it on a free port, and give the process and its address; one that hangs is killed."""
    command = [
        sys.executable,
        "-m",
        "sbm_cli",
        "serve",
        "--port",
        "0",
        "--model",
        str(model),
        "--live-model",
        str(model),
    ]
    with subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, env={"TMPDIR": str(folder), "PATH": "/usr/bin"}
    ) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        assert process.stderr
        address = process.stderr.readline().removeprefix("serving on ").strip()
        assert address.startswith("http://"), process.stderr.read()
        assert process.stderr.readline() == "press Ctrl-C to stop\n"
        yield process, address
        timer.cancel()


def upload(address: str, path: Path, seconds: float) -> bytes:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, round(8000 * seconds)), 8000)
    with urlopen(Request(f"{address}jobs?name=talk.wav", path.read_bytes(), method="POST")) as answer:
        return answer.read()  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_whatever_ends_it_nothing_stays(model_file: Path, tmp_path: Path, number: signal.Signals) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with started(model_file, served) as (process, address):
        for seconds in (0.5, 600):  # one that is soon done, and one that is interrupted
            upload(address, tmp_path / "talk.wav", seconds)
        assert any(served.rglob("before.wav"))
        process.send_signal(number)
        assert process.stderr
        assert process.stderr.read() == "" and process.wait() == 0
    assert not list(served.glob("sbm-serve-*"))


def test_what_a_killed_one_left_is_gone_after_the_next(model_file: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with started(model_file, served) as (process, address):
        upload(address, tmp_path / "talk.wav", 0.5)
        process.kill()
    assert any(served.rglob("before.wav"))
    with started(model_file, served) as (process, _):
        assert not any(served.rglob("before.wav"))
        process.terminate()
    assert not list(served.glob("sbm-serve-*"))


def test_where_others_can_connect_the_address_has_a_token(model_file: Path, tmp_path: Path) -> None:
    with started(model_file, tmp_path, "--host", "0.0.0.0") as (process, address):
        found = re.fullmatch(r"http://[^/]+:(\d+)/\?token=([\w-]{20,})", address)
        assert found
        request = Request(f"http://127.0.0.1:{found[1]}/about", headers={"Authorization": f"Bearer {found[2]}"})
        with urlopen(request) as answer:
            assert answer.status == 200
        process.terminate()


def test_the_address_has_any_token(model_file: Path, tmp_path: Path) -> None:
    with started(model_file, tmp_path, "--no-browser", "--token", "a+b/c d&e=") as (process, address):
        with build_opener(HTTPCookieProcessor()).open(address) as page:  # which keeps it as a cookie
            assert page.status == 200
        process.terminate()


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_the_examples_of_its_help_work(model_file: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 8000)
    for name in ("noisy.wav", "talk.m4a"):  # the content decides
        soundfile.write(tmp_path / name, noise, 16000, format="WAV")
    lines = (serve.__doc__ or "").replace("\\\n", " ").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith("curl")]
    assert len(examples) == 2
    with started(model_file, tmp_path, "--no-browser") as (process, address):
        for example in examples:
            command = shlex.split(example.replace("http://127.0.0.1:8765/", address))
            subprocess.run([*command, "--silent", "--fail"], cwd=tmp_path, check=True, timeout=PATIENCE)
        process.terminate()
    assert soundfile.info(tmp_path / "clean.wav").frames == soundfile.info(tmp_path / "clean.flac").frames == 8000


def test_a_port_that_is_in_use(sbm: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = sbm("serve", "--port", port)
    assert result.status == 1
    assert result.err == f"sbm: port {port} is in use.\n     Choose another one with --port; 0 takes a free one.\n"


def test_what_is_sent_does_not_wait_in_the_socket() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_unknown_model_for_streams_is_told_at_once(sbm: Run, model_file: Path) -> None:
    result = sbm("serve", "--port", 0, "--no-browser", "--model", model_file, "--live-model", "sbm-life")
    assert result.status == 1 and "unknown model 'sbm-life', did you mean 'sbm-live'?" in result.err


@pytest.mark.parametrize("limit", ["--max-size", "--max-minutes", "--keep"])
def test_a_limit_is_finite(sbm: Run, limit: str) -> None:
    result = sbm("serve", "--host", "203.0.113.1", limit, "inf")  # where it could not listen
    assert result.status == 2 and f"invalid value for '{limit}': expected at most 1000000, got inf" in result.err


def test_an_address_that_is_not_ours(sbm: Run) -> None:
    result = sbm("serve", "--host", "203.0.113.1", "--port", 0)
    assert result.status == 1 and "cannot listen on 203.0.113.1" in result.err


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "websockets"])
def test_without_its_extra_it_says_so(sbm: Run, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.startswith(("sbm_cli.serve", package))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = sbm("serve", "--host", "203.0.113.1")  # where it could not listen
    assert result.status == 1 and 'pip install "sbm-cli[serve]"' in result.err
