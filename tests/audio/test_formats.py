"""Every format in and out: files that FFmpeg made come in whole, go out as they were, and keep tags and pictures.

docs/formats.md shows the table below; each of its cells is a test. `make docs` writes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from sbm_cli.audio.format import OUTPUT_SUFFIXES, AudioFormat, changes, format_for
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.errors import AudioError
from tests.audio.conftest import speech


@dataclass(frozen=True)
class Row:
    """A format: how FFmpeg makes such a file, what it comes in as, what it goes out as under the same suffix.

    tags: whether a title survives. video: the sound of the videos that are copied around it, "" if it holds none.
    """

    what: str
    suffix: str
    muxer: str
    codec: str
    read: str
    written: str
    rate: int = 16000
    channels: int = 1
    tags: bool = True
    video: str = ""
    picture: str = "mpeg4"
    options: tuple[tuple[str, Any], ...] = ()


ROWS = [
    Row("WAV, 16 bits", ".wav", "wav", "pcm_s16le", "PCM_16", "PCM_16"),
    Row("WAV, 24 bits, 5.1", ".wav", "wav", "pcm_s24le", "PCM_24", "PCM_24", 48000, 6),
    Row("WAV, floats", ".wav", "wav", "pcm_f32le", "FLOAT", "FLOAT"),
    Row("WAV, µ-law", ".wav", "wav", "pcm_mulaw", "ULAW", "ULAW", 8000),
    Row("WAV, IMA ADPCM", ".wav", "wav", "adpcm_ima_wav", "IMA_ADPCM", "PCM_16"),
    Row("WAV, Microsoft ADPCM", ".wav", "wav", "adpcm_ms", "MS_ADPCM", "PCM_16"),
    Row("WAV, G.726", ".wav", "wav", "g726", "ADPCM_G726", "PCM_16", 8000, options=(("bit_rate", 32_000),)),
    Row("WAV, MP3", ".wav", "wav", "libmp3lame", "MPEG_LAYER_III", "PCM_16", 44100),
    Row("RF64", ".rf64", "wav", "pcm_s16le", "PCM_16", "PCM_16", options=(("options", {"rf64": "always"}),)),
    Row("W64", ".w64", "w64", "pcm_s16le", "PCM_16", "PCM_16", tags=False),
    Row("FLAC, 16 bits", ".flac", "flac", "flac", "PCM_16", "PCM_16", options=(("sample_format", "s16"),)),
    Row("AIFF", ".aiff", "aiff", "pcm_s16be", "PCM_16", "PCM_16"),
    Row("AU", ".au", "au", "pcm_s16be", "PCM_16", "PCM_16", tags=False),
    Row("CAF", ".caf", "caf", "pcm_s16be", "PCM_16", "PCM_16"),
    Row("CAF, ALAC", ".caf", "caf", "alac", "ALAC_16", "ALAC_16", options=(("sample_format", "s16p"),)),
    Row("VOC", ".voc", "voc", "pcm_s16le", "PCM_16", "PCM_16", tags=False),
    Row("MP3", ".mp3", "mp3", "libmp3lame", "MPEG_LAYER_III", "MPEG_LAYER_III", 44100, 2),
    Row(
        "MP3 without Xing header",
        ".mp3",
        "mp3",
        "libmp3lame",
        "MPEG_LAYER_III",
        "MPEG_LAYER_III",
        options=(("options", {"write_xing": "0"}),),
    ),
    Row("MP2", ".mp2", "mp2", "mp2", "MPEG_LAYER_II", "MPEG_LAYER_II", 44100, tags=False),
    Row("MP2 named .mp3", ".mp3", "mp2", "mp2", "MPEG_LAYER_II", "MPEG_LAYER_II", 32000, 2, tags=False),
    Row("Ogg Vorbis", ".ogg", "ogg", "vorbis", "VORBIS", "VORBIS", 44100, 2),
    Row("Ogg Opus", ".opus", "ogg", "libopus", "OPUS", "OPUS", 48000, 2),
    Row("Ogg Opus of 16 kHz", ".opus", "ogg", "libopus", "OPUS", "OPUS"),
    Row("Ogg FLAC", ".ogg", "ogg", "flac", "FLAC_16", "FLAC_16", options=(("sample_format", "s16"),)),
    Row("M4A, AAC", ".m4a", "ipod", "aac", "AAC", "AAC", 44100, 2),
    Row("M4A, ALAC", ".m4a", "ipod", "alac", "ALAC_24", "ALAC_24", 48000, 2, options=(("sample_format", "s32p"),)),
    Row("Audiobook", ".m4b", "ipod", "aac", "AAC", "AAC", 22050),
    Row("MP4", ".mp4", "mp4", "aac", "AAC", "AAC", 48000, 2, video="aac", picture="libx264"),
    Row("QuickTime", ".mov", "mov", "pcm_s24le", "PCM_24", "PCM_24", 48000, 2, video="pcm_s16le"),
    Row(
        "3GP, AMR",
        ".3gp",
        "3gp",
        "libopencore_amrnb",
        "AMR_NB",
        "AMR_NB",
        8000,
        tags=False,
        video="aac",
        options=(("bit_rate", 12_200),),
    ),
    Row("AAC", ".aac", "adts", "aac", "AAC", "AAC", tags=False),
    Row("AC-3, 5.1", ".ac3", "ac3", "ac3", "AC3", "AC3", 48000, 6, tags=False),
    Row("E-AC-3", ".eac3", "eac3", "eac3", "EAC3", "EAC3", 48000, 2, tags=False),
    Row("WebM", ".webm", "webm", "libopus", "OPUS", "OPUS", 48000, 2, video="libopus", picture="libvpx"),
    Row("WebM, Vorbis", ".webm", "webm", "vorbis", "VORBIS", "OPUS", 48000, 2),
    Row("Matroska", ".mkv", "matroska", "aac", "AAC", "AAC", 44100, 2, video="aac"),
    Row(
        "Matroska, sound only",
        ".mka",
        "matroska",
        "flac",
        "FLAC_16",
        "FLAC_16",
        48000,
        2,
        options=(("sample_format", "s16"),),
    ),
    Row("AVI", ".avi", "avi", "libmp3lame", "MPEG_LAYER_III", "MPEG_LAYER_III", 44100, 2, video="libmp3lame"),
    Row("MPEG-TS", ".ts", "mpegts", "aac", "AAC", "AAC", 48000, 2, tags=False, video="mp2", picture="mpeg2video"),
    Row("MPEG", ".mpg", "mpeg", "mp2", "MPEG_LAYER_II", "MPEG_LAYER_II", 48000, 2, False, "mp2", "mpeg1video"),
    Row("DVD", ".vob", "vob", "ac3", "AC3", "AC3", 48000, 2, False, "ac3", "mpeg2video"),
    Row("NUT", ".nut", "nut", "aac", "AAC", "AAC", 44100, 2, video="libmp3lame"),
    Row("Ogg with a picture", ".ogv", "ogv", "libopus", "OPUS", "OPUS", 48000, 2, video="libopus", picture="libvpx"),
    Row("Flash MP4", ".f4v", "f4v", "aac", "AAC", "AAC", 44100, 2, video="aac", picture="libx264"),
    Row("3GPP2", ".3g2", "3g2", "aac", "AAC", "AAC", 22050, tags=False, video="aac"),
    Row("Flash", ".flv", "flv", "aac", "AAC", "AAC", 44100, 2, video="aac", picture="flv"),
    Row("WMA", ".wma", "asf", "wmav2", "WMAV2", "WMAV2", 44100, 2, options=(("bit_rate", 128_000),)),
    Row(
        "WMV",
        ".wmv",
        "asf",
        "wmav2",
        "WMAV2",
        "WMAV2",
        44100,
        2,
        video="wmav2",
        picture="msmpeg4",
        options=(("bit_rate", 128_000),),
    ),
    Row(
        "AMR", ".amr", "amr", "libopencore_amrnb", "AMR_NB", "AMR_NB", 8000, tags=False, options=(("bit_rate", 12_200),)
    ),
    Row("G.722", ".g722", "g722", "g722", "G722", "G722", tags=False),
    Row("WavPack", ".wv", "wv", "wavpack", "WAVPACK_16", "WAVPACK_16", 44100, 2, options=(("sample_format", "s16p"),)),
    Row("TTA", ".tta", "tta", "tta", "TTA_16", "TTA_16", 44100, 2, options=(("sample_format", "s16"),)),
    Row("SoX", ".sox", "sox", "pcm_s32le", "PCM_32", "", tags=False),
    Row("RealAudio, AC-3", ".ra", "rm", "ac3", "AC3", "", 44100, 2, tags=False),
]


def table() -> str:
    """Return what docs/formats.md shows of them."""
    rows = ["| format | suffix | read | written | tags | videos |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        written = f"`{row.written}`" if row.written else "no"
        rows.append(
            f"| {row.what} | `{row.suffix}` | `{row.read}` | {written} | {'yes' if row.tags else 'no'} "
            f"| {'yes' if row.video else 'no'} |"
        )
    others = ", ".join(f"`{suffix}`" for suffix in sorted({*OUTPUT_SUFFIXES} - {row.suffix for row in ROWS}))
    return "\n".join(rows) + f"\n\nThe same containers under other suffixes: {others}.\n"


def read(path: Path, size: int = 5000) -> tuple[AudioFormat, NDArray[np.float32], list[str]]:
    with SoundReader(path) as reader:
        blocks = list(reader.blocks(size))
        waveform = np.concatenate([np.zeros((reader.format.channels, 0), np.float32), *blocks], axis=1)
        return reader.format, waveform, reader.notes


def rewrite(source: Path, target: Path, stream: int | None = None) -> list[str]:
    """Write what is read; return what is to be told."""
    with SoundReader(source, stream=stream) as reader:
        form = format_for(target, reader.format)
        with SoundWriter(target, form, metadata=reader.metadata()) as writer:
            for block in reader.blocks(5000):
                writer.write(block)
        return [*reader.notes, *changes(target, reader.format, form), *writer.notes, *writer.not_carried]


def without_filling(told: list[str]) -> list[str]:
    """Leave out that silence fills up the last frame."""
    return [line for line in told if not re.fullmatch(r"0\.0\d\d s of silence follow: \w+ stores whole frames", line)]


def lag(late: NDArray[np.float32], early: NDArray[np.float32]) -> int:
    size = late.size + early.size
    peak = int(np.fft.irfft(np.fft.rfft(late, size) * np.fft.rfft(early, size).conj(), size).argmax())
    return peak if peak < late.size else peak - size


def decoded(path: Path) -> int:
    """Return how many samples FFmpeg itself decodes."""
    with av.open(str(path), format="g722" if path.suffix == ".g722" else None) as file:
        return sum(frame.samples for frame in file.decode(audio=0))


@pytest.fixture(params=ROWS, ids=lambda row: f"{row.what} {row.suffix}")
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


@pytest.fixture
def made(row: Row, tmp_path: Path, record: Callable[..., Any]) -> tuple[Path, NDArray[np.float32]]:
    waveform = record(f"in{row.suffix}", row.muxer, row.codec, row.rate, row.channels, **dict(row.options))
    return tmp_path / f"in{row.suffix}", waveform


FRAME = 2304  # samples of the longest frame of a codec, and as many as come before the sound where nothing tells


def test_comes_in_whole(row: Row, made: tuple[Path, NDArray[np.float32]]) -> None:
    path, waveform = made
    form, found, notes = read(path)
    assert (form.subtype, form.rate, form.channels) == (row.read, row.rate, row.channels)
    assert notes == []
    if form.container == "MP4":  # which tells the length; FFmpeg gives out the last frame whole
        assert found.shape[1] == waveform.shape[1] + 1024 * (row.suffix == ".f4v")  # whose delay it does not store
        assert 0 <= decoded(path) - found.shape[1] < FRAME
    elif row.what != "CAF, ALAC":  # of which FFmpeg loses the end
        assert found.shape[1] == decoded(path) * row.rate // (48000 if row.read == "OPUS" else row.rate)
    loses = row.what in ("WMA", "WMV")  # as FFmpeg writes them
    assert found.shape[1] >= waveform.shape[1] - FRAME * loses
    if row.read != "AMR_NB":  # a codec of speech: noise does not come back
        assert -FRAME * loses <= lag(found[0], waveform[0]) <= FRAME
    assert np.array_equal(read(path, 777)[1], found)  # however it is cut


def test_goes_out_as_it_was(row: Row, made: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    path, _ = made
    target = tmp_path / f"out{row.suffix}"
    if not row.written:
        with pytest.raises(AudioError):
            rewrite(path, target)
        return
    told = rewrite(path, target)
    before, early, _ = read(path)
    after, late, _ = read(target)
    assert (after.subtype, after.rate, after.channels) == (row.written, row.rate, row.channels)
    assert without_filling(told) == ([] if row.read == row.written else [f"{row.read} becomes {row.written}"])
    assert (told != without_filling(told)) == (late.shape[1] > early.shape[1])
    assert 0 <= late.shape[1] - early.shape[1] <= FRAME * (2 if row.read == "WMAV2" else 1)
    if row.read != "AMR_NB":
        assert lag(late[0], early[0]) == 0
    if after.bit_rate and row.read == row.written:
        assert after.bit_rate > 0.9 * before.bit_rate


def test_tags_stay_or_are_named(row: Row, made: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    if not row.written:
        return
    path, _ = made
    target = tmp_path / f"out{row.suffix}"
    had = dict(read(path)[0].tags)
    rewrite(path, target)
    has = dict(read(target)[0].tags)
    assert (has.get("title") == "Grüße") == row.tags
    assert not row.tags or had.get("title") == "Grüße"


def packets(path: Path) -> dict[int, list[tuple[float, bytes]]]:
    """Return all that is no sound, with its times."""
    found: dict[int, list[tuple[float, bytes]]] = {}
    with av.open(str(path)) as file:
        for packet in file.demux():
            if packet.size and packet.stream.type != "audio":
                time = float((packet.pts or 0) * packet.time_base)
                found.setdefault(packet.stream.index, []).append((time, bytes(packet)))
    return found


def heard(path: Path, stream: int = 0) -> tuple[float, NDArray[np.float32]]:
    """Return when the sound begins, in seconds, and its first channel."""
    with av.open(str(path)) as file:
        frames = list(file.decode(file.streams.audio[stream]))
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=48000)
        return frames[0].time, np.concatenate(
            [part.to_ndarray()[0] for each in frames for part in resampler.resample(each)]
        )


def assert_same_video(before: Path, after: Path, stream: int = 0) -> None:
    """Check that all but the sound is the same, and the sound in time with it."""
    first, second = packets(before), packets(after)
    assert {index: [data for _, data in found] for index, found in first.items()} == {
        index: [data for _, data in found] for index, found in second.items()
    }
    times = [[time for index in sorted(each) for time, _ in each[index]] for each in (first, second)]
    np.testing.assert_allclose(times[1], times[0], atol=1e-3)
    (start, early), (then, late) = heard(before, stream), heard(after, stream)
    assert abs(then - start + lag(late, early) / 48000) < 1e-3


def test_videos_keep_all_but_the_sound(row: Row, tmp_path: Path, video: Callable[..., Any]) -> None:
    path, target = tmp_path / f"in{row.suffix}", tmp_path / f"out{row.suffix}"
    if not row.video:
        return
    video(path.name, row.muxer, row.video, row.picture)
    rewrite(path, target)
    assert_same_video(path, target)
    with av.open(str(target)) as file:
        assert sorted(stream.type for stream in file.streams if stream.type != "data") == ["audio", "video"]


@pytest.mark.parametrize(
    ("name", "container", "subtype", "written"),
    [
        ("a.mp3", "WAV", "PCM_16", "PCM_16 becomes MPEG_LAYER_III: the input is WAV despite its suffix"),
        ("a.wav", "MP3", "MPEG_LAYER_III", "MPEG_LAYER_III becomes PCM_16: the input is MP3 despite its suffix"),
        ("a.flac", "WAV", "PCM_16", ""),
        ("a.g722", "WAV", "PCM_16", "PCM_16 becomes G722: the input is WAV despite its suffix"),
    ],
)
def test_a_suffix_that_lies_is_told(tmp_path: Path, name: str, container: str, subtype: str, written: str) -> None:
    """The content decides how a file is read, the suffix of the output how that is written."""
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    sf.write(tmp_path / name, waveform, 16000, subtype, format=container)
    form, found, _ = read(tmp_path / name)
    assert (form.container, form.subtype, found.shape) == (container, subtype, (1, 16000))
    assert rewrite(tmp_path / name, tmp_path / f"out{Path(name).suffix}")[:1] == ([written] if written else [])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("quality", [0.0, 0.35, 1.0])
def test_vorbis_keeps_its_nominal_bit_rate(tmp_path: Path, rate: int, channels: int, quality: float) -> None:
    path = tmp_path / "in.ogg"
    sf.write(path, speech(rate, rate, channels).T, rate, "VORBIS", compression_level=1 - quality)
    rewrite(path, tmp_path / "out.ogg")
    before, after = read(path)[0].bit_rate, read(tmp_path / "out.ogg")[0].bit_rate
    assert before <= after < 1.03 * before


@pytest.mark.parametrize("rate", [64000, 96000, 192000])
def test_vorbis_that_states_no_bit_rate_has_that_of_its_size(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "in.ogg"
    sf.write(path, speech(rate, rate, 1).T, rate, "VORBIS")
    assert read(path)[0].bit_rate == pytest.approx(8 * path.stat().st_size, rel=0.01)


@pytest.mark.parametrize(
    ("name", "muxer", "codec"),
    [("in.opus", "ogg", "libopus"), ("in.webm", "webm", "libopus"), ("in.mp3", "mp3", "libmp3lame")],
)
@pytest.mark.parametrize("bit_rate", [24_000, 64_000, 128_000])
def test_no_bit_rate_falls_below_the_input(
    tmp_path: Path, record: Callable[..., Any], name: str, muxer: str, codec: str, bit_rate: int
) -> None:
    """Though LAME at a mean rate, and Opus at low ones, stay below what they are asked for."""
    source, target = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    record(name, muxer, codec, 48000, samples=10 * 48000, bit_rate=max(bit_rate, 32_000 * (codec == "libmp3lame")))
    rewrite(source, target)
    assert 0.99 * stored(source) < stored(target) < 1.5 * stored(source)


def stored(path: Path) -> int:
    """Return the bytes of the sound in a file."""
    with av.open(str(path)) as file:
        return sum(packet.size for packet in file.demux(audio=0))


@pytest.mark.parametrize("suffix", [".mp2", ".ac3", ".eac3", ".wma", ".aac", ".mp3", ".ogg"])
@pytest.mark.parametrize("samples", [9216, 9519, 10038, 10557])
def test_the_end_comes_out_of_every_encoder(tmp_path: Path, suffix: str, samples: int) -> None:
    """Some give nothing out but for what is put in, and their last window needs more than the sound."""
    waveform = speech(samples, 48000, 2)
    path = tmp_path / f"a{suffix}"
    with SoundWriter(path, format_for(path, AudioFormat(48000, 2, samples, "WAV", "PCM_16"))) as writer:
        writer.write(waveform)
    end = read(path)[1][:, samples - 200 : samples]
    assert np.corrcoef(end.ravel(), waveform[:, -200:].ravel())[0, 1] > 0.9


def write(path: Path, waveform: NDArray[np.float32], rate: int, subtype: str | None = None) -> list[str]:
    form = format_for(path, AudioFormat(rate, len(waveform), waveform.shape[1], "WAV", "PCM_16"), subtype)
    with SoundWriter(path, form) as writer:
        writer.write(waveform)
    return writer.notes


EXACT = [
    (suffix, subtype)
    for suffix in (".mp4", ".mkv")
    for subtype in ("AAC", "OPUS", "MPEG_LAYER_III", "MPEG_LAYER_II", "AC3", "EAC3")
] + [
    (".m4a", None),
    (".3gp", None),
    (".f4v", None),
    (".mov", "AAC"),
    (".webm", None),
    (".ogv", None),
    (".mka", "FLAC_16"),
]


@pytest.mark.parametrize(("suffix", "subtype"), EXACT)
def test_lengths_stay_to_the_sample(tmp_path: Path, suffix: str, subtype: str | None) -> None:
    path, waveform = tmp_path / f"a{suffix}", speech(30_001, 48000, 1)
    assert write(path, waveform, 48000, subtype) == []
    _, found, _ = read(path)
    assert found.shape == waveform.shape and lag(found[0], waveform[0]) == 0
    with av.open(str(path)) as file:
        if file.format.name.startswith("mov"):  # its last frame is whole for FFmpeg, but other players cut it
            stream = file.streams.audio[0]
            assert stream.duration * stream.time_base * 48000 == 30_001
        else:
            assert decoded(path) == 30_001


@pytest.mark.parametrize("suffix", [".aac", ".mp2", ".ac3", ".wma", ".ts", ".flv", ".mpg", ".avi"])
def test_silence_that_fills_the_last_frame_is_told(tmp_path: Path, suffix: str) -> None:
    path, waveform = tmp_path / f"a{suffix}", speech(30_001, 48000, 1)
    (note,) = write(path, waveform, 48000, "MPEG_LAYER_III" if suffix == ".avi" else None)
    seconds = (read(path)[1].shape[1] - 30_001) / 48000
    assert seconds > 0 and note.startswith(f"{seconds:.3f} s of silence follow: ")


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mp4", ".ogv"])
@pytest.mark.parametrize("samples", [1, 312, 400, 649])
def test_silence_behind_a_single_frame_is_told(tmp_path: Path, suffix: str, samples: int) -> None:
    notes = write(tmp_path / f"a{suffix}", speech(samples, 48000, 1), 48000, "OPUS")
    seconds = (read(tmp_path / f"a{suffix}")[1].shape[1] - samples) / 48000
    assert seconds >= 0
    assert [note[:27] for note in notes] == ([f"{seconds:.3f} s of silence follow: "] if seconds else [])


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("foreign", [False, True])
def test_opus_of_any_rate_is_in_time(
    tmp_path: Path, record: Callable[..., Any], rate: int, suffix: str, foreign: bool
) -> None:
    path, waveform = tmp_path / f"a{suffix}", speech(rate + 123, rate, 1)
    if foreign:
        record(path.name, "mp4" if suffix == ".mp4" else "matroska", "libopus", rate)
    else:
        write(path, waveform, rate, "OPUS")
    form, found, _ = read(path)
    assert (form.rate, found.shape) == (rate, waveform.shape)
    assert lag(found[0], waveform[0]) == 0


@pytest.mark.parametrize("suffix", [".aac", ".ac3", ".eac3", ".ts"])
@pytest.mark.parametrize("samples", [1, 1000, 1024, 1025, 1600])
@pytest.mark.parametrize("level", [0.1, 1e-4])
def test_a_file_of_a_frame_or_two_can_be_read_and_written_again(
    tmp_path: Path, suffix: str, samples: int, level: float
) -> None:
    waveform = np.full((1, samples), level, np.float32)
    waveform[:, ::2] *= -1
    path, copy = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write(path, waveform, 48000)
    assert read(path)[1].shape[1] >= samples
    rewrite(path, copy)
    assert read(copy)[1].shape[1] >= samples


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """FFmpeg reads MP2 from two frames on."""
    with pytest.raises(AudioError, match=r"a\.mp2: too short for MP2"):
        write(tmp_path / "a.mp2", speech(1000, 48000, 1), 48000)
    assert not list(tmp_path.iterdir())


def test_flash_tells_the_rate_of_six_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.flv", speech(30_001, 48000, 6), 48000)
    form, found, _ = read(tmp_path / "a.flv")
    assert (form.rate, found.shape) == (48000, (6, 30_720))
