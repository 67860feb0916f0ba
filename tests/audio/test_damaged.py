"""What is no sound, damaged, cut short or never finished: refused in words, or read to its end."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from sbm_cli.audio.format import AudioFormat, format_for
from sbm_cli.audio.io import SoundReader, read_format
from sbm_cli.errors import AudioError
from tests.audio.test_io import WAV, names, read, speechlike, wav_bytes, write


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_with_its_time_or_replaced(tmp_path: Path, bad: float) -> None:
    path, waveform = tmp_path / "a.wav", np.full((8000, 2), 0.5, np.float32)
    waveform[4000, 1] = waveform[6000, 0] = bad
    sf.write(path, waveform, 16000, subtype="FLOAT")
    with SoundReader(path) as reader, pytest.raises(AudioError, match=r"sample 4000 \(at 0\.250 s\)") as caught:
        list(reader.blocks(700))
    assert "`replace_nan=True`" in caught.value.hint
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


def test_a_flac_cut_short_says_how_much_is_readable_whatever_the_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write(path, speechlike(16000, 32000, 1), replace(WAV, container="FLAC"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])  # of which 3 frames of 4096 samples are whole
    for size in (300, 32000):
        with SoundReader(path) as reader, pytest.raises(AudioError, match=r"readable for 2\.768 of 4\.000 s"):
            list(reader.blocks(size))


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
