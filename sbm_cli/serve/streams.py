"""Live streams over web sockets: samples in, clean samples out, as they come."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from sbm_cli.audio.format import SAMPLE_BYTES, AudioFormat, raw_format
from sbm_cli.audio.pipe import decoded, encoded
from sbm_cli.audio.resample import LIVE, StreamResampler
from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import SbmError
from sbm_cli.hardware import cores
from sbm_cli.options import FOR_LIVE, LEAST_RATE, MOST_RATE, Options
from sbm_cli.serve.requests import LISTED, describe_options, parse_options

END = "end"  # the text after which no more samples come
MOST_CHANNELS = 2
PATIENCE = 60.0  # seconds without a sample from a client, or in which it takes none
_TURN = 4  # hops of a stream at a time: one that is late catches up, and the others need not wait for long
_WAITING = 1.0  # seconds of sound that wait for their turn; more is left with the sender
_REFUSED, _TOO_MANY = 1008, 1013  # how sockets are closed


class Streams:
    """The live streams of all clients, on all cores.

    most: channels at a time.
    """

    def __init__(self, load: Callable[[], Enhancer], most: int) -> None:
        self._load = load
        self._most = most
        self._used = 0  # channels
        self._enhancer: Enhancer | None = None
        self._loading = asyncio.Lock()
        self._workers = _Workers(cores())

    async def serve(self, socket: WebSocket) -> None:
        """Serve a client from its first sample to its last."""
        await socket.accept()
        query = dict(socket.query_params)
        try:
            form = raw_format(query.pop("raw", "16000"))
            if form.channels > MOST_CHANNELS:
                raise ValueError(f"a stream has at most {MOST_CHANNELS} channels, got {form.channels}")
            if not LEAST_RATE <= form.rate <= MOST_RATE:
                raise ValueError(f"rate must be between {LEAST_RATE} and {MOST_RATE} Hz, got {form.rate}")
            options = replace(parse_options(query, FOR_LIVE), replace_nan=True)
            chain = await self._workers.run(0.0, _Chain, await self._loaded(), form, options)
        except (ValueError, SbmError) as error:
            hint = error.hint if isinstance(error, SbmError) else describe_options(query.keys() & FOR_LIVE) or LISTED
            await _refuse(socket, _REFUSED, str(error), hint)
            return
        except MemoryError:
            await _refuse(socket, _TOO_MANY, "the server is out of memory.", "Try again later.")
            return
        if self._used + form.channels > self._most:
            await _refuse(socket, _TOO_MANY, f"{self._used} channels are in use already.", "Try again later.")
            return
        self._used += form.channels
        try:
            await socket.send_json(chain.describe())
            await self._pass_on(socket, chain)
        except (WebSocketDisconnect, asyncio.TimeoutError):  # it is gone, or takes nothing, not even a farewell
            pass
        finally:
            self._used -= form.channels

    def close(self) -> None:
        self._workers.close()

    async def _loaded(self) -> Enhancer:
        async with self._loading:
            if self._enhancer is None:
                self._enhancer = await self._workers.run(0.0, self._load)
            return self._enhancer

    async def _pass_on(self, socket: WebSocket, chain: _Chain) -> None:
        inbox = _Inbox(socket, chain)
        reading = asyncio.create_task(inbox.read())
        patience = _Patience()
        try:
            while data := await inbox.take():
                patience.renew()
                if clean := await self._workers.run(chain.ahead, chain.feed, data):
                    # Waits until the client takes it; meanwhile what it sends stays where it is.
                    await socket.send_bytes(clean)
                    patience.renew()
            await reading  # raises if the client is gone
            await socket.send_bytes(await self._workers.run(chain.ahead, chain.flush))
            await socket.close()
        except asyncio.CancelledError:
            if not patience.lost:
                raise
            if inbox.is_waiting:
                hint = "Send silence while there is no sound."
                await asyncio.wait_for(_refuse(socket, _REFUSED, f"no samples for {PATIENCE:g} s.", hint), PATIENCE)
        finally:
            patience.end()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class _Workers:
    """Threads that give streams their turns; first those that are least ahead of real time.

    A client that sends faster than anybody speaks, and perhaps takes nothing of what comes, holds up no other.
    """

    def __init__(self, count: int) -> None:
        self._queue: queue.PriorityQueue[tuple[float, int, Future[Any], Callable[[], Any] | None]]
        self._queue = queue.PriorityQueue()
        self._order = itertools.count()
        self._count = count
        for _ in range(count):
            threading.Thread(target=self._work, name="streams", daemon=True).start()

    async def run(self, ahead: float, action: Callable[..., Any], *arguments: Any) -> Any:
        future: Future[Any] = Future()
        self._queue.put((ahead, next(self._order), future, functools.partial(action, *arguments)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        for _ in range(self._count):
            self._queue.put((-math.inf, next(self._order), Future(), None))

    def _work(self) -> None:
        while True:
            _, _, future, action = self._queue.get()
            if action is None:
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(action())
                except BaseException as error:  # for whoever waits for it
                    future.set_exception(error)


class _Patience:
    """Cancels the task that it was made in once it has not been renewed for PATIENCE seconds.

    `asyncio.wait_for` makes a task each time, which costs a hop more than its bytes do.
    """

    def __init__(self) -> None:
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self.renew()
        self._look()

    def renew(self) -> None:
        self._end = self._loop.time() + PATIENCE

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._loop.time() < self._end:
            self._timer = self._loop.call_at(self._end, self._look)
        elif self._task:
            self.lost = True
            self._task.cancel()


class _Inbox:
    """Samples that have come and wait for their turn; all that may be taken at a time is taken together."""

    def __init__(self, socket: WebSocket, chain: _Chain) -> None:
        self.is_waiting = False  # for samples
        self._socket = socket
        self._most = chain.bytes_of(_WAITING)
        self._turn = chain.turn_bytes
        self._data = bytearray()
        self._ended = False
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()

    async def read(self) -> None:
        """Take in what comes until the client says that it was all."""
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 1006))
                if message.get("text") == END:
                    return
                self._data += message.get("bytes") or b""
                self._filled.set()
                while len(self._data) >= self._most:
                    self._emptied.clear()
                    await self._emptied.wait()
        finally:
            self._ended = True
            self._filled.set()

    async def take(self) -> bytes:
        """Return the samples of the next turn, none at the end."""
        self.is_waiting = True
        while not (self._data or self._ended):
            self._filled.clear()
            await self._filled.wait()
        self.is_waiting = False
        taken = bytes(self._data[: self._turn])
        del self._data[: self._turn]
        self._emptied.set()
        return taken


class _Chain:
    """From the bytes of a stream to those of its clean twin, of the same format, rate and number of samples."""

    def __init__(self, enhancer: Enhancer, form: AudioFormat, options: Options) -> None:
        self._form = form
        self._config = enhancer.config
        rate = enhancer.config.rate
        self._to_model = StreamResampler(form.rate, rate, form.channels, LIVE)
        self._from_model = StreamResampler(rate, form.rate, form.channels, LIVE)
        self._stream = enhancer.stream(rate, form.channels, options)
        self._latency = self._stream.latency_seconds + self._to_model.latency_seconds + self._from_model.latency_seconds
        self._width = form.channels * SAMPLE_BYTES[form.subtype]
        self._rest = b""  # of a sample whose other bytes are still to come
        self._samples = 0
        self._start = time.monotonic()

    @property
    def ahead(self) -> float:
        """By how many seconds more sound came than time went by since the beginning."""
        return self._samples / self._form.rate - (time.monotonic() - self._start)

    @property
    def turn_bytes(self) -> int:
        return self.bytes_of(_TURN * self._config.stft.hop / self._config.rate)

    def bytes_of(self, seconds: float) -> int:
        return max(1, round(seconds * self._form.rate)) * self._width

    def describe(self) -> dict[str, Any]:
        form = self._form
        described: dict[str, Any] = {"model": self._config.name, "rate": form.rate, "channels": form.channels}
        return described | {"subtype": form.subtype, "latency": round(self._latency, 6)}

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        whole = len(data) // self._width * self._width
        data, self._rest = data[:whole], data[whole:]
        if not data:
            return b""
        samples = decoded(data, self._form).T
        self._samples += samples.shape[1]
        # Who paused is not owed that time.
        self._start = max(self._start, time.monotonic() - self._samples / self._form.rate - _WAITING)
        heard = self._to_model.feed(np.ascontiguousarray(samples))
        return encoded(self._from_model.feed(self._stream.feed(heard)), self._form)

    def flush(self) -> bytes:
        """Return the rest: in total as many bytes as came, but for those of a broken sample."""
        rest = (self._stream.feed(self._to_model.flush()), self._stream.flush())
        parts = [self._from_model.feed(part) for part in rest]
        return encoded(np.concatenate([*parts, self._from_model.flush(self._samples)], axis=1), self._form)


async def _refuse(socket: WebSocket, code: int, message: str, hint: str) -> None:
    """Say why, which a page cannot read out of a refused handshake, and close."""
    await socket.send_json({"error": message, "hint": hint})
    await socket.close(code)
