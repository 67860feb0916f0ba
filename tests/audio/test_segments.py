"""Streams that were joined, tags and rubbish around them, what was cut off: all of the sound, and nothing else."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.mpeg import aac_segments, mpeg_segments
from sbm_cli.audio.pipe import Pipe
from sbm_cli.audio.segments import Window, caf_segments, ogg_segments
from sbm_cli.audio.truncation import _ENDS, cut_short
from sbm_cli.errors import AudioError
from tests.audio.conftest import encode, speech
from tests.audio.test_formats import lag, read, rewrite

ID3 = b"ID3\3\0\0" + bytes([0, 0, 4, 0]) + bytes(512)
ID3V1 = b"TAG" + b"Lied".ljust(125, b"\0")
ITEM = struct.pack("<II", 10, 0) + b"Title\0some title"
APE = ITEM + b"APETAGEX" + struct.pack("<IIII", 2000, len(ITEM) + 32, 1, 0) + bytes(8)  # the items, and their footer
RATE = 16000
ALAC = b"caff\0\1\0\0desc" + (32).to_bytes(8, "big") + bytes(8) + b"alac" + bytes(20)  # the beginning of a CAF
MPEG = [b"\xff\xfb\x90\x00", b"\xff\xf1\x50\x80\x01"]  # beginnings of frames of MP3 and AAC
CODECS = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")]


def sound(samples: int, container: str, subtype: str, rate: int = RATE, channels: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    sf.write(file, speech(samples, rate, channels).T, rate, subtype, format=container, **options)
    return file.getvalue()


def without_info(data: bytes) -> bytes:
    """Drop the first frame of an MP3, which holds nothing but the count of the others."""
    return data[data.index(b"\xff" + data[1:2], 30) :]


@pytest.mark.parametrize(("container", "subtype"), CODECS)
@pytest.mark.parametrize("through_pipe", [False, True])
def test_joined_streams_come_out_whole(tmp_path: Path, container: str, subtype: str, through_pipe: bool) -> None:
    lengths = (RATE, 700, 2 * RATE + 11)
    path = tmp_path / "a"
    path.write_bytes(b"".join(sound(length, container, subtype) for length in lengths))
    expected = np.concatenate([speech(length, RATE, 1) for length in lengths], axis=1)
    if through_pipe:
        with path.open("rb") as file, SoundReader(Pipe(file)) as reader:
            found = np.concatenate(list(reader.blocks(999)), axis=1)
    else:
        _, found, notes = read(path, 999)
        assert notes == []
    assert found.shape == expected.shape
    assert [lag(found[0, start:], expected[0, start:]) for start in (0, RATE + 700)] == [0, 0]


def test_a_flac_behind_an_id3_tag_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(ID3 + sound(RATE, "FLAC", "PCM_16"))
    assert read(path)[1].shape == (1, RATE)


def test_links_of_other_rates_and_channels_become_as_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    path.write_bytes(sound(RATE, "OGG", "VORBIS") + sound(2 * 44100, "OGG", "VORBIS", 44100, 2))
    form, found, _ = read(path)
    assert (form.rate, form.channels) == (RATE, 1)
    assert found.shape == (1, 3 * RATE)


def test_flac_that_goes_on_as_another_is_refused_where_it_does(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(sound(RATE, "FLAC", "PCM_16") + sound(RATE, "FLAC", "PCM_16", 8000))
    with pytest.raises(AudioError, match="after 1.000 s a FLAC of 8000 Hz"):
        read(path)


@pytest.mark.parametrize("samples", [1, 100, 444, 700, 5000, RATE, 20_001, 32_000])
def test_vorbis_of_one_page_has_all_its_samples(tmp_path: Path, samples: int) -> None:
    (tmp_path / "a.ogg").write_bytes(sound(samples, "OGG", "VORBIS"))
    _, found, _ = read(tmp_path / "a.ogg")
    assert found.shape[1] == samples
    assert samples < 5000 or lag(found[0], speech(samples, RATE, 1)[0]) == 0


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("before", [b"", ID3, ID3 + ID3], ids=["", "ID3", "two ID3"])
@pytest.mark.parametrize("after", [b"", ID3V1, APE + ID3V1, bytes(4000)], ids=["", "ID3v1", "APE", "zeros"])
@pytest.mark.parametrize("info", [True, False], ids=["Xing", "no Xing"])
def test_mp3_of_any_kind_is_neither_shorter_nor_damaged(
    tmp_path: Path, mode: str, before: bytes, after: bytes, info: bool
) -> None:
    data = sound(2 * RATE, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    (tmp_path / "a.mp3").write_bytes(before + (data if info else without_info(data)) + after)
    _, found, notes = read(tmp_path / "a.mp3")
    assert notes == []
    assert found.shape[1] == 2 * RATE if info else 2 * RATE < found.shape[1] < 2 * RATE + 4 * 576
    assert lag(found[0], speech(2 * RATE, RATE, 1)[0]) == (0 if info else 1105)


def test_length_of_a_variable_mp3_is_not_estimated_from_its_beginning(tmp_path: Path) -> None:
    waveform = np.concatenate([speech(RATE, RATE, 1), np.zeros((1, 5 * RATE), np.float32)], axis=1)
    rates = []
    for name, part in (("loud first", waveform), ("quiet first", waveform[:, ::-1])):
        sf.write(tmp_path / "a.mp3", part.T, RATE, bitrate_mode="VARIABLE")
        (tmp_path / "a.mp3").write_bytes(without_info((tmp_path / "a.mp3").read_bytes()))
        form, found, _ = read(tmp_path / "a.mp3")
        assert 0 <= found.shape[1] - 6 * RATE < 4 * 576, name
        assert form.seconds == pytest.approx(6, abs=0.2)
        assert form.variable
        rates.append(form.bit_rate)
    assert max(rates) < 1.1 * min(rates)


@pytest.mark.parametrize(("name", "muxer"), [("a.aac", "adts"), ("a.ts", "mpegts"), ("a.mka", "matroska")])
def test_length_and_bit_rate_of_aac_are_not_those_of_its_first_frames(tmp_path: Path, name: str, muxer: str) -> None:
    """FFmpeg goes by them: of a recording that began in silence it told ten times the length, at 5 kbit/s."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 8 * RATE)).astype(np.float32)
    noise[:, : 2 * RATE] = 0
    with av.open(tmp_path / name, "w", format=muxer) as file:
        stream: Any = file.add_stream("aac", rate=RATE, layout="mono", bit_rate=64_000)
        for packet in encode(stream, noise, RATE):
            file.mux(packet)
    form, found, _ = read(tmp_path / name)
    assert form.seconds == pytest.approx(found.shape[1] / RATE, abs=0.1)
    assert 40_000 < form.bit_rate < 90_000


