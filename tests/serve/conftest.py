"""A real server on a free port of this machine, and a client that knows no library of ours."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from sbm_cli.enhancer import Enhancer
from sbm_cli.serve.app import make_app, make_server
from sbm_cli.serve.jobs import Limits
from tests.conftest import PATIENCE

HOSTS = frozenset({"127.0.0.1", "localhost"})


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server that runs. `folder`: where it keeps what it was sent; `enhancer`: its model."""

    def __init__(self, port: int, folder: Path, enhancer: Enhancer) -> None:
        self.port, self.folder, self.enhancer = port, folder, enhancer

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; an underscore in the name of a header stands for a dash."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def ended(self, id: str) -> Any:
        """Return a job once it has ended."""
        end = time.monotonic() + PATIENCE
        while (job := self("GET", f"/jobs/{id}").json)["state"] in ("waiting", "running"):
            assert time.monotonic() < end
            time.sleep(0.02)
        return job

    def is_empty(self) -> bool:
        """Tell whether it soon keeps nothing."""
        end = time.monotonic() + PATIENCE
        while any(self.folder.iterdir()):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def run(folder: Path, enhancer: Enhancer, **settings: Any) -> Iterator[Server]:
    settings = {"hosts": HOSTS, "token": None, "streams": 8, "limits": Limits(), **settings}
    app = make_app(enhancer, lambda: enhancer, folder, **settings)
    runner = make_server(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not runner.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Server(listener.getsockname()[1], folder, enhancer)
        finally:
            runner.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def enhancer(model_file: Path) -> Enhancer:
    return Enhancer.load(model_file, device="cpu")


@pytest.fixture(scope="module")
def server(enhancer: Enhancer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that every test of a module leaves as it was."""
    with run(tmp_path_factory.mktemp("served"), enhancer, limits=Limits(size=3_000_000, patience=3)) as running:
        yield running


@pytest.fixture
def serving(enhancer: Enhancer, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that runs a server with other settings."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> Server:
            (tmp_path / "served").mkdir()
            return stack.enter_context(run(tmp_path / "served", enhancer, **settings))

        yield begin
