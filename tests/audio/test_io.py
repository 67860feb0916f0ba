"""Reading and writing: every format comes back as it was, nothing half is ever left, every failure has its sentence."""

import os
import resource
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbm_cli.audio.format import AudioFormat, changes, format_for
from sbm_cli.audio.io import SoundReader, read_format
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.errors import AudioError, OutputExistsError

# container, subtype, suffix, rate, the largest error of a written and read sample
EXACT = [
    ("WAV", "PCM_U8", ".wav", 8000, 2**-8),
    ("WAV", "PCM_16", ".wav", 16000, 2**-16),
    ("WAV", "PCM_24", ".wav", 48000, 2**-24),
    ("WAV", "PCM_32", ".wav", 44100, 2**-24),
    ("WAV", "FLOAT", ".wav", 44100, 0),
    ("WAV", "DOUBLE", ".wav", 96000, 0),
    ("WAV", "ULAW", ".wav", 8000, 2**-6),
    ("WAV", "ALAW", ".wav", 8000, 2**-6),
    ("WAVEX", "PCM_24", ".wav", 48000, 2**-24),
    ("RF64", "PCM_16", ".wav", 48000, 2**-16),
    ("W64", "PCM_16", ".w64", 48000, 2**-16),
    ("AIFF", "PCM_S8", ".aiff", 22050, 2**-8),
    ("AIFF", "PCM_24", ".aiff", 44100, 2**-24),
    ("CAF", "ALAC_16", ".caf", 44100, 2**-16),
    ("CAF", "ALAC_20", ".caf", 44100, 2**-20),
    ("CAF", "ALAC_24", ".caf", 44100, 2**-24),
    ("CAF", "FLOAT", ".caf", 44100, 0),
    ("AU", "PCM_16", ".au", 16000, 2**-16),
    ("FLAC", "PCM_S8", ".flac", 16000, 2**-8),
    ("FLAC", "PCM_16", ".flac", 44100, 2**-16),
    ("FLAC", "PCM_24", ".flac", 96000, 2**-24),
]
LOSSY = [
    ("MP3", "MPEG_LAYER_III", ".mp3", 44100),
    ("MP3", "MPEG_LAYER_III", ".mp3", 16000),
    ("OGG", "VORBIS", ".ogg", 44100),
    ("OGG", "VORBIS", ".ogg", 8000),
    ("OGG", "OPUS", ".opus", 48000),
    ("OGG", "OPUS", ".opus", 16000),
]
WAV = AudioFormat(rate=16000, channels=1, samples=0, container="WAV", subtype="PCM_16")


def speechlike(rate: int, samples: int, channels: int = 2) -> NDArray[np.float32]:
    """Noise below 3 kHz with a slow envelope: codecs keep it, and its correlation has one sharp peak."""
    generator = np.random.default_rng(samples)
    spectrum = np.fft.rfft(generator.standard_normal((channels, samples)), axis=1)
    spectrum[:, int(3000 / rate * samples) :] = 0
    waveform = np.fft.irfft(spectrum, samples, axis=1)
    waveform *= 0.1 / waveform.std() * (1 + 0.9 * np.sin(np.arange(samples) / rate * 20))
    return np.clip(waveform, -0.9, 0.9).astype(np.float32)


def write(path: Path, waveform: NDArray[np.float32], form: AudioFormat, size: int = 1000) -> None:
    with SoundWriter(path, form) as writer:
        for start in range(0, waveform.shape[1], size):
            writer.write(waveform[:, start : start + size])


def read(path: Path, size: int = 1000) -> NDArray[np.float32]:
    with SoundReader(path) as reader:
        empty = np.zeros((reader.format.channels, 0), np.float32)
        return np.concatenate([empty, *reader.blocks(size)], axis=1)


def lag(late: NDArray[np.float32], early: NDArray[np.float32]) -> int:
    size = 2 * late.size
    peak = int(np.fft.irfft(np.fft.rfft(late, size) * np.fft.rfft(early, size).conj()).argmax())
    return peak if peak < late.size else peak - size


