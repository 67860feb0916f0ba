"""`sbm serve`: a page, and an interface for programs, on this machine or for others."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
from typing import Annotated
from urllib.parse import quote

import typer

from sbm_cli import hub
from sbm_cli.cli.live import MODEL as LIVE_MODEL
from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Device, Model, chosen_device
from sbm_cli.cli.shared.process import ending_signals, interrupted_by_signals
from sbm_cli.errors import SbmError, needing
from sbm_cli.options import Knob

LOOPBACK = "127.0.0.1"
PORT = 8765
_MOST = 10**6  # of a limit: MB, minutes


def serve(
    *,
    host: Annotated[str, Knob("Address to listen on; 0.0.0.0 for all.", "ADDRESS")] = LOOPBACK,
    port: Annotated[int, Knob("Port; 0 for a free one.", "N", 0, 65535, short="p")] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="SBM_TOKEN",
            help="What clients must show; needed wherever other machines can connect.",
            show_default="a random one there, none on this machine",
        ),
    ] = None,
    browser: Annotated[bool, Knob("Open the page in a browser.")] = True,
    model: Model = None,
    live_model: Annotated[str, Knob("Model for streams; --model is for files.", "NAME|PATH")] = LIVE_MODEL,
    device: Device = "auto",
    threads: Annotated[int, Knob("CPU threads for files.", "N", 1)] = 1,
    max_size: Annotated[float, Knob("Largest upload.", "MB", 0, _MOST)] = 1000,
    max_minutes: Annotated[float, Knob("Longest recording.", "MIN", 0, _MOST)] = 120,
    keep: Annotated[float, Knob("Remove recordings that nobody has asked for in this time.", "MIN", 0, _MOST)] = 60,
    streams: Annotated[int, Knob("Channels of live streams at a time.", "N", 0)] = 8,
) -> None:
    """Clean recordings on a page, and serve other programs.

    The page takes files and records; it shows and plays before and after. Programs send files over HTTP and live sound
    over a web socket; docs/serve.md describes both. What is uploaded stays on this machine and is removed when the
    command ends. Needs the extra "serve".

    \b
    Examples:
      sbm serve
      sbm serve --port 0 --no-browser
      sbm serve --host 0.0.0.0 --max-minutes 10   # prints an address with a token
      curl -T noisy.wav "http://127.0.0.1:8765/enhance/" -o clean.wav
      curl -T talk.m4a -o clean.flac \\
        "http://127.0.0.1:8765/enhance/?ext=flac&attenuation_limit=12"
    """
    with needing("serve", "the server"):
        import websockets  # noqa: F401  (uvicorn asks for it later)

        from sbm_cli.serve.app import make_app, make_server
        from sbm_cli.serve.jobs import Limits
    from sbm_cli.enhancer import Enhancer
    from sbm_cli.serve.workspace import workspace

    device = chosen_device(device)
    logging.basicConfig(level=logging.ERROR, format="sbm: %(message)s")  # why the server failed, should it ever
    is_public = not _is_loopback(host)
    if is_public and not token:
        token = secrets.token_urlsafe(16)
    limits = Limits(size=round(max_size * 1e6), seconds=60 * max_minutes, keep=60 * keep)
    hosts = None if is_public or token else frozenset({"localhost", LOOPBACK, "::1", host.lower()})
    with interrupted_by_signals(), contextlib.suppress(KeyboardInterrupt), _listen(host, port) as listener:
        enhancer = Enhancer.load(model, device=device, threads=threads)
        with workspace() as folder:
            load_live = functools.partial(Enhancer.load, hub.resolve(live_model), device=device)
            app = make_app(enhancer, load_live, folder, hosts, token, streams, limits)
            address = _address(host, listener.getsockname()[1], token)
            console.note(f"serving on {address}")
            console.note("press Ctrl-C to stop")
            if browser and not is_public and _has_browser():
                import webbrowser

                webbrowser.open(address)
            server = make_server(app)
            for number in ending_signals():
                signal.signal(number, server.handle_exit)
            server.run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Connections inherit it; asyncio sets it only on sockets that it made. Without it a hop may wait for the next.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SbmError(f"port {port} is in use.", "Choose another one with --port; 0 takes a free one.") from error
        raise SbmError(
            f"cannot listen on {host}, port {port}: {error.strerror}.", "Check --host and --port."
        ) from error


def _address(host: str, port: int, token: str | None) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def _has_browser() -> bool:
    """Whether there is one with a window: in a terminal it would hide our messages."""
    has_screen = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return console.interactive() and has_screen
