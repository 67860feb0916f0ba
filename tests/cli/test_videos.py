"""`sbm enhance` of videos, and of files of which not all can be kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from sbm_cli.audio.pipe import Pipe
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import Options


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def video(path: Path, streams: int) -> None:
    """Write half a second of picture and sound."""
    with av.open(path, "w") as file:
        picture: Any = file.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sounds: list[Any] = [file.add_stream("aac", rate=48000, layout="mono") for _ in range(streams)]
        image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        for number in range(13):
            image.pts = number
            file.mux(picture.encode(image))
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 1024)).astype(np.float32)
        for number in range(24):
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1024 * number
            for sound in sounds:
                file.mux(sound.encode(frame))
        for stream in (picture, *sounds):
            file.mux(stream.encode(None))


def test_the_sound_of_a_video_is_replaced(sbm: Any, folder: Path, model_file: Path) -> None:
    video(folder / "in.mp4", 2)

    def sizes(name: str) -> list[list[int]]:
        with av.open(folder / name) as file:
            packets = [packet for packet in file.demux() if packet.size]
            return [[packet.size for packet in packets if packet.stream.index == index] for index in range(3)]

    before = sizes("in.mp4")
    for choice, changed in ((), (1,)), (("--audio-stream", 2), (2,)), (("--audio-stream", "all"), (1, 2)):
        result = sbm("enhance", "in.mp4", "-o", "out.mp4", "-y", "-m", model_file, *choice)
        assert result.status == 0, result.err
        after = sizes("out.mp4")
        assert [index for index in range(3) if after[index] != before[index]] == list(changed)
        assert [len(each) for each in after] == [len(each) for each in before]
    result = sbm("enhance", "in.mp4", "-o", "out.wav", "-m", model_file, "--audio-stream", "all")
    assert result.status == 1 and "has room for only one of the 2 audio streams" in result.err
    for wrong, message in (("3", "has 2 audio streams, not 3"), ("0", "expected a number from 1, or all, got '0'")):
        result = sbm("enhance", "in.mp4", "-o", "no.mp4", "-m", model_file, "--audio-stream", wrong)
        assert result.status in (1, 2) and message in result.err
    assert not (folder / "no.mp4").exists() and not (folder / "out.wav").exists()


def test_the_streams_of_a_video_make_progress_together(folder: Path, model_file: Path) -> None:
    video(folder / "in.mp4", 2)
    told: list[tuple[float, float]] = []
    enhancer, options = Enhancer.load(model_file, "cpu"), Options(audio_stream="all")
    enhancer.enhance_file("in.mp4", "out.mp4", options, progress=lambda *at: told.append(at))
    (first, length), (last, _) = told
    assert (2 * first, last) == pytest.approx((length, length), abs=0.05)


def test_what_a_format_does_not_keep_is_told_in_a_line(sbm: Any, folder: Path, model_file: Path) -> None:
    soundfile.write(folder / "in.wav", np.zeros(2000), 16000, "IMA_ADPCM")
    result = sbm("enhance", "in.wav", "-o", "o.wav", "-m", model_file, "-q")
    assert result.err == "sbm: warning: in.wav: IMA_ADPCM becomes PCM_16\n"
    result = sbm("enhance", "in.wav", "-o", "o.ape", "-m", model_file)
    assert result.status == 2 and "can be read but not written" in result.err and "--ext flac" in result.err


def test_what_a_video_loses_in_a_file_of_sound_is_told_in_a_line(sbm: Any, folder: Path, model_file: Path) -> None:
    video(folder / "in.mp4", 2)
    result = sbm("enhance", "in.mp4", "-o", "o.wav", "-m", model_file, "-q")
    assert result.err == "sbm: warning: o.wav: not carried over: 1 video stream (mpeg4), 1 audio stream (aac)\n"


def test_a_codec_that_loses_something_is_told(sbm: Any, folder: Path, model_file: Path) -> None:
    soundfile.write(folder / "in.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 16000), 16000)
    for name, codec in (
        ("o.m4a", "(AAC, 80 kbit/s)"),
        ("o.mp3", "(MP3, "),
        ("o.opus", "(OPUS, "),
        ("o.mp2", "(MP2, 128"),
    ):
        assert f"in.wav -> {name} {codec}" in sbm("enhance", "in.wav", "-o", name, "-m", model_file).err
    assert "kbit/s" not in sbm("enhance", "in.wav", "-o", "o.flac", "-m", model_file).err


def test_a_video_through_pipes_is_the_video(folder: Path, model_file: Path) -> None:
    video(folder / "in.mp4", 1)
    enhancer = Enhancer.load(model_file, device="cpu")
    enhancer.enhance_file(folder / "in.mp4", folder / "out.mp4")
    stream, out = io.BytesIO((folder / "in.mp4").read_bytes()), io.BytesIO()
    stream.seekable = lambda: False  # type: ignore[method-assign]
    enhancer.enhance_file(Pipe(stream), Pipe(out, ".mp4"))
    assert out.getvalue() == (folder / "out.mp4").read_bytes()