@pytest.mark.parametrize(("container", "subtype"), CODECS[:3])
def test_rubbish_behind_the_last_stream_is_told(tmp_path: Path, container: str, subtype: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(sound(RATE, container, subtype) + b"rubbish" * 100)
    _, found, notes = read(path)
    assert found.shape[1] == RATE
    assert notes == ["700 bytes are neither sound nor a tag and are left out"]


def test_a_wav_behind_a_wav_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(sound(RATE, "WAV", "PCM_16") + sound(RATE, "WAV", "PCM_16"))
    assert read(path)[2] == [f"{2 * RATE + 44} bytes follow its end and are left out"]


def test_a_cut_mp3_is_truncated_by_as_much(tmp_path: Path) -> None:
    data = sound(3 * RATE, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5)
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"a.mp3: truncated: 1\.4\d\d s are there, the last 1\.[56]\d\d s are"):
        read(tmp_path / "a.mp3")


def test_an_mp3_of_more_frames_than_it_says_is_whole(tmp_path: Path) -> None:
    data = bytearray(sound(RATE, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5))
    place = data.index(b"Info") + 8
    data[place : place + 4] = struct.pack(">I", 5)
    (tmp_path / "a.mp3").write_bytes(data)
    assert read(tmp_path / "a.mp3")[1].shape[1] >= 5 * 576


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_cut_within_a_page_is_truncated_by_as_much(tmp_path: Path, subtype: str) -> None:
    data = sound(10 * RATE, "OGG", subtype)
    (tmp_path / "a.ogg").write_bytes(data[:-1000])
    with pytest.raises(AudioError, match=r"truncated: \d\.\d\d\d s are there, the last \d\.\d\d\d s are missing"):
        read(tmp_path / "a.ogg")


