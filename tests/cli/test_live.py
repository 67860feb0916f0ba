"""`sbm live`: through pipes as sound comes, with devices that need no hardware, and to a clean end."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from sbm_cli.audio.samples import Samples
from sbm_cli.cli import live
from sbm_cli.enhancer import Enhancer
from sbm_cli.live.devices import Microphone
from sbm_cli.options import Options
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import FakeSounddevice

HOP = 512  # bytes


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start it with pipes; one that hangs is killed, and the test fails."""
    with subprocess.Popen(
        [sys.executable, "-m", "sbm_cli", "live", "--raw", "16000", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        timer = threading.Timer(120, process.kill)
        timer.start()
        yield process
        timer.cancel()


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).integers(-3000, 3000, samples).astype("<i2")


def test_through_pipes_each_hop_comes_out_at_once(model_file: Path) -> None:
    given = noise(20 * 256 + 100)
    with started("-o", "-", "--model", model_file) as process:
        assert process.stdin and process.stdout
        taken = b""
        for k in range(20):
            process.stdin.write(given[256 * k : 256 * (k + 1)].tobytes())
            process.stdin.flush()
            if k:
                taken += process.stdout.read(HOP)  # would wait for ever if another hop were needed
        process.stdin.write(given[20 * 256 :].tobytes())
        process.stdin.close()
        taken += process.stdout.read()
    assert process.returncode == 0
    expected = Enhancer.load(model_file).enhance(given, 16000, Options(warm_up=False))
    assert len(taken) == 2 * len(given)
    assert np.abs(np.frombuffer(taken, "<i2") / 2**15 - expected).max() <= 1.5 / 2**15


def test_an_interrupt_ends_it_and_the_recording_is_whole(model_file: Path, tmp_path: Path) -> None:
    both, given = tmp_path / "both.wav", noise(40 * 256)
    with started("-o", "-", "--record", both, "--model", model_file) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(given.tobytes())
        process.stdin.flush()
        taken = process.stdout.read(39 * HOP)
        process.send_signal(signal.SIGINT)  # stdin stays open
        taken += process.stdout.read()
        told = process.stderr.read().decode().splitlines()
        assert process.wait() == 0
    assert told[-1] == f"0.6 s of sound, recorded in {both}"
    assert told[:-1] in ([], ["latency 32 ms: input 0, model 32, output 0"])  # which takes a tick to be told
    recorded, rate = soundfile.read(both, dtype="int16")
    assert rate == 16000 and recorded.shape == (len(given), 2)
    assert np.array_equal(recorded[:, 0], given)
    assert np.array_equal(recorded[:, 1], np.frombuffer(taken, "<i2"))


def test_what_is_no_number_is_silence_and_no_sample_is_told(model_file: Path, tmp_path: Path) -> None:
    samples = np.full(2000, 0.1, "<f4")
    samples[700] = np.nan
    cut = b"\0\0\0"
    command = [sys.executable, "-m", "sbm_cli", "live", "--raw", "16000:1:FLOAT", "--model", str(model_file)]
    command += ["-o", str(tmp_path / "clean.wav"), "--record", str(tmp_path / "both.wav")]
    result = subprocess.run(command, input=samples.tobytes() + cut, capture_output=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stderr
    assert b"warning: left out 3 of 4 bytes at the end: not a whole sample\n" in result.stderr
    assert len(soundfile.read(tmp_path / "clean.wav")[0]) == len(soundfile.read(tmp_path / "both.wav")[0]) == 2000


def test_one_file_cannot_be_output_and_recording(model_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sbm_cli", "live", "--raw", "16000", "--model", str(model_file), "-o", "a.wav"]
    result = subprocess.run(
        [*command, "--record", "./a.wav"], input=b"", capture_output=True, timeout=PATIENCE, cwd=tmp_path, check=False
    )
    assert result.returncode == 2 and b"is also the output" in result.stderr and not list(tmp_path.iterdir())


def test_a_reader_that_leaves_ends_it(model_file: Path) -> None:
    with started("-o", "-", "--model", model_file) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        with pytest.raises(BrokenPipeError):
            while True:
                process.stdin.write(noise(256).tobytes())
                process.stdin.flush()
        told = process.stderr.read().decode()
        with pytest.raises(BrokenPipeError):
            process.stdin.close()
    assert process.returncode == 141 and "Traceback" not in told and "Error" not in told


@contextmanager
def driven(devices: FakeSounddevice) -> Iterator[None]:
    """Let time pass for the devices, ten milliseconds at a time and somewhat faster than it does."""
    over = threading.Event()
    status = type("Status", (), {"input_overflow": False, "output_underflow": False})
    tone = 0.1 * np.sin(2 * np.pi / 16 * np.arange(160, dtype=np.float32))

    def drive() -> None:
        while not over.wait(0.005):
            for kind, stream in list(devices.streams.items()):
                data = np.repeat(tone[:, None], stream.channels, axis=1)
                if stream.active:
                    stream.callback(data, len(data), None, status)
                    heard[kind] = max(heard.get(kind, 0), float(np.abs(data).max()))

    heard: dict[str, float] = {}
    clock = threading.Thread(target=drive)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()
    assert heard.get("output", 0.1) == pytest.approx(0.1, abs=0.02)


def test_from_device_to_device(sbm: Run, sounddevice: FakeSounddevice, model_file: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.flac"
    with driven(sounddevice):
        result = sbm("live", "--seconds", "0.5", "--record", both, "--model", model_file)
    assert result.status == 0 and result.out == ""
    assert "latency" in result.err and "0.5 s of sound" in result.err
    assert soundfile.info(both).frames == 8000 and soundfile.info(both).channels == 2
    assert not any(stream.active for stream in sounddevice.streams.values())


def test_from_device_to_file(sbm: Run, sounddevice: FakeSounddevice, model_file: Path, tmp_path: Path) -> None:
    command = ("live", "-i", "Head", "-o", tmp_path / "clean.wav", "--seconds", "0.3", "--model", model_file, "-q")
    with driven(sounddevice):
        result = sbm(*command)
        again = sbm(*command)
    assert result.status == 0 and result.err == ""
    assert soundfile.info(tmp_path / "clean.wav").frames == 4800
    assert again.status == 1 and "exists" in again.err


def test_what_was_heard_before_an_error_is_kept(
    sbm: Run, sounddevice: FakeSounddevice, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = Microphone.blocks

    def unplugged(microphone: Microphone) -> Iterator[Samples | None]:
        for count, block in enumerate(listen(microphone)):
            if count == 30:
                raise OSError(5, "Input/output error")
            yield block

    monkeypatch.setattr(Microphone, "blocks", unplugged)
    clean, both = tmp_path / "clean.wav", tmp_path / "both.wav"
    with driven(sounddevice):
        result = sbm("live", "-o", clean, "--record", both, "--model", model_file)
    assert result.status == 1 and result.err.endswith("sbm: input/output error\n")
    assert f"s of sound, recorded in {both}" in result.err
    assert soundfile.info(clean).frames == soundfile.info(both).frames > 0


def test_from_pipe_to_device_nothing_is_dropped(
    sbm: Run, sounddevice: FakeSounddevice, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file comes through a pipe faster than it is played."""
    recording, both = tmp_path / "recording.raw", tmp_path / "both.wav"
    recording.write_bytes((3277 * np.sin(2 * np.pi / 16 * np.arange(16000))).astype("<i2").tobytes())
    with recording.open() as stdin, driven(sounddevice):
        monkeypatch.setattr(sys, "stdin", stdin)
        result = sbm("live", "--raw", "16000", "--record", both, "--model", model_file)
    assert result.status == 0 and "overruns" not in result.err
    assert soundfile.info(both).frames == 16000


def test_devices_are_listed(sbm: Run, sounddevice: FakeSounddevice) -> None:
    result = sbm("live", "--list-devices")
    assert result.status == 0
    assert result.out.splitlines() == [
        "  0  Headset  [ALSA: 1 in, 0 out, 48000 Hz]  (default input)",
        "  1  Speakers  [ALSA: 0 in, 2 out, 48000 Hz]  (default output)",
    ]


def test_a_machine_without_devices_says_so(
    sbm: Run, sounddevice: FakeSounddevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounddevice, "query_devices", lambda: [])
    result = sbm("live", "--list-devices")
    assert (result.status, result.out) == (0, "") and "no sound devices" in result.err


def test_what_is_missing_or_contradicts_itself_is_told_at_once(
    sbm: Run, sounddevice: FakeSounddevice, monkeypatch: pytest.MonkeyPatch, model_file: Path
) -> None:
    both = sbm("live", "--raw", "16000", "-i", "Headset")
    assert both.status == 2 and "--input, --raw" in both.err
    unknown = sbm("live", "-i", "Tuba", "--model", model_file)
    assert unknown.status == 1 and "Tuba" in unknown.err and "--list-devices" in unknown.err
    room = sbm("live", "--keep-room", "--model", model_file)
    assert room.status == 1 and "not trained to keep the room" in room.err
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    absent = sbm("live")
    assert absent.status == 1 and "sbm-cli[live]" in absent.err and "-o -" not in absent.err
    assert sbm("live", "--raw", "16000").err.endswith("send the sound on: -o - or -o clean.wav\n")


class Levels:
    """A session that shows what the meter and the keys do."""

    bypassed = False
    seconds = 1.5
    glitches: dict[str, int] = {}

    def peaks(self) -> tuple[float, float]:
        return 1.0, 0.001


def test_the_meter_shows_both_levels_and_the_bypass() -> None:
    session = Levels()
    assert live._meter(session) == f"in {'#' * 20}   0 dB  out {'-' * 20} -60 dB  2 s"  # type: ignore[arg-type]
    session.bypassed = True
    assert live._meter(session).endswith("bypassed")  # type: ignore[arg-type]


def test_keys_and_levels_on_a_terminal(model_file: Path) -> None:
    """stdin is the terminal here, so a device is wanted: a stand-in for sounddevice is put before the program."""
    leader, follower = pty.openpty()
    script = f"""
import fcntl, sys, termios, threading, time
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import numpy as np
from conftest import FakeSounddevice
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
fake = sys.modules["sounddevice"] = FakeSounddevice()
status = type("Status", (), {{"input_overflow": False, "output_underflow": False}})
def drive():
    while True:
        time.sleep(0.01)
        for stream in list(fake.streams.values()):
            if stream.active:
                stream.callback(np.full((160, stream.channels), 0.1, np.float32), 160, None, status)
threading.Thread(target=drive, daemon=True).start()
from sbm_cli.cli.app import main
main(["live", "--model", {str(model_file)!r}])
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm"}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    ) as process:
        os.close(follower)
        shown = _read_until(leader, b"dB")
        os.write(leader, b" ")
        shown += _read_until(leader, b"bypassed")
        os.write(leader, b"\x03")
        shown += _read_until(leader, b"s of sound")
        assert process.wait(PATIENCE) == 0
    os.close(leader)
    assert b"latency" in shown and b"in #" in shown


def _read_until(terminal: int, wanted: bytes) -> bytes:
    read, deadline = b"", time.monotonic() + PATIENCE
    while wanted not in read:
        assert time.monotonic() < deadline, read
        read += os.read(terminal, 1000)
    return read
