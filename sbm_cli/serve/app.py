"""The routes of the server: the page, files over HTTP, and streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import DISK_FULL, FULL
from sbm_cli.options import Options
from sbm_cli.serve.guard import Guard
from sbm_cli.serve.jobs import Job, Jobs, Limits, Refused
from sbm_cli.serve.requests import LISTED, describe_options, output_suffix, page_knobs, parse_options, shown_name
from sbm_cli.serve.streams import Streams

_PAGE = Path(__file__).with_name("page")
_ASSETS = {"": "text/html", "style.css": "text/css", "script.js": "text/javascript", "recorder.js": "text/javascript"}
_SUFFIXES_ON_PAGE = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
_SWEEP = 60.0  # seconds between two looks for recordings that nobody asks for
_PIECE = 2**20  # bytes of an upload that are written at a time


def make_app(
    enhancer: Enhancer,
    load_live: Callable[[], Enhancer],
    folder: Path,
    hosts: Collection[str] | None,
    token: str | None,
    streams: int,
    limits: Limits,
) -> Starlette:
    """Return the server for a model for files and one for streams, which is loaded for the first of them.

    folder: for what is uploaded and made of it; empty again in the end. hosts, token: as `Guard` has them. streams:
    channels of live streams at a time.
    """
    server = _Server(Jobs(enhancer, folder, limits), Streams(load_live, streams))
    routes = [Route(f"/{name}", server.asset) for name in _ASSETS]
    routes += [
        Route("/about", server.about),
        Route("/enhance/{name:path}", server.enhance, methods=["POST", "PUT"]),
        Route("/jobs", server.create, methods=["POST"]),
        Route("/jobs/{id}", server.show),
        Route("/jobs/{id}", server.repeat, methods=["PUT"]),
        Route("/jobs/{id}", server.remove, methods=["DELETE"]),
        Route("/jobs/{id}/file", server.file),
        Route("/jobs/{id}/sound", server.sound),
        Route("/jobs/{id}/picture", server.picture),
    ]
    return Starlette(
        routes=[*routes, WebSocketRoute("/stream", server.stream)],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={Refused: _refused, HTTPException: _not_served, ClientDisconnect: _gone},
        lifespan=server.lifespan,
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Return what runs the app, with the limits that are not ours to check."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            access_log=False,  # it would tell names and tokens
            server_header=False,
            ws_max_size=2**20,
            ws_ping_interval=None,  # a client that plays what it gets lets a ping wait behind the sound
            ws_per_message_deflate=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=2,
        )
    )


class _Server:
    def __init__(self, jobs: Jobs, streams: Streams) -> None:
        self._jobs, self._streams = jobs, streams

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            self._streams.close()
            await run_in_threadpool(self._jobs.close)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            self._jobs.expire()

    async def asset(self, request: Request) -> Response:
        name = request.url.path[1:]
        return FileResponse(_PAGE / (name or "index.html"), media_type=_ASSETS[name])

    async def about(self, request: Request) -> Response:
        limits, config = self._jobs.limits, self._jobs.enhancer.config
        return JSONResponse(
            {
                "model": config.name,
                "knobs": page_knobs(config.network.keep_room),
                "formats": _SUFFIXES_ON_PAGE,
                "size": limits.size,
                "seconds": limits.seconds,
                "keep": limits.keep,
            }
        )

    async def enhance(self, request: Request) -> Response:
        """Take a file and return it enhanced; nothing is kept."""
        job = await self._receive(request, request.path_params["name"], shown=False)
        try:
            await self._end(request, job)
            if job.error is not None:
                raise job.error
        except BaseException:
            self._jobs.remove(job)
            raise
        done = BackgroundTask(self._jobs.remove, job)
        return FileResponse(job.after, filename=job.output_name, background=done)

    async def create(self, request: Request) -> Response:
        job = await self._receive(request, request.query_params.get("name", ""), shown=True)
        return JSONResponse(job.describe(), 201)

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._job(request).describe())

    async def repeat(self, request: Request) -> Response:
        """Enhance the same recording once more, with other options."""
        job = self._job(request)
        self._jobs.start(job, *_wishes(request, job.name))
        return JSONResponse(job.describe(), 202)

    async def remove(self, request: Request) -> Response:
        self._jobs.remove(self._job(request))
        return Response(status_code=204)

    async def file(self, request: Request) -> Response:
        job = self._finished(request)
        return FileResponse(job.after, filename=job.output_name)

    async def sound(self, request: Request) -> Response:
        """Return the samples of before and after, of which the page asks for one range of bytes after another."""
        listening = self._finished(request).listening
        assert listening is not None
        return FileResponse(listening.path, media_type="application/octet-stream")

    async def picture(self, request: Request) -> Response:
        listening = self._finished(request).listening
        assert listening is not None
        return Response(listening.pictures.tobytes(), media_type="application/octet-stream")

    async def stream(self, socket: WebSocket) -> None:
        await self._streams.serve(socket)

    def _job(self, request: Request) -> Job:
        return self._jobs.get(request.path_params["id"])

    def _finished(self, request: Request) -> Job:
        job = self._job(request)
        if job.state != "done":
            raise Refused(409, f"{job.name} is not ready.", "Wait for its end.")
        return job

    async def _receive(self, request: Request, name: str, shown: bool) -> Job:
        """Take an upload whole, and let it be enhanced."""
        name = shown_name(name)
        wishes = _wishes(request, name)  # before a byte is taken
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused(
                415, f"{name}: sent as a form.", "Send the file as the body: curl --data-binary @FILE, not -F."
            )
        length = request.headers.get("content-length", "0")
        self._check_size(int(length) if length.isdecimal() else 0)
        job = self._jobs.new(name, shown)
        try:
            if not await self._save(request, job.before):
                raise Refused(422, f"{name}: not a sound file (it is empty, 0 bytes).", "Send the file as the body.")
        except BaseException as error:
            self._jobs.remove(job)
            if isinstance(error, OSError) and error.errno in FULL:
                raise Refused(507, "the server has no room left.", DISK_FULL) from error
            raise
        self._jobs.start(job, *wishes)
        return job

    async def _save(self, request: Request, path: Path) -> int:
        """Write what is uploaded, and return its size."""
        pieces = request.stream()
        size, waiting = 0, bytearray()
        with path.open("wb") as file:
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces), self._jobs.limits.patience)
                except StopAsyncIteration:
                    break
                except asyncio.TimeoutError:
                    raise Refused(408, f"no byte for {self._jobs.limits.patience:g} s.", "Send it again.") from None
                size += len(piece)
                self._check_size(size)
                waiting += piece
                if len(waiting) >= _PIECE:
                    await run_in_threadpool(file.write, waiting)  # a slow disk holds up nobody else
                    waiting = bytearray()
            await run_in_threadpool(file.write, waiting)
        return size

    def _check_size(self, size: int) -> None:
        if size > self._jobs.limits.size:
            raise Refused(413, f"larger than {self._jobs.limits.size / 1e6:g} MB.", "Use `sbm enhance`, or cut it.")

    async def _end(self, request: Request, job: Job) -> None:
        """Wait until a job is done, or its client is gone."""
        assert job.ended is not None
        leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        ended: asyncio.Future[Any] = asyncio.wrap_future(job.ended)
        await asyncio.wait([ended, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise ClientDisconnect
        leaving.cancel()


def _wishes(request: Request, name: str) -> tuple[Options, str, str]:
    """Return the options, the suffix of the output, and the query that asks for them."""
    query = {key: text for key, text in request.query_params.items() if key != "name"}
    asked = urlencode(query)
    try:
        suffix = output_suffix(query.pop("ext", ""), name)
        return parse_options(query), suffix, asked
    except ValueError as error:
        raise Refused(400, f"{error}.", describe_options(query) or LISTED) from error


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.message, "hint": error.hint}, error.status)


async def _not_served(request: Request, error: Any) -> Response:
    what = f"{request.method} {request.url.path}: {error.detail.lower()}."
    return JSONResponse({"error": what, "hint": LISTED}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it