@pytest.mark.parametrize(
    ("suffix", "muxer", "codec"),
    [("mp4", "mp4", "aac"), ("mkv", "matroska", "aac"), ("avi", "avi", "pcm_s16le"), ("wv", "wv", "wavpack")],
)
def test_a_cut_container_is_truncated(
    tmp_path: Path, record: Callable[..., Any], suffix: str, muxer: str, codec: str
) -> None:
    options = {"movflags": "faststart"} if muxer == "mp4" else {}
    record(f"a.{suffix}", muxer, codec, 48000, 2, samples=96_000, options=options)
    path = tmp_path / f"a.{suffix}"
    assert read(path)[2] == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(AudioError, match=r"truncated: [01]\.\d+ s are there, the last [01]\.\d+ s are missing"):
        read(path)


def test_a_recording_without_its_index_is_refused(tmp_path: Path, record: Callable[..., Any]) -> None:
    record("a.m4a", "ipod", "aac")
    (tmp_path / "a.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:5000])
    with pytest.raises(AudioError, match=r"a\.m4a: not a sound file"):
        read(tmp_path / "a.m4a")


def test_what_cannot_be_decoded_is_silence_in_its_place_and_told(tmp_path: Path, record: Callable[..., Any]) -> None:
    waveform = record("a.aac", "adts", "aac", 16000, samples=48_000)
    data = bytearray((tmp_path / "a.aac").read_bytes())
    frames = [place for place in range(len(data)) if data[place : place + 2] == data[:2]]
    spoilt = frames[len(frames) // 2]
    data[spoilt + 7 : spoilt + 40] = b"\xff" * 33
    (tmp_path / "a.aac").write_bytes(data)
    _, found, notes = read(tmp_path / "a.aac")
    assert found.shape[1] >= 48_000
    assert lag(found[0, 30_000:], waveform[0, 30_000:]) == 1024
    assert len(notes) == 1 and "could not be decoded" in notes[0]


def test_content_decides_and_not_the_name(tmp_path: Path, record: Callable[..., Any]) -> None:
    for name, muxer, codec in (("a.mp3", "ipod", "aac"), ("b.wav", "mp3", "libmp3lame"), ("c.m4a", "wav", "pcm_s16le")):
        record(name, muxer, codec)
        assert read(tmp_path / name)[1].shape[1] >= 16123
    assert rewrite(tmp_path / "a.mp3", tmp_path / "out.mp3") == [
        "AAC becomes MPEG_LAYER_III: the input is MP4 despite its suffix"
    ]


def test_lists_of_other_files_are_not_followed(tmp_path: Path) -> None:
    sf.write(tmp_path / "secret.wav", np.zeros(9), RATE)
    for text in (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.wav\n",
    ):
        (tmp_path / "a.mp3").write_text(text)
        with pytest.raises(AudioError, match="not a sound file"):
            read(tmp_path / "a.mp3")


@pytest.mark.parametrize(("container", "subtype"), CODECS)
@pytest.mark.parametrize("size", [1, 333, 4000])
def test_blocks_of_any_size_are_the_whole(tmp_path: Path, container: str, subtype: str, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(sound(3000, container, subtype) + sound(1500, container, subtype))
    with SoundReader(path) as reader:
        blocks = list(reader.blocks(size))
    assert all(0 < block.shape[1] <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), read(path)[1])


@pytest.mark.parametrize(("codec", "sample_format"), [("alac", "s16p"), ("flac", "s16")])
@pytest.mark.parametrize("samples", [1, 4095, 4096, 2 * 4096 + 5])
def test_a_caf_ends_where_its_packet_table_says(
    tmp_path: Path, record: Callable[..., Any], codec: str, sample_format: str, samples: int
) -> None:
    waveform = record("a.caf", "caf", codec, samples=samples, sample_format=sample_format)
    _, found, notes = read(tmp_path / "a.caf")
    np.testing.assert_allclose(found, waveform, atol=1 / 32768)
    assert notes == []


@pytest.mark.parametrize(
    ("name", "muxer", "codec"),
    [
        ("a.wma", "asf", "wmav2"),
        ("a.flv", "flv", "aac"),
        ("a.voc", "voc", ""),
        ("a.sox", "sox", "pcm_s32le"),
        ("a.ra", "rm", "ac3"),
        ("a.caf", "caf", "alac"),
        ("a.wv", "wv", "wavpack"),
        ("a.avi", "avi", "libmp3lame"),
    ],
)
def test_what_was_cut_off_is_missed(
    tmp_path: Path, record: Callable[..., Any], name: str, muxer: str, codec: str
) -> None:
    if codec:
        record(name, muxer, codec, 44100, 1, 100_000, bit_rate=96_000 if codec == "wmav2" else 0)
    else:  # in one block, where FFmpeg makes many, of which some may be missing unseen
        sf.write(tmp_path / name, np.zeros(100_000), 44100, format="VOC")
    content = (tmp_path / name).read_bytes()
    for size in (len(content) * 6 // 10, len(content) * 4 // 5):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(AudioError, match=r"truncated|not a sound file"):
            read(tmp_path / name)


@given(
    st.binary(max_size=400),
    st.sampled_from([*MPEG, b"OggS", b"ID3\3\0\0\0\0\0\x01", b"FLV\1\0\x08filesize\0", ALAC, *_ENDS]),
)
def test_any_bytes_have_their_segments(rubbish: bytes, magic: bytes) -> None:
    file = io.BytesIO(magic + rubbish)
    others = (caf_segments(file), 0), (aac_segments(file), 0)
    for segments, strange in (ogg_segments(file), mpeg_segments(file), *others):
        assert all(0 <= segment.start < segment.end <= len(magic + rubbish) for segment in segments)
        assert 0 <= strange <= len(magic + rubbish)
    assert cut_short(file) >= 0


def test_a_window_is_a_file_of_its_own() -> None:
    file = io.BytesIO(b"0123456789")
    window, other = Window(file, 2, 6), Window(file, 4)
    assert (window.read(2), other.read(), window.read(), window.read()) == (b"23", b"456789", b"45", b"")
    assert window.seek(-1, io.SEEK_END) == 3 and window.read() == b"5"
    assert window.seek(2**70) > 0 and window.read() == b""


def test_low_rates_of_opus_are_what_was_encoded(tmp_path: Path) -> None:
    for rate in (8000, 12000, 16000, 24000, 48000):
        (tmp_path / "a.opus").write_bytes(sound(rate, "OGG", "OPUS", rate))
        form, found, _ = read(tmp_path / "a.opus")
        assert (form.rate, found.shape[1]) == (rate, rate)
        assert lag(found[0], speech(rate, rate, 1)[0]) == 0


def test_five_channels_and_a_half_keep_their_order(tmp_path: Path, record: Callable[..., Any]) -> None:
    """libsndfile has the channels of Vorbis in an order of their own."""
    waveform = record("a.ac3", "ac3", "ac3", 48000, 6, bit_rate=640_000)
    rewrite(tmp_path / "a.ac3", tmp_path / "b.ogg")
    found = read(tmp_path / "b.ogg")[1]
    size = min(found.shape[1], waveform.shape[1]) - 256
    pairs = [(0, 0), (1, 1), (2, 2), (4, 4), (5, 5)]  # not the one for low frequencies
    assert all(np.corrcoef(found[a, 256 : 256 + size], waveform[b, :size])[0, 1] > 0.9 for a, b in pairs)


def test_formats_of_libsndfile_know_their_length() -> None:
    assert AudioFormat(16000, 1, 8000, "WAV", "PCM_16").seconds == 0.5
    assert AudioFormat(16000, 1, None, "MP3", "MPEG_LAYER_III", duration=2.5).seconds == 2.5