def wav_bytes(path: Path, samples: int = 1000) -> bytearray:
    sf.write(path, np.full(samples, 0.25), 16000)
    return bytearray(path.read_bytes())


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(("container", "subtype", "suffix", "rate", "error"), EXACT)
def test_lossless_formats_come_back(
    tmp_path: Path, container: str, subtype: str, suffix: str, rate: int, error: float
) -> None:
    waveform, path = speechlike(rate, 9001), tmp_path / f"a{suffix}"
    form = AudioFormat(rate, 2, 9001, container, subtype)
    write(path, waveform, form)
    assert read_format(path) == form
    found = read(path)
    assert found.shape == waveform.shape
    assert found.dtype == np.float32
    assert float(np.abs(found - waveform).max()) <= error
    # A second generation is the first, bit for bit.
    write(tmp_path / f"b{suffix}", found, format_for(f"b{suffix}", form))
    assert np.array_equal(read(tmp_path / f"b{suffix}"), found)
    assert read_format(tmp_path / f"b{suffix}") == form


@pytest.mark.parametrize(("container", "subtype", "suffix", "rate"), LOSSY)
@pytest.mark.parametrize("samples", [40_001, 700])
def test_codecs_keep_length_and_lag(
    tmp_path: Path, container: str, subtype: str, suffix: str, rate: int, samples: int
) -> None:
    waveform, path = speechlike(rate, samples), tmp_path / f"a{suffix}"
    form = AudioFormat(rate, 2, samples, container, subtype)
    write(path, waveform, form)
    found = read(path)
    assert replace(read_format(path), tags=(), samples=samples) == form  # how many there are, the end tells
    assert found.shape == waveform.shape
    if samples > 1000:
        assert [lag(found[channel], waveform[channel]) for channel in range(2)] == [0, 0]
        assert float(np.sum(found * waveform) / np.sum(waveform**2)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".wav"])
def test_a_large_block_reaches_libsndfile_in_small_ones(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three million samples of Vorbis in one call overflow the stack, which no test can catch: so look at the calls.
    sizes: list[int] = []
    write_all = sf.SoundFile.write

    def record(file: sf.SoundFile, frames: NDArray[np.float32]) -> None:
        sizes.append(len(frames))
        write_all(file, frames)

    monkeypatch.setattr(sf.SoundFile, "write", record)
    waveform = speechlike(16000, 100_001, channels=1)
    write(tmp_path / f"a{suffix}", waveform, format_for(f"a{suffix}", WAV), size=waveform.shape[1])
    assert max(sizes) <= 8192
    assert sum(sizes) == 100_001
    assert read(tmp_path / f"a{suffix}").shape == (1, 100_001)


@pytest.mark.parametrize("channels", [1, 7])
def test_any_number_of_channels_in_their_order(tmp_path: Path, channels: int) -> None:
    waveform = np.repeat(np.arange(1, channels + 1, dtype=np.float32)[:, None] / np.float32(16), 50, axis=1)
    write(tmp_path / "a.wav", waveform, replace(WAV, channels=channels))
    assert np.array_equal(read(tmp_path / "a.wav"), waveform)


def test_where_channels_stand_is_kept_and_valid_bits_are_told(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((10, 6)), 48000, "PCM_32", format="WAVEX")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    place = content.index(b"fmt ") + 8
    content[place + 18 : place + 24] = struct.pack("<HI", 24, 0x60F)  # valid bits; 5.1 with the speakers at the sides
    (tmp_path / "a.wav").write_bytes(content)
    with SoundReader(tmp_path / "a.wav") as reader:
        form = format_for("b.wav", reader.format)
        write(tmp_path / "b.wav", np.zeros((6, 10), np.float32), form)
        assert changes("b.wav", reader.format, form) == ["24 valid bits per sample become 32"]
        assert changes("b.flac", reader.format, format_for("b.flac", reader.format)) == []
    content = bytearray((tmp_path / "b.wav").read_bytes())
    place = content.index(b"fmt ") + 8
    assert struct.unpack("<HI", content[place + 18 : place + 24]) == (32, 0x60F)


def test_byte_order_is_kept(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.full(9, 0.5), 16000, endian="BIG")
    form = read_format(tmp_path / "a.wav")
    assert form.endian == "BIG"
    write(tmp_path / "b.wav", read(tmp_path / "a.wav"), form)
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RIFX"
    assert np.array_equal(read(tmp_path / "b.wav"), np.full((1, 9), 0.5, np.float32))


def test_a_big_endian_wavex_stays_big_endian(tmp_path: Path) -> None:
    """libsndfile reads one and cannot write it: this is its header."""
    fmt = struct.pack(">HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4)
    fmt += bytes.fromhex("00000001000000108000 00aa00389b71")
    data = struct.pack(">3h", 100, -200, 300)
    chunks = b"fmt " + struct.pack(">I", len(fmt)) + fmt + b"data" + struct.pack(">I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFX" + struct.pack(">I", 4 + len(chunks)) + b"WAVE" + chunks)
    form = read_format(tmp_path / "a.wav")
    assert (form.container, form.endian) == ("WAVEX", "BIG")
    write(tmp_path / "b.wav", read(tmp_path / "a.wav"), format_for(tmp_path / "b.wav", form))
    made = (tmp_path / "b.wav").read_bytes()
    assert made.startswith(b"RIFX") and made.endswith(data)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".caf", ".w64"])
