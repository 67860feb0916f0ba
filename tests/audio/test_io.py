"""Reading and writing: every format comes back as it was, to the sample, however it is cut."""

import struct
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
from sbm_cli.errors import AudioError

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


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_floats_in_an_extensible_w64_are_floats(tmp_path: Path, kind: str) -> None:
    """FFmpeg and others write it, libsndfile would read it as integers: this is its header."""
    samples = np.tile(np.array([0.5, -0.25, 2.0], kind), 2001)
    width = samples.itemsize
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 16000 * width, width, 8 * width, 22, 8 * width, 4)
    fmt += bytes.fromhex("0300000000001000800000aa00389b71")
    rest = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the names of chunks
    chunks = b"fmt " + rest + struct.pack("<Q", 24 + len(fmt)) + fmt
    chunks += b"data" + rest + struct.pack("<Q", 24 + samples.nbytes) + samples.tobytes() + bytes(-samples.nbytes % 8)
    riff = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    path = tmp_path / "a.w64"
    path.write_bytes(riff + struct.pack("<Q", 40 + len(chunks)) + b"wave" + rest + chunks)
    form = read_format(path)
    assert (form.container, form.subtype) == ("W64", "FLOAT" if kind == "<f4" else "DOUBLE")
    assert np.array_equal(read(path), [samples])
    path.write_bytes(path.read_bytes()[: samples.nbytes // 2])
    with pytest.raises(AudioError, match="truncated"):
        read(path)


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
    assert np.array_equal(np.concatenate([first, *rest], axis=1), waveform)


# --- what cannot be read


# --- the writer leaves all or nothing


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
