"""A server that cleans speech as it arrives over a web socket: an ASGI application without a framework.

    pip install sbm-cli "uvicorn[standard]"
    uvicorn --app-dir examples stream_server:app

A client opens ws://127.0.0.1:8000/?rate=48000, sends blocks of little-endian 16-bit mono samples as binary messages of
any size, and gets the enhanced samples back the same way, about a tenth of a second later. A text message "end" brings
the rest, in total as many samples as were sent; then the server closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from sbm_cli import Enhancer

MODEL = "sbm-live"  # has no look-ahead
WRONG_DATA, TOO_BIG = 1007, 1009  # codes of RFC 6455
MOST_BYTES = 2**20  # of a message
LEAST_RATE, MOST_RATE = 8000, 192_000  # Hz

Message = dict[str, Any]


@cache
def enhancer() -> Enhancer:
    """Return the model, loaded once: every connection has a stream of its own."""
    return Enhancer.load(MODEL, device="cpu")


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Serve the start of the application, or one connection."""
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.to_thread(enhancer)  # before the first connection waits for it
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 426, "headers": [(b"upgrade", b"websocket")]})
        await send({"type": "http.response.body", "body": b"Open a web socket.\n"})
        return
    await receive()  # websocket.connect
    rate = parse_qs(scope["query_string"].decode()).get("rate", ["16000"])[0]
    if not (rate.isdecimal() and LEAST_RATE <= int(rate) <= MOST_RATE):
        await send({"type": "websocket.close", "code": WRONG_DATA, "reason": "rate must be 8000 to 192000"})
        return
    stream = (await asyncio.to_thread(enhancer)).stream(int(rate))
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        block, ends = message.get("bytes") or b"", message.get("text") == "end"
        if len(block) > MOST_BYTES or len(block) % 2:
            await send({"type": "websocket.close", "code": TOO_BIG if len(block) > MOST_BYTES else WRONG_DATA})
            return
        # In a thread: the event loop serves the others meanwhile.
        work = stream.flush if ends else partial(stream.feed, np.frombuffer(block, "<i2"))
        clean = np.clip(np.rint(32768 * await asyncio.to_thread(work)), -32768, 32767).astype("<i2")
        if clean.size:
            await send({"type": "websocket.send", "bytes": clean.tobytes()})
        if ends:
            await send({"type": "websocket.close"})
            return
