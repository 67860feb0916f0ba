"""The examples run."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbm_cli.options import Options

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


class Client:
    """Stands in for an ASGI server with one client."""

    def __init__(self, query: str, *sent: bytes | str) -> None:
        self.scope = {"type": "websocket", "query_string": query.encode()}
        self._messages = [{"type": "websocket.connect"}]
        self._messages += [
            {"type": "websocket.receive", "bytes" if isinstance(each, bytes) else "text": each} for each in sent
        ]
        self.got: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return self._messages.pop(0) if self._messages else {"type": "websocket.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)

    @property
    def sound(self) -> np.ndarray:
        return np.frombuffer(b"".join(message.get("bytes", b"") for message in self.got), "<i2")


def test_a_server_of_streams() -> None:
    server = runpy.run_path(str(EXAMPLES / "stream_server.py"))
    noisy = np.random.default_rng(0).integers(-3000, 3000, (2, 12000), np.int16)
    blocks = [[row[start : start + 777].tobytes() for start in range(0, 12000, 777)] for row in noisy]
    clients = [Client(f"rate={rate}", *sent, "end") for rate, sent in zip((16000, 48000), blocks, strict=True)]
    odd, fast, gone = Client("", b"odd"), Client("rate=1e9"), Client("", blocks[0][0])

    async def serve() -> None:
        everyone = (*clients, odd, fast, gone)
        await asyncio.gather(*(server["app"](each.scope, each.receive, each.send) for each in everyone))

    asyncio.run(serve())
    for row, rate, client in zip(noisy, (16000, 48000), clients, strict=True):
        assert client.got[0]["type"] == "websocket.accept" and client.got[-1] == {"type": "websocket.close"}
        expected = 32768 * server["enhancer"]().enhance(row, rate, Options(warm_up=False))
        assert client.sound.shape == expected.shape and np.abs(client.sound - expected).max() < 1
    assert odd.got[-1]["code"] == 1007 and fast.got[0]["code"] == 1007
    assert gone.got[-1]["type"] != "websocket.close"  # it went away by itself