def test_tags_are_copied_where_there_is_room(tmp_path: Path, suffix: str) -> None:
    tags = (("title", "Grüße"), ("artist", "N. N."), ("comment", "take 2"), ("date", "2024"))
    form = format_for(f"a{suffix}", replace(WAV, tags=tags))
    write(tmp_path / f"a{suffix}", speechlike(16000, 3000, 1), form)
    found = dict(read_format(tmp_path / f"a{suffix}").tags)
    if suffix == ".w64":
        assert found == {}
    else:
        assert found == dict(tags)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_integers_round_to_the_nearest_and_never_wrap(tmp_path: Path, subtype: str) -> None:
    step = np.float32(2.0 ** (1 - {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}[subtype]))
    given_steps = np.array([[0, 0.4, 0.6, -0.4, -0.6, -1e-5, 3, -3]], np.float32)
    write(tmp_path / "a.wav", (given_steps * step).astype(np.float32), replace(WAV, subtype=subtype))
    assert (read(tmp_path / "a.wav") / step).tolist() == [[0, 0, 1, 0, -1, 0, 3, -3]]
    write(tmp_path / "b.wav", np.array([[1.5, 1, -1, -1.5]], np.float32), replace(WAV, subtype=subtype))
    assert read(tmp_path / "b.wav")[0] == pytest.approx([1 - step, 1 - step, -1, -1], abs=1e-7)


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "FLOAT"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_16")]
)
def test_has_full_scale_says_whether_overs_survive(tmp_path: Path, container: str, subtype: str) -> None:
    form = replace(WAV, container=container, subtype=subtype)
    loud = 1.5 * np.sin(np.arange(16000, dtype=np.float32)[None] * 0.2)
    write(tmp_path / "a", loud, form)
    peak = float(np.abs(read(tmp_path / "a")).max())
    assert peak <= 1 if form.has_full_scale else peak > 1.4


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".caf", ".w64", ".au", ".ogg"])
def test_empty_in_empty_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(path, np.zeros((1, 0), np.float32), format_for(path, WAV))
    assert read_format(path).samples in (0, None)
    assert read(path).shape == (1, 0)


