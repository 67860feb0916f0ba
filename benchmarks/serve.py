"""What `sbm serve` holds: python benchmarks/serve.py streams|uploads [--model NAME]

streams: --streams clients send a hop every 16 ms for --seconds, first alone, then beside --stalled clients that take
nothing of what they ask for, then beside a file that is enhanced. The delay of a hop is the time from its last sample
to that of its clean twin, as far as that is there at all: of a window it takes the last hop. A hop is missed if it
comes later than the next one is due. Believe it on a quiet machine only; `taskset -c 0,1` before it gives it two cores.

uploads: --count broken ones: cut, huge, slow, of the wrong kind, with hostile names. Then the server must serve as
before, and its folder must be empty. The status is 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import soundfile
from websockets.asyncio.client import connect

from sbm_cli.timing.clips import speech_like
from sbm_cli.timing.machine import machine, software

RATE, HOP = 16_000, 256  # of sbm-live
WARM_UP = 1.0  # seconds
NAMES = ("a.wav", "../../../a.wav", "<script>.mp3", "a\r\nb: c.wav", "\u202e.flac", "é" * 2000, "a.exe", "")


@contextlib.contextmanager
def server(folder: Path, *arguments: str) -> Iterator[str]:
    """Run a server with its files in a folder, and give its address."""
    command = [sys.executable, "-m", "sbm_cli", "serve", "--port", "0", "--no-browser", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        yield process.stderr.readline().removeprefix("serving on ").strip()
        process.terminate()


async def client(address: str, samples: np.ndarray, start: float) -> np.ndarray:
    """Send a hop every 16 ms; return when each was sent, and when its clean twin had come, in seconds."""
    data = (samples * 2**15).astype("<i2").tobytes()
    size = 2 * HOP
    count = len(data) // size
    sent, came = np.full(count, np.nan), np.full(count, np.nan)
    async with connect(f"ws://{urlsplit(address).netloc}/stream") as stream:
        assert "error" not in json.loads(await stream.recv())

        async def take() -> None:
            taken = 0
            while taken < count - 1:
                taken += len(await stream.recv()) // size
                came[1 : taken + 1] = np.where(np.isnan(came[1 : taken + 1]), time.monotonic(), came[1 : taken + 1])

        taking = asyncio.create_task(take())
        for hop in range(count):
            await asyncio.sleep(max(0, start + hop * HOP / RATE - time.monotonic()))
            sent[hop] = time.monotonic()
            await stream.send(data[hop * size : (hop + 1) * size])
        await taking
    return came - sent


async def stall(address: str) -> None:
    """Ask for a lot and take nothing."""
    async with connect(f"ws://{urlsplit(address).netloc}/stream", max_queue=1) as stream:
        while True:
            await stream.send(bytes(2**16))


def upload(address: str, name: str, body: bytes) -> dict[str, object]:
    with urlopen(Request(f"{address}jobs?name={quote(name)}", body, method="POST")) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


async def measure(address: str, streams: int, seconds: float, stalled: int) -> np.ndarray:
    """Return the delays of all hops, in milliseconds."""
    others = [asyncio.create_task(stall(address)) for _ in range(stalled)]
    start = time.monotonic() + WARM_UP
    samples = [speech_like(seconds, RATE) for _ in range(streams)]
    # Hops of different clients fall anywhere, as they would.
    clients = [client(address, own, start + random.random() * HOP / RATE) for own in samples]
    delays = np.stack(await asyncio.gather(*clients))[:, round(WARM_UP * RATE / HOP) :]
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return 1000 * delays[:, 1:]


def streams(options: argparse.Namespace) -> None:
    print(f"- machine: {machine()}\n- software: {software()}\n- command: `python {shlex.join(sys.argv)}`\n")
    print("| | median, ms | 99 % | longest | missed |\n|---|---|---|---|---|")
    capacity = str(options.streams + options.stalled)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--live-model", options.model, "--streams", capacity]
        with server(Path(folder), *arguments) as address:
            asyncio.run(measure(address, 1, 3, 0))  # loads the model
            cases = [("one stream", 1, 0, False), (f"{options.streams} streams", options.streams, 0, False)]
            cases.append((f"beside {options.stalled} stalled", options.streams, options.stalled, False))
            cases.append(("beside a file", options.streams, 0, True))
            for name, count, stalled, beside_file in cases:
                if beside_file:
                    noise = np.random.default_rng(0).integers(-3000, 3000, 3600 * RATE, np.int16)
                    soundfile.write(Path(folder) / "hour.wav", noise, RATE)
                    upload(address, "hour.wav", (Path(folder) / "hour.wav").read_bytes())
                delays = asyncio.run(measure(address, count, options.seconds, stalled))
                late, hops = int((delays > 1000 * HOP / RATE).sum()), delays.size
                middle, high = np.percentile(delays, (50, 99))
                print(f"| {name} | {middle:.1f} | {high:.1f} | {delays.max():.1f} | {late} of {hops} |", flush=True)


def broken(address: str, kind: str, name: str, draw: random.Random) -> None:
    """Send one upload that comes to nothing."""
    at = urlsplit(address)
    body = Path("examples/noisy.wav").read_bytes()
    heads = {
        "cut": f"Content-Length: {len(body)}",
        "huge": "Content-Length: 99999999999",
        "slow": f"Content-Length: {len(body)}",
        "chunks": "Transfer-Encoding: chunked",
        "no length": "X-None: 0",
    }
    with contextlib.suppress(OSError):
        if kind == "wrong":
            upload_of = draw.choice(
                (b"", draw.randbytes(5000), body[:3000], b"RIFF" + draw.randbytes(100), bytes(5000))
            )
            request = Request(f"{address}enhance/{quote(name, safe='')}", upload_of, method="PUT")
            urlopen(request, timeout=60).close()
            return
        with socket.create_connection((at.hostname, at.port or 80), timeout=10) as connection:
            line = f"PUT /enhance/{quote(name)} HTTP/1.1\r\nHost: {at.netloc}\r\n{heads[kind]}\r\n\r\n"
            connection.sendall(line.encode())
            part = body[: draw.randrange(len(body))]
            if kind == "chunks":
                part = b"ffff\r\n" + part[:1000]
            connection.sendall(part[:100] if kind == "slow" else part)
            if kind == "slow":
                time.sleep(0.05)


def uploads(options: argparse.Namespace) -> None:
    draw = random.Random(0)
    kinds = ("cut", "huge", "slow", "chunks", "no length", "wrong")
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), "--model", options.model) as address:
        for number in range(options.count):
            broken(address, kinds[number % len(kinds)], NAMES[number % len(NAMES)], draw)
        request = Request(f"{address}enhance/noisy.wav", Path("examples/noisy.wav").read_bytes(), method="PUT")
        with urlopen(request, timeout=60) as answer:
            served = len(answer.read())
        end = time.monotonic() + 60  # for those of whom the server thinks that they are only slow
        while (left := [path for path in Path(folder).glob("sbm-serve-*/files/*")]) and time.monotonic() < end:
            time.sleep(0.1)
    print(f"after {options.count} broken uploads: {served} bytes served, {len(left)} recordings left")
    sys.exit(0 if served > 100_000 and not left else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("streams", "uploads"))
    parser.add_argument("--model", default="sbm-live")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--stalled", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    {"streams": streams, "uploads": uploads}[options.what](options)


if __name__ == "__main__":
    main()
