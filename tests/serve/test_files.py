"""Files over HTTP: what comes back, what is refused, and that nothing stays."""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

from sbm_cli.audio.io import SoundReader
from sbm_cli.engine.chain import _Network
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import Options
from sbm_cli.serve.jobs import Jobs, Limits
from sbm_cli.serve.requests import shown_name
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.serve.conftest import Server


def wav(seconds: float = 0.5, channels: int = 1, rate: int = 16000) -> bytes:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def test_a_file_comes_back_as_the_command_writes_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(wav())
    server.enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "out.wav", Options(attenuation_limit=6))
    answer = server("PUT", "/enhance/talk.wav?attenuation_limit=6", wav())
    assert answer.status == 200 and answer.body == (tmp_path / "out.wav").read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="talk-clean.wav"'
    assert answer.headers["content-length"] == str(len(answer.body))
    assert server.is_empty()


def test_an_m4a_comes_back_as_an_m4a_of_the_same_length(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(wav(2, channels=2, rate=48000))
    server.enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "in.m4a")
    answer = server("POST", "/enhance/in.m4a", (tmp_path / "in.m4a").read_bytes())
    (tmp_path / "out.m4a").write_bytes(answer.body)
    with SoundReader(tmp_path / "in.m4a") as before, SoundReader(tmp_path / "out.m4a") as after:
        assert (after.format.container, after.format.subtype) == ("MP4", "AAC")
        assert (after.format.rate, after.format.channels) == (48000, 2)
        lengths = [sum(block.shape[1] for block in reader.blocks(48000)) for reader in (before, after)]
    assert lengths[0] == lengths[1] >= 96000


def test_another_format_and_mono(server: Server) -> None:
    answer = server("PUT", "/enhance/talk.wav?ext=flac&mono=true&rate=8000", wav(channels=2))
    with soundfile.SoundFile(io.BytesIO(answer.body)) as file:
        assert (file.format, file.channels, file.samplerate, file.frames) == ("FLAC", 1, 8000, 4000)
    assert answer.headers["content-type"] == "audio/flac"
    same, said, less = (
        len(server("PUT", f"/enhance/a.mp3?bit_rate={rate}", wav(1)).body) for rate in ("64000", "64k", "32k")
    )
    assert same == said > less


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("strenght=1", "unknown option 'strenght'; there are attenuation_limit, "),
        ("strength=2", "strength must be between 0 (the input) and 1 (all enhanced), got 2.0"),
        ("strength=nan", "strength must be between 0 (the input) and 1"),
        ("strength=much", "strength must be a number, got 'much'"),
        ("strength=0.5&attenuation_limit=3", "give only one of them"),
        ("keep_room=perhaps", "keep_room must be true or false"),
        ("bit_rate=96", "expected 128k or 128000 (bit/s), for example, got '96'"),
        ("steps=x", "steps and seed must be whole numbers"),
        ("sampler=best", "sampler must be one of"),
        ("ext=exe", "unknown format 'exe'; choose one of .wav"),
    ],
)
def test_wrong_options_are_told_before_anything_is_sent(server: Server, query: str, message: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("PUT", f"/enhance/talk.wav?{query}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()  # and no byte follows
    answer = connection.getresponse()
    assert answer.status == 400 and message in answer.read().decode()
    connection.close()


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("talk.wav", b"", "talk.wav: not a sound file (it is empty, 0 bytes)."),
        ("talk.wav", wav()[:9000], "talk.wav: truncated"),
        ("talk.mp3", b"\x89PNG" + bytes(5000), "talk.mp3: "),
        ("talk", wav(), "talk-clean: no sound format for a name without suffix."),
        ("talk.opus", wav(rate=44100), "talk-clean.opus: Opus does not support 44100 Hz"),
    ],
)
def test_what_cannot_be_enhanced_is_named_as_its_sender_does(
    server: Server, name: str, body: bytes, message: str
) -> None:
    answer = server("PUT", f"/enhance/{name}", body)
    assert answer.status == 422 and answer.json["error"].startswith(message)
    assert str(server.folder) not in answer.body.decode() and server.is_empty()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("PUT", "/enhance/%0a%1b[31m.wav", 404), ("PUT", "/about", 405)]
)
def test_paths_and_methods_that_there_are_not_are_answered_in_json(
    server: Server, method: str, path: str, status: int
) -> None:
    answer = server(method, path, b"")
    assert answer.status == status and answer.json["hint"] == "docs/serve.md lists what there is."