@pytest.mark.parametrize("suffix", [".flac", ".opus", ".mp3", ".m4a", ".wv"])
def test_formats_that_cannot_be_empty_say_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(AudioError, match="files cannot be empty"):
        write(path, np.zeros((1, 0), np.float32), format_for(path, WAV))
    assert names(tmp_path) == []


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(0, 600), size=st.integers(1, 700), channels=st.integers(1, 3))
def test_block_size_leaves_no_trace(tmp_path: Path, samples: int, size: int, channels: int) -> None:
    path = tmp_path / "a.wav"
    path.unlink(missing_ok=True)
    waveform = np.random.default_rng(size).uniform(-1, 1, (channels, samples)).astype(np.float32)
    write(path, waveform, replace(WAV, channels=channels, subtype="FLOAT"), size)
    with SoundReader(path) as reader:
        blocks = list(reader.blocks(size))
    assert all(0 < block.shape[1] <= size and block.flags.c_contiguous for block in blocks)
    assert [block.shape[1] for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate([waveform[:, :0], *blocks], axis=1), waveform)


def test_blocks_go_on_where_they_were_left(tmp_path: Path) -> None:
    waveform = speechlike(16000, 100, 1)
    write(tmp_path / "a.wav", waveform, replace(WAV, subtype="FLOAT"))
    with SoundReader(tmp_path / "a.wav") as reader:
        first = next(reader.blocks(30))
        rest = list(reader.blocks(100))
        assert list(reader.blocks(100)) == []
        with pytest.raises(ValueError, match="at least 1"):
            next(reader.blocks(0))
    assert np.array_equal(np.concatenate([first, *rest], axis=1), waveform)


# --- what cannot be read


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_with_its_time_or_replaced(tmp_path: Path, bad: float) -> None:
    path, waveform = tmp_path / "a.wav", np.full((8000, 2), 0.5, np.float32)
    waveform[4000, 1] = waveform[6000, 0] = bad
    sf.write(path, waveform, 16000, subtype="FLOAT")
    with SoundReader(path) as reader, pytest.raises(AudioError, match=r"sample 4000 \(at 0\.250 s\)") as caught:
        list(reader.blocks(700))
    assert "--replace-nan" in caught.value.hint
    with SoundReader(path, replace_nan=True) as reader:
        found = np.concatenate(list(reader.blocks(700)), axis=1)
    assert np.array_equal(found.T, np.where(np.isfinite(waveform), waveform, 0))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="none.wav: no such file"):
        read_format(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="is a folder") as caught:
        read_format(tmp_path)
    assert "sbm batch" in caught.value.hint
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="not a regular file"):
        read_format(tmp_path / "pipe.wav")


def test_a_sound_file_has_one_stream(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(9), 16000)
    with SoundReader(tmp_path / "a.wav", stream=1) as reader:
        assert reader.streams == 1
    with pytest.raises(AudioError, match="has one audio stream, not 2"):
        SoundReader(tmp_path / "a.wav", stream=2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"dear diary, today I recorded nothing\n" * 20, "Format not recognised"),
        (b"RIFF\x00\x00\x00\x00WAVE", "No 'data' chunk"),
        (b"fLaC" + bytes(100), "damaged, or without a single sample"),
        (b"ID3\x03\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0", "a tag without a single sample"),
    ],
)
def test_what_is_no_sound_names_path_reason_and_cure(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=rf"a\.wav: not a sound file \(.*{reason}.*\)") as caught:
        read_format(tmp_path / "a.wav")
    assert caught.value.hint


TRUNCATED = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_24"),
    ("AIFF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize(("container", "subtype"), TRUNCATED)
def test_truncated_files_are_refused(tmp_path: Path, container: str, subtype: str, share: float) -> None:
    path = tmp_path / "a"
    write(path, speechlike(16000, 60_000), AudioFormat(16000, 2, 60_000, container, subtype))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError, match=r"truncated|can read"):
        read(path)


def test_wav_cut_right_after_its_header_is_truncated_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(path)[:44])
    with pytest.raises(AudioError, match="truncated: its header promises 2000 bytes, 0 are there"):
        read_format(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFFFFFF])
def test_wav_from_a_pipe_with_unknown_length_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    content = wav_bytes(path)
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert read(path).shape == (1, 1000)


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_recording_whose_header_was_never_finished_is_not_taken_for_empty(tmp_path: Path, level: float) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.full(1000, level), 16000)
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", 36), struct.pack("<I", 0)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="0 samples, but more follows"):
        read_format(path)


