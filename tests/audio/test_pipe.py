"""Pipes: what goes through one is what a file would have held, and nothing seeks, waits or grows that need not."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.audio.format import AudioFormat, Waveform, format_for
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.pipe import Pipe
from sbm_cli.audio.writer import open_writer
from sbm_cli.errors import AudioError

SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]


class Stream(io.RawIOBase):
    """Bytes that come in small pieces, once, and tell how many were taken."""

    def __init__(self, content: bytes, piece: int = 1000) -> None:
        self._file, self._piece = io.BytesIO(content), piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._piece))
        buffer[: len(data)] = data
        return len(data)

    @property
    def taken(self) -> int:
        return self._file.tell()


class Sink(io.BytesIO):
    """Bytes that go out in order, and in small pieces."""

    def write(self, data: Any) -> int:
        return super().write(data[:1000])

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("a pipe cannot seek")


def noise(samples: int, channels: int = 1) -> Waveform:
    return np.random.default_rng(samples).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def sound(waveform: Waveform, container: str = "WAV", subtype: str = "PCM_16", rate: int = 16000) -> bytes:
    file = io.BytesIO()
    sf.write(file, waveform.T, rate, subtype, format=container)
    return file.getvalue()


def read(source: Pipe, size: int = 700) -> Waveform:
    with SoundReader(source) as reader:
        empty = np.zeros((reader.format.channels, 0), np.float32)
        return np.concatenate([empty, *reader.blocks(size)], axis=1)


def through(content: bytes, piece: int = 1000, raw: AudioFormat | None = None) -> Pipe:
    return Pipe(Stream(content, piece), raw=raw)  # type: ignore[arg-type]


@given(
    samples=st.integers(0, 3000),
    channels=st.integers(1, 3),
    subtype=st.sampled_from(SUBTYPES),
    container=st.sampled_from(["WAV", "WAVEX"]),
    size=st.integers(1, 3001),
    piece=st.integers(1, 2000),
)
def test_a_wav_through_a_pipe_is_the_wav(
    samples: int, channels: int, subtype: str, container: str, size: int, piece: int
) -> None:
    content = sound(noise(samples, channels), container, subtype)
    expected, _ = sf.read(io.BytesIO(content), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(read(through(content, piece), size).T, expected)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("WAV", "IMA_ADPCM")],
)
def test_what_has_to_be_sought_in_is_read_all_the_same(container: str, subtype: str) -> None:
    content = sound(noise(5000), container, subtype)
    expected, _ = sf.read(io.BytesIO(content), dtype="float32", always_2d=True)
    with through(content).rewindable() as source:
        for _ in range(2):
            np.testing.assert_allclose(read(source).T, expected, atol=1e-4)  # another decoder rounds differently
    np.testing.assert_allclose(read(through(content)).T, expected, atol=1e-4)


def test_a_wav_is_not_waited_for() -> None:
    """One block is read before the next one has come, and what stands behind the samples is taken, not heard."""
    content = sound(noise(100_000)) + b"LIST" + struct.pack("<I", 4) + b"text"
    stream = Stream(content)
    with SoundReader(Pipe(stream)) as reader:  # type: ignore[arg-type]
        assert stream.taken == 44 and reader.format.samples == 100_000
        next(reader.blocks(1000))
        assert stream.taken == 44 + 2000
        assert sum(block.shape[1] for block in reader.blocks(1000)) == 99_000
        assert stream.taken == len(content)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_of_unknown_length_ends_where_the_pipe_ends(size: int) -> None:
    content = bytearray(sound(noise(1000, 2)))
    content[40:44] = struct.pack("<I", size)
    content[36:36] = b"LIST" + struct.pack("<I", 5) + b"INFO-\0"  # as ffmpeg has it, here of an odd size
    source = through(bytes(content))
    with SoundReader(source) as reader:
        assert reader.format.samples is None
        found = np.concatenate(list(reader.blocks(300)), axis=1)
    np.testing.assert_allclose(found, noise(1000, 2), atol=2**-15)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:1000], r"-: truncated or damaged: readable for 0\.030 of 0\.500 s"),
        (
            lambda content: content[:40] + b"\0\0\0\0" + content[44:],
            "(?s)its header says 0 samples, but more follows.*ffmpeg -ignore_length 1 -i - salvaged.wav",
        ),
        (lambda content: b"", r"-: not a sound file .*\(it is empty, 0 bytes\)"),
        (lambda content: b"RIFF" + content[4:20], "-: not a sound file"),
        (lambda content: b"dear diary, today I recorded nothing", "(?s)-: not a sound file.*Of bare samples"),
    ],
    ids=["truncated", "unfinished", "empty", "cut", "text"],
)
def test_bad_input_is_refused_as_in_files(spoil: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        read(through(spoil(sound(noise(8000)))))


@pytest.mark.parametrize("subtype", [*SUBTYPES, "PCM_S8"])
@pytest.mark.parametrize("seekable", [True, False])
def test_raw_samples_are_what_they_are_said_to_be(subtype: str, seekable: bool) -> None:
    form = AudioFormat(8000, 2, None, "RAW", subtype)
    content = sound(noise(999, 2), "RAW", subtype) + b"\0"  # the last sample is cut
    source = Pipe(io.BytesIO(content), raw=form) if seekable else through(content, 7, form)
    bare: Any = {"samplerate": 8000, "channels": 2, "subtype": subtype, "format": "RAW"}
    expected, _ = sf.read(io.BytesIO(content), dtype="float32", **bare)
    np.testing.assert_array_equal(read(source).T, expected[:999])


@given(
    samples=st.integers(0, 2000),
    channels=st.integers(1, 3),
    subtype=st.sampled_from([*SUBTYPES, "PCM_S8"]),
    suffix=st.sampled_from([".wav", ".raw"]),
    known=st.booleans(),
)
def test_what_is_piped_out_is_what_a_file_holds(
    samples: int, channels: int, subtype: str, suffix: str, known: bool, tmp_path_factory: Any
) -> None:
    waveform = noise(samples, channels) * np.float32(1.2)
    given = AudioFormat(16000, channels, samples if known else None, "RAW", subtype)
    form = format_for(f"-{suffix}", given)
    sink = Sink()
    with open_writer(Pipe(sink, suffix), form) as writer:
        for start in range(0, samples, 700):
            writer.write(waveform[:, start : start + 700])
    path = tmp_path_factory.mktemp("file") / f"a{suffix}"
    with open_writer(path, replace(form, samples=samples)) as file:
        file.write(waveform)
    if suffix == ".raw":
        assert sink.getvalue() == path.read_bytes()
        return
    found, expected = (read(Pipe(io.BytesIO(content))) for content in (sink.getvalue(), path.read_bytes()))
    np.testing.assert_array_equal(found, expected)
    riff, size = (struct.unpack_from("<I", sink.getvalue(), place)[0] for place in (4, 40))
    assert riff == (len(sink.getvalue()) - 8 if known else 0xFFFFFFFF)
    assert known or size == 0xFFFFFFFF


def test_formats_that_are_finished_last_go_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    sink, form = Sink(), format_for("-.flac", AudioFormat(16000, 1, None, "WAV", "PCM_16"))
    with open_writer(Pipe(sink, ".flac"), form) as writer:
        writer.write(noise(1000))
        assert list(tmp_path.iterdir()) and not sink.getvalue()
    info = sf.info(io.BytesIO(sink.getvalue()))
    assert (info.format, info.frames) == ("FLAC", 1000)
    with pytest.raises(KeyboardInterrupt), open_writer(Pipe(sink, ".flac"), form) as writer:
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
