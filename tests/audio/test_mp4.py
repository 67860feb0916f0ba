"""A long MP4 is read without FFmpeg's index of all of it, and comes out the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sbm_cli.audio import mp4
from sbm_cli.audio.format import AudioFormat, Waveform
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.segments import Window
from sbm_cli.errors import AudioError
from tests.audio.conftest import encode, speech

SHOWN = 7  # packets


def is_shortened(path: Path) -> bool:
    with path.open("rb") as file:
        return isinstance(mp4.shortened(Window(file)), mp4.LongSound)


def read(path: Path) -> tuple[AudioFormat, Waveform, list[str]]:
    with SoundReader(path) as reader:
        waveform = np.concatenate(list(reader.blocks(5000)), axis=1)
        return dataclasses.replace(reader.format, origin=None), waveform, reader.notes


def assert_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that what is read is the same whether FFmpeg has all or the beginning."""
    form, waveform, notes = read(path)
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert is_shortened(path)
    found, shortened, told = read(path)
    assert (found, told) == (form, notes)
    np.testing.assert_array_equal(shortened, waveform)


@pytest.mark.parametrize("codec", ["aac", "alac", "libmp3lame", "ac3", "libopus"])
@pytest.mark.parametrize("made", [{}, {"start": 0.7}, {"gap": 0.5}], ids=["", "late", "gap"])
def test_what_ffmpeg_is_not_shown_comes_out_the_same(
    tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, codec: str, made: dict[str, Any]
) -> None:
    video("a.mp4", "mp4", codec, **made)
    assert_same(tmp_path / "a.mp4", monkeypatch)


def test_packets_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of their sizes is empty."""
    path = tmp_path / "a.m4a"
    with av.open(path, "w", format="mp4") as file:
        stream: Any = file.add_stream("aac", rate=48000, layout="mono", bit_rate=256_000)
        data = bytes(encode(stream, speech(8192, 48000, 1), 48000)[5])
        for number in range(3 * 2**20 // len(data)):  # FFmpeg puts a MiB into a chunk
            packet = av.Packet(data)
            packet.pts = packet.dts = 1024 * number
            packet.duration, packet.time_base, packet.stream = 1024, Fraction(1, 48000), stream
            file.mux(packet)
    assert_same(path, monkeypatch)


def test_places_of_64_bits(tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in files of more than 4 GiB."""
    video("a.mp4", "mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    movie = widened(data[data.index(b"moov") - 4 :])
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"moov") - 4] + movie)
    assert_same(tmp_path / "a.mp4", monkeypatch)


def widened(boxes: bytes) -> bytes:
    """Return boxes in which places of chunks take 64 bits."""
    found = b""
    while boxes:
        size, name = int.from_bytes(boxes[:4], "big"), boxes[4:8]
        content, boxes = boxes[8:size], boxes[size:]
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            content = widened(content)
        elif name == b"stco":
            places = np.frombuffer(content[8:], ">u4").astype(">u8")
            name, content = b"co64", content[:8] + places.tobytes()
        found += (len(content) + 8).to_bytes(4, "big") + name + content
    return found


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_what_is_cut_is_missed_all_the_same(
    tmp_path: Path, record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    record("a.m4a", "mp4", "alac", 48000, 2, 20 * 48000, sample_format="s16p", options={"movflags": "faststart"})
    data = (tmp_path / "a.m4a").read_bytes()
    path = tmp_path / "cut.m4a"
    path.write_bytes(data[: round(len(data) * share)])
    if share > 0.99:  # within the last packet
        assert_same(path, monkeypatch)
        return
    with pytest.raises(AudioError, match="truncated") as all_shown:
        read(path)
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert is_shortened(path)
    with pytest.raises(AudioError, match="truncated") as shortened:
        read(path)
    assert str(shortened.value) == str(all_shown.value)


@pytest.mark.parametrize(
    ("name", "made"),
    [("fragments.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}), ("samples.mov", {"codec": "pcm_s16le"})],
)
def test_what_has_no_such_tables_is_left_to_ffmpeg(
    tmp_path: Path, record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, made: dict[str, Any]
) -> None:
    record(name, Path(name).suffix[1:], **{"codec": "aac", "samples": 160_000, **made})
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert not is_shortened(tmp_path / name)
    assert read(tmp_path / name)[1].shape[1] >= 160_000


def test_several_pieces_are_left_to_ffmpeg(
    tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    video("a.mp4", "mp4", start=0.7)
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert is_shortened(tmp_path / "a.mp4")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    edits = data.rindex(b"elst", 0, data.index(b"soun"))
    assert data[edits + 16 : edits + 20] == b"\xff" * 4  # a pause of 0.7 s before the sound
    data[edits + 16 : edits + 20] = bytes(4)  # becomes the first 0.7 s of it
    (tmp_path / "a.mp4").write_bytes(data)
    assert not is_shortened(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("box", "place", "value"),
    [
        ("stsz", 28, 0),  # an empty packet
        ("stsz", 28, 2**31),
        ("stsz", 8, 1),  # all packets are of one byte, and as many as can be
        ("stts", 16, 2**32 - 1024),  # back in time
        ("stsc", 12, 2),  # a first chunk that is not the first
        ("stsc", 16, 0),  # an empty chunk
        ("mdhd", 16, 0),  # no clock
    ],
)
def test_odd_tables_are_left_to_ffmpeg(
    tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, box: str, place: int, value: int
) -> None:
    video("a.mp4", "mp4")
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert is_shortened(tmp_path / "a.mp4")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    sound = data.index(b"soun")  # in its header's box, which lies behind the clock and before the tables
    place += data.rindex(b"mdhd", 0, sound) if box == "mdhd" else data.index(box.encode(), sound)
    data[place : place + 4] = value.to_bytes(4, "big")
    if (box, value) == ("stsz", 1):
        data[place + 4 : place + 8] = b"\xff" * 4
    (tmp_path / "a.mp4").write_bytes(data)
    assert not is_shortened(tmp_path / "a.mp4")


def test_two_streams_are_left_to_ffmpeg(
    tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    video("a.mp4", "mp4", streams=2)
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    assert not is_shortened(tmp_path / "a.mp4")


def test_the_index_of_ffmpeg_stays_small(
    tmp_path: Path, video: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    video("a.mp4", "mp4")
    monkeypatch.setattr(mp4, "_SHOWN", SHOWN)
    with (tmp_path / "a.mp4").open("rb") as file, av.open(mp4.shortened(Window(file))) as opened:
        assert SHOWN <= len(opened.streams.audio[0].index_entries) < 2 * SHOWN
