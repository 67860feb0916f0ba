"""Live streams: exact, at any rate and cut, bounded, and of no harm to each other."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sbm_cli.options import Options
from sbm_cli.serve import streams
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.serve.conftest import Server


@contextmanager
def stream(server: Server, query: str = "") -> Iterator[tuple[ClientConnection, Any]]:
    with connect(f"ws://127.0.0.1:{server.port}/stream?{query}", max_size=None) as socket:
        yield socket, json.loads(socket.recv())


def rest(socket: ClientConnection) -> bytes:
    """Return what still comes until the server closes."""
    return b"".join(part for part in socket if isinstance(part, bytes))


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-3000, 3000, samples).astype("<i2")


@pytest.mark.parametrize("size", [1, 313, 512, 40001, 10**6])
def test_a_stream_is_that_of_the_model_however_it_is_cut(server: Server, size: int) -> None:
    given = noise(3000 if size == 1 else 30001)
    expected = server.enhancer.enhance(given, 16000, Options(strength=0.7))
    with stream(server, "strength=0.7") as (socket, told):
        assert told["rate"] == 16000 and told["channels"] == 1 and told["subtype"] == "PCM_16"
        assert told["latency"] == pytest.approx(server.enhancer.latency_seconds)
        data = given.tobytes()
        for start in range(0, len(data), size):
            socket.send(data[start : start + size])
        socket.send("end")
        taken = rest(socket)
    assert len(taken) == len(data)
    assert np.abs(np.frombuffer(taken, "<i2") / 2**15 - expected).max() <= 1.01 / 2**15
    assert socket.close_code == 1000


@pytest.mark.parametrize("raw", ["48000:2:FLOAT", "44100:1:PCM_24", "8000:2:ULAW", "16000:1:DOUBLE"])
def test_every_rate_and_format_comes_back_as_long_as_it_was(server: Server, raw: str) -> None:
    with stream(server, f"raw={raw}") as (socket, told):
        width = told["channels"] * {"FLOAT": 4, "PCM_24": 3, "ULAW": 1, "DOUBLE": 8}[told["subtype"]]
        data = bytes(width * 10007)
        socket.send(data)
        socket.send("end")
        assert len(rest(socket)) == len(data)
        assert (
            told["latency"]
            == round(told["latency"], 6)
            == pytest.approx(server.enhancer.latency_seconds + (told["rate"] != 16000) * 0.005, abs=0.004)
        )


def test_what_is_no_number_is_silence(server: Server) -> None:
    samples = np.full(2000, 0.1, "<f4")
    samples[700] = np.nan
    with stream(server, "raw=16000:1:FLOAT") as (socket, _):
        socket.send(samples.tobytes())
        socket.send("end")
        assert np.isfinite(np.frombuffer(rest(socket), "<f4")).all()


def test_each_hop_comes_out_at_once(server: Server) -> None:
    with stream(server) as (socket, _):
        socket.send(noise(512).tobytes())
        assert len(socket.recv(timeout=PATIENCE)) == 512  # bytes: the window has to fill first
        for _ in range(10):
            socket.send(noise(256).tobytes())
            assert len(socket.recv(timeout=PATIENCE)) == 512


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("raw=x", "expected RATE[:CHANNELS[:SUBTYPE]], such as 16000:1:PCM_16, got 'x'"),
        ("raw=999", "rate must be between 1000 and 768000 Hz, got 999"),
        ("raw=4000037", "rate must be between 1000 and 768000 Hz, got 4000037"),
        ("raw=767999", "cannot convert from 767999 to 16000 Hz live"),
        ("raw=16000:3", "a stream has at most 2 channels, got 3"),
        ("strength=2", "strength must be between 0 (the input) and 1"),
        ("rate=8000", "unknown option 'rate'; there are attenuation_limit, dereverb, keep_room, strength"),
        ("keep_room=1", "was not trained to keep the room."),
    ],
)
def test_what_is_wrong_is_told(server: Server, query: str, message: str) -> None:
    with stream(server, query) as (socket, told):
        assert message in told["error"] and told["hint"]
        with pytest.raises(ConnectionClosed):
            socket.recv()
    assert socket.close_code == 1008


def test_only_so_many_channels_at_a_time(serving: Callable[..., Server]) -> None:
    server = serving(streams=3)
    with stream(server, "raw=16000:2"), stream(server):
        with stream(server) as (socket, told):
            assert told["error"] == "3 channels are in use already."
            with pytest.raises(ConnectionClosed):
                socket.recv()
        assert socket.close_code == 1013
    end = time.monotonic() + PATIENCE
    while True:  # those that left make room
        with stream(server, "raw=16000:2") as (socket, told):
            if "error" not in told:
                break
        assert time.monotonic() < end


def test_a_client_that_takes_nothing_costs_the_others_nothing(server: Server) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/stream", max_queue=1, close_timeout=0.1) as stalled:
        stalled.socket.settimeout(1)
        sent = 0
        try:
            while sent < 2**28:
                stalled.send(bytes(2**18))
                sent += 2**18
        except (TimeoutError, ConnectionClosed):
            pass
        assert sent < 2**27  # the server takes no more than it can pass on
        with stream(server) as (socket, _):
            socket.send(noise(4000).tobytes())
            socket.send("end")
            assert len(rest(socket)) == 8000
        stalled.socket.close()


def test_who_is_late_has_the_next_turn_and_who_is_ahead_the_last() -> None:
    workers, order, begin = streams._Workers(1), [], threading.Event()

    async def take_turns() -> None:
        first = asyncio.create_task(workers.run(0.0, begin.wait))
        others = [asyncio.create_task(workers.run(ahead, order.append, ahead)) for ahead in (3.0, -1.0, 0.0)]
        await asyncio.sleep(0.05)
        begin.set()
        await asyncio.gather(first, *others)

    asyncio.run(take_turns())
    workers.close()
    assert order == [-1.0, 0.0, 3.0]


def test_a_silent_client_is_let_go(serving: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.3)
    server = serving(streams=1)
    with stream(server) as (socket, _):
        assert "no samples for 0.3 s" in str(socket.recv(timeout=PATIENCE))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=PATIENCE)
    assert socket.close_code == 1008
    with stream(server) as (_, told):
        assert "error" not in told


def test_text_that_is_not_the_end_and_messages_that_are_too_large(server: Server) -> None:
    with stream(server) as (socket, _), pytest.raises(ConnectionClosed):
        socket.send(bytes(2**20 + 1))
        rest(socket)
        socket.recv()
    assert socket.close_code == 1009
    with stream(server) as (socket, _):
        socket.send("hello")
        socket.send("end")
        assert rest(socket) == b""