def test_empty_recording_with_more_chunks_is_just_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(0), 16000)
    path.write_bytes(path.read_bytes() + b"note" + struct.pack("<I", 4) + b"text")
    assert read_format(path).samples == 0


def test_rubbish_behind_the_samples_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(path) + b"LIST" + struct.pack("<I", 10**6) + b"rubbish")
    assert read(path).shape == (1, 1000)


@pytest.mark.parametrize("samples", [1000, 0])
def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path, samples: int) -> None:
    """As encoders write it into pipes; one without any frame is empty."""
    path, waveform = tmp_path / "a.flac", speechlike(16000, 1000, 1)
    write(path, waveform, replace(WAV, container="FLAC"))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # total samples: 36 bits of STREAMINFO, 13 bytes into the block that starts at 8
    content[22:26] = b"\0\0\0\0"
    path.write_bytes(content if samples else content[: 8 + 34 + 4 + 40])
    assert read_format(path).samples is None and read_format(path).seconds == 0
    np.testing.assert_allclose(read(path), waveform[:, :samples], atol=2**-16)


def test_wav_of_unknown_length_becomes_rf64_only_where_it_must(tmp_path: Path) -> None:
    form = format_for(tmp_path / "a.wav", replace(WAV, samples=None))
    assert form.container == "RF64"
    waveform = speechlike(16000, 1000, 1)
    write(tmp_path / "a.wav", waveform, form)
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFF"
    np.testing.assert_allclose(read(tmp_path / "a.wav"), waveform, atol=2**-16)


def test_a_title_that_quotes_the_log_of_libsndfile_is_no_truncation(tmp_path: Path) -> None:
    tags = (("title", "data : 10 (should be 5)"), ("comment", "*** Chunk size 9 > file length 3"))
    write(tmp_path / "a.wav", speechlike(16000, 100, 1), replace(WAV, tags=tags))
    assert read_format(tmp_path / "a.wav").tags == tags


def test_odd_names_are_no_problem(tmp_path: Path) -> None:
    for name in ("two words.wav", "grüße 音.wav", "-o.wav", os.fsdecode(b"latin-\xfc.wav"), "n" * 251 + ".wav"):
        write(tmp_path / name, speechlike(16000, 50, 1), WAV)
        assert read_format(tmp_path / name).samples == 50
    assert len(names(tmp_path)) == 5


def test_opus_without_samples_says_so(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.opus", np.zeros((0, 1)), 48000, format="OGG", subtype="OPUS")
    with pytest.raises(AudioError, match=r"a\.opus: not a sound file .*\(damaged, or without a single sample\)"):
        read_format(tmp_path / "a.opus")


# --- the writer leaves all or nothing


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
        assert process.wait(60) != 0
    if number == signal.SIGINT:
        assert names(tmp_path) == []
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("suffix", [".wav", ".m4a", ".tta"])
def test_a_full_disc_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
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
    assert "--overwrite" in caught.value.hint
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
    assert f"first: mkdir -p {tmp_path / 'no'}" in caught.value.hint
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


@pytest.mark.parametrize("suffix", [".m4a", ".opus", ".mkv"])
def test_eight_channels_come_back_in_their_places(tmp_path: Path, suffix: str) -> None:
    """PyAV crashes on eight planes; it gets the channels sample by sample. The fourth is for low sounds alone."""
    time, hertz = np.arange(24000) / 16000, [300, 400, 500, 60, 600, 700, 800, 900]
    sound = np.stack([0.3 * np.sin(2 * np.pi * f * time) for f in hertz]).astype(np.float32)
    form = AudioFormat(16000, 8, 24000, "WAV", "PCM_16", "FILE")
    write(tmp_path / f"a{suffix}", sound, format_for(f"a{suffix}", form))
    with SoundReader(tmp_path / f"a{suffix}") as reader:
        found = np.concatenate(list(reader.blocks(5000)), axis=1)
    spectra = np.abs(np.fft.rfft(found[:, 4000:20000]))
    assert [int(spectrum.argmax()) for spectrum in spectra] == hertz