HOSTILE = (
    "../../../../tmp/owned.wav",
    "..\\..\\owned.wav",
    "/etc/passwd",
    "a\r\nSet-Cookie: x=y\r\n.wav",
    '"; filename="evil.exe".wav',
    "<img src=x onerror=alert(1)>.wav",
    "gnp.\u202evaw.wav",
    "\0.wav",
    "é" * 3000 + ".wav",
    "." * 50,
    "~/.ssh/id_rsa",
    "CON",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_nothing_else(server: Server, name: str) -> None:
    answer = server("POST", f"/jobs?name={quote(name)}&ext=wav", wav(0.1))
    job = server.ended(answer.json["id"])
    assert job["state"] == "done" and job["name"] == shown_name(name)
    assert job["name"].isprintable() and len(job["name"]) <= 110 and not set(job["name"]) & set("/\\")
    inside = sorted(path.name for path in (server.folder / job["id"]).iterdir())
    assert inside in (["after.wav", "before.wav", "both"], ["after.wav", "before", "both"])
    file = server("GET", f"/jobs/{job['id']}/file")
    assert "set-cookie" not in file.headers and file.headers["content-disposition"].isascii()
    assert server("DELETE", f"/jobs/{job['id']}").status == 204 and server.is_empty()


def test_an_unknown_suffix_is_named(server: Server) -> None:
    answer = server("PUT", "/enhance/talk.exe", wav())
    assert answer.status == 400
    assert answer.json["error"] == (
        "talk.exe: no sound format for suffix .exe; choose another with ext, such as ext=wav."
    )
    assert server("PUT", "/enhance/talk.exe?ext=wav", wav()).status == 200


def test_a_form_is_told_from_a_body(server: Server) -> None:
    answer = server("POST", "/enhance/a.wav", b"--x", **{"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 415 and answer.json["error"] == "a.wav: sent as a form."
    assert "--data-binary" in answer.json["hint"] and server.is_empty()


def test_an_empty_upload_is_refused_at_once(server: Server) -> None:
    answer = server("POST", "/jobs?name=a.wav")
    assert answer.status == 422 and answer.json["error"] == "a.wav: not a sound file (it is empty, 0 bytes)."
    assert server.is_empty()


def test_what_there_is_not_is_told_in_json(server: Server) -> None:
    absent, method = server("GET", "/none"), server("GET", "/enhance/a.wav")
    assert absent.status == 404 and absent.json["error"] == "GET /none: not found."
    assert method.status == 405 and method.json["error"] == "GET /enhance/a.wav: method not allowed."
    assert set(method.headers["allow"].split(", ")) == {"POST", "PUT"}


def test_a_value_out_of_range_is_answered_with_the_range(server: Server) -> None:
    answer = server("PUT", "/enhance/a.wav?loudness=-16&strength=2", wav())
    assert answer.status == 400 and answer.json["hint"].startswith("strength from 0 to 1: Share of enhanced sound;")
    assert "loudness from -70 to 0: " in answer.json["hint"]


def test_a_job_from_beginning_to_end(server: Server) -> None:
    job = server("POST", "/jobs?name=talk.wav&strength=0.5", wav(1, channels=2)).json
    assert job["name"] == "talk.wav" and job["query"] == "strength=0.5"
    job = server.ended(job["id"])
    sound = job["listening"]
    assert (sound["rate"], sound["channels"], sound["samples"]) == (16000, [2, 2], 16000)
    part = server("GET", f"/jobs/{job['id']}/sound", Range="bytes=8-15")
    assert part.status == 206 and part.headers["content-range"] == "bytes 8-15/128000"
    played = np.frombuffer(server("GET", f"/jobs/{job['id']}/sound").body, "<i2").reshape(-1, 4)
    given, _ = soundfile.read(io.BytesIO(wav(1, channels=2)), dtype="int16")
    first = server("GET", f"/jobs/{job['id']}/file")
    made, _ = soundfile.read(io.BytesIO(first.body), dtype="int16")
    assert np.abs(played - np.hstack([given, made])).max() <= 1
    picture = server("GET", f"/jobs/{job['id']}/picture").body
    assert len(picture) == 2 * sound["rows"] * sound["columns"] and max(picture) == 255

    assert server("PUT", f"/jobs/{job['id']}?strength=0&ext=flac").json["query"] == "strength=0&ext=flac"
    job = server.ended(job["id"])
    assert job["output"] == "talk-clean.flac"
    again, _ = soundfile.read(io.BytesIO(server("GET", f"/jobs/{job['id']}/file").body), dtype="int16")
    assert np.array_equal(again, given)

    assert server("DELETE", f"/jobs/{job['id']}").status == 204
    assert server("GET", f"/jobs/{job['id']}").status == 404 and server.is_empty()


def test_what_is_not_ready_is_not_served(server: Server) -> None:
    job = server("POST", "/jobs?name=broken.wav", b"broken").json
    assert server.ended(job["id"])["error"].startswith("broken.wav: ")
    for part in ("file", "sound", "picture"):
        assert server("GET", f"/jobs/{job['id']}/{part}").status == 409
    server("DELETE", f"/jobs/{job['id']}")


def upload(port: int, head: str, *parts: bytes, wait: float = 0.0) -> bytes:
    """Send a request byte by byte as told, then break off; return what was answered until then."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(f"PUT /enhance/a.wav HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        return connection.recv(65536) if wait else b""


def test_cut_slow_and_huge_uploads_leave_nothing(server: Server) -> None:
    for _ in range(20):
        upload(server.port, "Content-Length: 100000", wav()[:5000])  # cut
        upload(server.port, "Transfer-Encoding: chunked", b"1000\r\n" + bytes(100))  # cut within a chunk
    assert b" 408 " in upload(server.port, "Content-Length: 100000", b"RIFF", wait=1.0)
    assert b" 413 " in upload(server.port, "Content-Length: 3000001", b"RIFF", wait=0.3)
    many = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("PUT", "/enhance/a.wav")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(60):
            connection.send(many)
    except OSError:  # the server has had enough
        pass
    else:
        assert connection.getresponse().status == 413
    connection.close()
    assert server.is_empty()
    assert server("PUT", "/enhance/a.wav", wav()).status == 200


def test_sound_that_is_too_long_is_refused_as_soon_as_it_shows(serving: Callable[..., Server]) -> None:
    server = serving(limits=Limits(seconds=3))
    answer = server("PUT", "/enhance/a.wav", wav(10, rate=8000))
    assert answer.status == 413 and answer.json["error"] == "a.wav: longer than 0.05 minutes."
    assert server.is_empty()
    assert server("PUT", "/enhance/a.wav?audio_stream=all", wav(10, rate=8000)).status == 413
    several = server("PUT", "/enhance/a.wav?steps=5", wav(1))
    assert several.status == 413 and several.json["error"] == "a.wav: longer than 0.01 minutes for 5 steps."


def test_only_so_many_recordings_are_held(serving: Callable[..., Server]) -> None:
    server = serving(limits=Limits(jobs=2))
    jobs = [server("POST", "/jobs?name=a.wav", wav(0.1)).json for _ in range(2)]
    refused = server("POST", "/jobs?name=a.wav", wav(0.1))
    assert refused.status == 503 and refused.json["hint"] == "Try again later."
    server.ended(jobs[0]["id"])
    server("DELETE", f"/jobs/{jobs[0]['id']}")
    assert server("PUT", "/enhance/a.wav", wav(0.1)).status == 200


def test_a_client_that_leaves_stops_the_work(serving: Callable[..., Server]) -> None:
    server = serving()
    long = wav(600, rate=8000)
    upload(server.port, f"Content-Length: {len(long)}", long)
    start = time.monotonic()
    assert server("PUT", "/enhance/a.wav", wav(0.1)).status == 200
    assert time.monotonic() - start < 10 and server.is_empty()


@pytest.mark.parametrize("model", ["small", "sbm-tiny"])  # by PyTorch, and compiled
def test_a_job_of_many_steps_stops_between_two_of_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    calls: list[None] = []
    enhancer = server.enhancer if model == "small" else Enhancer.load(model, "cpu")
    jobs = Jobs(enhancer, tmp_path, Limits())
    job = jobs.new("a.wav", False)
    job.before.write_bytes(wav(1))

    def leave(*_: object) -> None:
        calls.append(None)
        if len(calls) == 3:
            jobs.remove(job)

    def call(network: _Network, *arguments: Any) -> Any:
        leave()
        return plain(network, *arguments)

    plain = _Network.__call__
    monkeypatch.setattr(_Network, "__call__", call)
    with enhancer.model.network.register_forward_pre_hook(leave):
        jobs.start(job, Options(steps=1000), ".wav", "")
        jobs._worker.shutdown()
    assert len(calls) == 3 and not list(tmp_path.iterdir())
    assert enhancer.enhance(np.zeros(800, np.float32), 16000).shape == (800,)  # for whoever comes next


def test_recordings_that_nobody_asks_for_expire(server: Server, tmp_path: Path) -> None:
    jobs = Jobs(server.enhancer, tmp_path, Limits(keep=0))
    old, arriving = jobs.new("old.wav", True), jobs.new("arriving.wav", True)
    old.before.write_bytes(wav(0.1))
    jobs.start(old, Options(), ".wav", "")
    assert old.ended is not None
    old.ended.result()
    jobs.expire()
    assert list(tmp_path.iterdir()) == [arriving.folder]
    jobs.close()
    assert not list(tmp_path.iterdir())
