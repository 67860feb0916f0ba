"""A target is complete or absent, keeps its mode and owner, and is replaced only when told so."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbm_cli.audio.format import AudioFormat, format_for
from sbm_cli.audio.io import SoundReader, read_format
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.errors import AudioError, OutputExistsError
from tests.audio.test_io import WAV, names, read, speechlike, write
from tests.conftest import PATIENCE


def test_nothing_has_the_targets_name_before_the_end(tmp_path: Path) -> None:
    with SoundWriter(tmp_path / "a.wav", WAV) as writer:
        writer.write(speechlike(16000, 5000, 1))
        (part,) = names(tmp_path)
        assert part.startswith(".")
        assert not part.endswith(".wav")
    assert names(tmp_path) == ["a.wav"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".opus", ".m4a", ".mkv"])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException], suffix: str) -> None:
    form = format_for(f"a{suffix}", WAV)
    with pytest.raises(error), SoundWriter(tmp_path / f"a{suffix}", form) as writer:
        writer.write(speechlike(16000, 5000, 1))
        raise error
    assert names(tmp_path) == []


def test_an_exception_leaves_the_file_that_was_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"old")
    with pytest.raises(RuntimeError), SoundWriter(tmp_path / "a.wav", WAV, overwrite=True) as writer:
        writer.write(speechlike(16000, 5000, 1))
        raise RuntimeError
    assert names(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"old"


WRITE_AND_WAIT = """
import signal, sys, numpy as np
from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.writer import SoundWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
with SoundWriter(sys.argv[1], AudioFormat(16000, 1, 0, "WAV", "PCM_16")) as writer:
    for _ in range(100):
        writer.write(np.zeros((1, 16000), np.float32))
    print("waiting", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_no_output(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(tmp_path / "a.wav")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) != 0
    if number == signal.SIGINT:
        assert names(tmp_path) == []
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("room", [0, 50_000])
@pytest.mark.parametrize("suffix", [".wav", ".m4a", ".tta"])
def test_a_full_disc_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str, room: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(AudioError, match=rf"a\{suffix}: writing failed at .* s \(file too large\)") as caught:
            write(tmp_path / f"a{suffix}", speechlike(16000, 100_000, 1), format_for(f"a{suffix}", WAV))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.hint == "Is the disk full?"
    assert names(tmp_path) == []


def test_existing_output_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"a\.wav exists") as caught, SoundWriter(path, WAV):
        pytest.fail("the writer must refuse before any work is done")
    assert "overwrite" in caught.value.hint
    assert path.read_bytes() == b"old"
    with SoundWriter(path, WAV, overwrite=True) as writer:
        writer.write(np.zeros((1, 10), np.float32))
    assert read_format(path).samples == 10
    assert names(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("links", [True, False])
def test_output_that_appears_meanwhile_is_kept(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.wav"
    with pytest.raises(OutputExistsError), SoundWriter(path, WAV) as writer:
        writer.write(np.zeros((1, 10), np.float32))
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's"
    write(tmp_path / "b.wav", np.zeros((1, 10), np.float32), WAV)
    assert names(tmp_path) == ["a.wav", "b.wav"]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "a.wav").symlink_to("real.wav")
    with SoundWriter(tmp_path / "a.wav", WAV, overwrite=True) as writer:
        writer.write(np.zeros((1, 10), np.float32))
    assert (tmp_path / "a.wav").is_symlink()
    assert read_format(tmp_path / "real.wav").samples == 10


def test_a_target_that_is_replaced_leaves_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for mode in (0o600, 0o640, 0o664):
        path.touch()
        path.chmod(mode)
        with SoundWriter(path, WAV, overwrite=True) as writer:
            (part,) = tmp_path.glob(".sbm-*")
            assert part.stat().st_mode & 0o077 == 0  # nobody else reads it meanwhile
            writer.write(np.zeros((1, 10), np.float32))
        assert path.stat().st_mode & 0o7777 == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_target_that_is_replaced_leaves_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    os.chown(path, 1234, 5678)
    with SoundWriter(path, WAV, overwrite=True):
        pass
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


def test_a_private_source_makes_a_private_target(tmp_path: Path) -> None:
    source, path = tmp_path / "in.wav", tmp_path / "a.wav"
    source.touch()
    before = os.umask(0o022)
    try:
        for mode, made in ((0o600, 0o600), (0o400, 0o600), (0o640, 0o640), (0o444, 0o644), (0o644, 0o644)):
            source.chmod(mode)
            with SoundWriter(path, WAV, source=source):
                pass
            assert path.stat().st_mode & 0o777 == made
            path.unlink()
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_group_that_may_read_the_source_is_not_another_one(tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    source.touch()
    source.chmod(0o640)
    os.chown(source, -1, 5678)
    for name, mode in (("a", 0o600), ("b", 0o640)):
        (tmp_path / name).mkdir()
        if name == "b":  # files in it are of its group
            os.chown(tmp_path / name, -1, 5678)
            (tmp_path / name).chmod(0o2777)
        with SoundWriter(tmp_path / name / "a.wav", WAV, source=source):
            pass
        assert (tmp_path / name / "a.wav").stat().st_mode & 0o777 == mode


def test_reading_and_replacing_the_same_file(tmp_path: Path) -> None:
    path, waveform = tmp_path / "a.wav", speechlike(16000, 3000, 1)
    write(path, waveform, replace(WAV, subtype="FLOAT"))
    with SoundReader(path) as reader, SoundWriter(path, reader.format, overwrite=True) as writer:
        for block in reader.blocks(1000):
            writer.write(-block)
    assert np.array_equal(read(path), -waveform)


def test_targets_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="cannot be written") as caught, SoundWriter(tmp_path / "no" / "a.wav", WAV):
        pass
    assert caught.value.hint == f"Make the folder {tmp_path / 'no'} first."
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(AudioError, match="not a regular file"), SoundWriter(path, WAV, overwrite=True):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(AudioError, match="not a directory"), SoundWriter(tmp_path / "file" / "a.wav", WAV):
        pass

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(AudioError, match="permission denied"), SoundWriter(tmp_path / "a.wav", WAV):
        pass
    assert names(tmp_path) == ["file"]


def test_format_that_libsndfile_refuses_leaves_nothing(tmp_path: Path) -> None:
    form = replace(WAV, container="OGG", subtype="OPUS", rate=44100)
    with pytest.raises(AudioError, match="OGG OPUS with 1 channels at 44100 Hz cannot be written.*Opus only"):
        write(tmp_path / "a.opus", np.zeros((1, 10), np.float32), form)
    assert names(tmp_path) == []


def test_writer_refuses_what_is_no_waveform(tmp_path: Path) -> None:
    with SoundWriter(tmp_path / "a.wav", WAV) as writer:
        for wrong in (np.zeros(5, np.float32), np.zeros((2, 5), np.float32)):
            with pytest.raises(ValueError, match=r"\[1, samples\]"):
                writer.write(wrong)
        with pytest.raises(ValueError, match="NaN"):
            writer.write(np.full((1, 5), np.nan, np.float32))


@pytest.mark.parametrize("rate", [11025, 22050, 44100])
def test_a_constant_bit_rate_is_told_as_the_encoder_was(tmp_path: Path, rate: int) -> None:
    form = format_for("a.mp3", AudioFormat(rate, 1, rate, "WAV", "PCM_16"), bit_rate=64_000)
    with SoundWriter(tmp_path / "a.mp3", form) as writer:
        writer.write(np.random.default_rng(0).uniform(-0.1, 0.1, (1, rate)).astype(np.float32))
    assert writer.bit_rate == read_format(tmp_path / "a.mp3").bit_rate == 64_000
