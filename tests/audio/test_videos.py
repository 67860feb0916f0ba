"""Videos: another sound, in time with what is copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sbm_cli.audio.io import SoundReader
from sbm_cli.errors import AudioError
from tests.audio.conftest import CHAPTERS, speech
from tests.audio.test_formats import assert_same_video, heard, lag, packets, read, rewrite, without_filling

Video = Callable[..., Any]


@pytest.mark.parametrize(
    ("suffix", "made"),
    [
        (".mp4", {"muxer": "mp4", "start": 0.321}),
        (".mp4", {"muxer": "mp4", "picture_start": 0.4}),
        (".mp4", {"muxer": "mp4", "subtitles": "mov_text"}),
        (".mov", {"muxer": "mov", "codec": "pcm_s16le", "start": 0.1}),
        (".mkv", {"muxer": "matroska", "start": 0.123, "subtitles": "subrip", "attachment": True}),
        (".ts", {"muxer": "mpegts", "start": 0.2}),
        (".avi", {"muxer": "avi", "codec": "libmp3lame"}),
    ],
    ids=lambda value: str(value),
)
def test_the_sound_stays_in_time(tmp_path: Path, video: Video, suffix: str, made: dict[str, Any]) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    video(source.name, **made)
    assert without_filling(rewrite(source, target)) == []
    assert_same_video(source, target)
    assert 0 <= heard(target)[1].size - heard(source)[1].size <= 2304


def test_again_and_again_it_stays_in_time(tmp_path: Path, video: Video) -> None:
    (waveform,) = video("0.mp4", "mp4", start=0.25)
    for number in range(4):
        rewrite(tmp_path / f"{number}.mp4", tmp_path / f"{number + 1}.mp4")
    assert_same_video(tmp_path / "0.mp4", tmp_path / "4.mp4")
    start, found = heard(tmp_path / "4.mp4")
    assert abs(start + lag(found, waveform[0]) / 48000 - 0.25) < 1e-3
    assert read(tmp_path / "4.mp4")[1].shape == read(tmp_path / "0.mp4")[1].shape


def test_no_sound_is_lost_between_containers_that_tell_and_those_that_do_not(tmp_path: Path, video: Video) -> None:
    """The beginning of an MP4 is sound already, of a raw stream what the encoder put there."""
    (waveform,) = video("0.mp4", "mp4")
    expected = read(tmp_path / "0.mp4")[1].shape[1]
    for number, suffix in enumerate((".aac", ".mkv", ".aac", ".mp4", ".ts", ".m4a")):
        source = next(tmp_path.glob(f"{number}.*"))
        rewrite(source, tmp_path / f"{number + 1}{suffix}")
        _, found, _ = read(tmp_path / f"{number + 1}{suffix}")
        assert lag(found[0], waveform[0]) == 0, suffix
        assert found.shape[1] >= expected


def test_a_clock_that_begins_anew_is_no_gap(tmp_path: Path, video: Video) -> None:
    video("in.mkv", "matroska", gap=5000.0)
    assert read(tmp_path / "in.mkv")[1].shape[1] == pytest.approx(2 * 48000, abs=1500)


def test_a_gap_in_the_sound_beside_a_picture_is_silence(tmp_path: Path, video: Video) -> None:
    """What a camera or a meeting did not record must not let the rest come early."""
    video("in.mkv", "matroska", gap=0.5)
    _, found, _ = read(tmp_path / "in.mkv")
    assert found.shape[1] == pytest.approx(2.5 * 48000, abs=1500)
    silent = np.abs(found[0]).max(initial=0) > 0
    assert silent
    quiet = np.abs(found[0, 50_000:70_000]).max()
    assert quiet == 0
    rewrite(tmp_path / "in.mkv", tmp_path / "out.mkv")
    late = read(tmp_path / "out.mkv")[1][0]
    assert abs(lag(late[75_000:110_000], found[0, 75_000:110_000])) < 48


def test_chapters_tags_languages_and_attachments_stay(tmp_path: Path, video: Video) -> None:
    video("in.mkv", "matroska", streams=2, subtitles="subrip", attachment=True)
    assert rewrite(tmp_path / "in.mkv", tmp_path / "out.mkv") == []
    with av.open(tmp_path / "in.mkv") as before, av.open(tmp_path / "out.mkv") as after:
        assert [stream.type for stream in after.streams] == [stream.type for stream in before.streams]
        assert [stream.language for stream in after.streams] == [stream.language for stream in before.streams]
        assert [entry["metadata"] for entry in after.chapters()] == [entry["metadata"] for entry in CHAPTERS]
        assert after.metadata["title"] == "A video"
        assert [bytes(each.data) for each in after.streams.attachments] == [
            bytes(each.data) for each in before.streams.attachments
        ]


def test_tags_of_other_encodings_stay_as_they_are(tmp_path: Path, video: Video) -> None:
    video("in.avi", "avi", "libmp3lame")
    latin = "Größe!".encode("latin-1")
    content = (tmp_path / "in.avi").read_bytes()
    (tmp_path / "in.avi").write_bytes(content.replace(b"A video", latin))
    assert without_filling(rewrite(tmp_path / "in.avi", tmp_path / "out.avi")) == []
    assert latin in (tmp_path / "out.avi").read_bytes()
    assert ("title", "Größe!") in read(tmp_path / "in.avi")[0].tags


def test_what_has_no_room_is_named(tmp_path: Path, video: Video) -> None:
    video("in.mkv", "matroska", streams=2, subtitles="subrip", attachment=True)
    picture, rest = "1 video stream (mpeg4)", ["1 audio stream (aac)", "1 subtitle stream (subrip)", "1 attachment"]
    for suffix, expected in {
        ".ts": [*rest[1:], "2 chapters", "title"],
        ".webm": [picture, *rest, "AAC becomes OPUS"],
        ".m4a": [picture, *rest],
        ".aac": [picture, *rest, "2 chapters", "title"],
        ".wav": [picture, *rest, "2 chapters"],
        ".w64": [picture, *rest, "2 chapters", "title"],
    }.items():
        told = rewrite(tmp_path / "in.mkv", tmp_path / f"out{suffix}")
        assert sorted(told) == sorted(expected), suffix


def test_one_of_several_streams_is_taken_and_the_others_copied(tmp_path: Path, video: Video) -> None:
    waveforms = video("in.mp4", "mp4", streams=2)
    for number in (1, 2):
        target = tmp_path / f"{number}.mp4"
        rewrite(tmp_path / "in.mp4", target, stream=number)
        with av.open(tmp_path / "in.mp4") as before, av.open(target) as after:
            kept = [
                [bytes(packet) for packet in file.demux(file.streams.audio[2 - number]) if packet.size]
                for file in (before, after)
            ]
        assert kept[0] == kept[1]
        assert lag(heard(target, number - 1)[1], waveforms[number - 1][0]) == 0
    with pytest.raises(AudioError, match="has 2 audio streams, not 3") as caught:
        SoundReader(tmp_path / "in.mp4", stream=3)
    assert '`audio_stream=1` to 2, or "all"' in caught.value.hint


def test_cover_and_chapters_of_an_audiobook_stay(tmp_path: Path) -> None:
    picture: Any
    with av.open(tmp_path / "in.m4b", "w", format="mp4") as file:
        file.metadata.update({"title": "Buch", "album": "Bücher"})
        sound: Any = file.add_stream("aac", rate=44100, layout="mono")
        picture = file.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
        picture.disposition = 0x400
        file.set_chapters(CHAPTERS)
        image = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 99, np.uint8), "rgb24")
        for packet in [*picture.encode(image), *picture.encode(None)]:
            file.mux(packet)
        frame = av.AudioFrame.from_ndarray(speech(44100, 44100, 1)[:, :1024], format="fltp", layout="mono")
        frame.sample_rate = 44100
        for number in range(43):
            frame.pts = 1024 * number
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    assert rewrite(tmp_path / "in.m4b", tmp_path / "out.m4b") == []
    assert list(packets(tmp_path / "out.m4b").values())[0] == list(packets(tmp_path / "in.m4b").values())[0]
    with av.open(tmp_path / "out.m4b") as after:
        assert {name: after.metadata[name] for name in ("title", "album")} == {"title": "Buch", "album": "Bücher"}
        assert [entry["metadata"]["title"] for entry in after.chapters()] == ["One", "Two"]
        assert len(after.streams.video) == 1


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    with av.open(tmp_path / "in.mp4", "w") as file:
        picture: Any = file.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        for packet in [*picture.encode(image), *picture.encode(None)]:
            file.mux(packet)
    with pytest.raises(AudioError, match="holds no sound"):
        SoundReader(tmp_path / "in.mp4")
