"""Sound files and videos, made by FFmpeg when a test needs them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
CHAPTERS = [
    {"id": number, "start": 500 * number, "end": 500 * number + 500, "time_base": Fraction(1, 1000)}
    | {"metadata": {"title": title}}
    for number, title in enumerate(("One", "Two"))
]


def speech(samples: int, rate: int, channels: int) -> Waveform:
    """Noise below 3 kHz after a tenth of a second of silence: its correlation has one sharp peak."""
    spectrum = np.fft.rfft(np.random.default_rng(samples).standard_normal((channels, samples)), axis=1)
    spectrum[:, int(3000 / rate * samples) :] = 0
    waveform = np.fft.irfft(spectrum, samples, axis=1)
    waveform *= 0.1 / max(waveform.std(), 1e-9)
    waveform[:, : rate // 10] = 0
    return np.clip(waveform, -0.9, 0.9).astype(np.float32)


def encode(stream: Any, waveform: Waveform, rate: int, start: int = 0) -> list[Any]:
    """Return the packets of a waveform."""
    context = stream.codec_context
    context.open(strict=False)  # it may be open
    size, packets = context.frame_size or 1024, []
    resampler = av.AudioResampler(format=context.format, layout=context.layout, rate=rate)
    for place in range(0, waveform.shape[1], size):
        piece = np.ascontiguousarray(waveform[:, place : place + size])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=context.layout.name)
        frame.sample_rate = rate
        for converted in resampler.resample(frame):
            converted.pts, converted.time_base = start + place, Fraction(1, rate)
            packets += stream.encode(converted)
    return packets + stream.encode(None)


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Waveform]:
    """Return a function that writes a sound file, and gives the waveform that it was made of."""

    def write(
        name: str,
        muxer: str,
        codec: str,
        rate: int = 16000,
        channels: int = 1,
        samples: int = 0,
        bit_rate: int = 0,
        sample_format: str = "",
        options: dict[str, str] = {},  # noqa: B006
    ) -> Waveform:
        if not _has_encoder(codec):
            pytest.skip(f"PyAV was built without the encoder {codec}")
        waveform = speech(samples or rate + 123, rate, channels)
        with av.open(tmp_path / name, "w", format=muxer, container_options=options) as file:
            file.metadata.update({"title": "Grüße", "artist": "N. N."})
            stream: Any = file.add_stream(codec, rate=rate, layout=LAYOUTS[channels])
            stream.codec_context.options = {"strict": "-2"}
            if sample_format:
                stream.codec_context.format = sample_format
            if bit_rate:
                stream.bit_rate = bit_rate
            for packet in encode(stream, waveform, rate):
                file.mux(packet)
        return waveform

    return write


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., list[Waveform]]:
    """Return a function that writes a video of two seconds, and gives the waveforms of its audio streams."""

    def write(
        name: str,
        muxer: str,
        codec: str = "aac",
        picture: str = "mpeg4",
        streams: int = 1,
        start: float = 0.0,
        picture_start: float = 0.0,
        subtitles: str = "",
        attachment: bool = False,
        gap: float = 0.0,
    ) -> list[Waveform]:
        rate = 48000
        waveforms = [speech(2 * rate + number, rate, 2) for number in range(streams)]
        packets: list[Any] = []
        with av.open(tmp_path / name, "w", format=muxer) as file:
            file.metadata["title"] = "A video"
            images: Any = file.add_stream(picture, rate=25)
            images.width, images.height, images.pix_fmt = 64, 48, "yuv420p"
            sounds: list[Any] = [
                file.add_stream(codec, rate=rate, layout="stereo", bit_rate=128_000) for _ in range(streams)
            ]
            for sound, language in zip(sounds, ("eng", "deu"), strict=False):
                sound.metadata["language"] = language
            text: Any = file.add_mux_stream(subtitles) if subtitles else None
            if attachment:
                file.add_attachment("a.ttf", "application/x-truetype-font", b"font" * 100)
            file.set_chapters(CHAPTERS)
            for number in range(50):
                image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 5, np.uint8), "rgb24")
                image.pts, image.time_base = number + round(picture_start * 25), Fraction(1, 25)
                packets += images.encode(image)
            packets += images.encode(None)
            for sound, waveform in zip(sounds, waveforms, strict=True):
                found = encode(sound, waveform, rate, round(start * rate))
                for packet in found[len(found) // 2 :] if gap else []:
                    packet.pts += round(gap * rate)
                    packet.dts += round(gap * rate)
                packets += found
            for number in range(2) if subtitles else ():
                packet = av.Packet(b"\0\5hello" if subtitles == "mov_text" else b"hello")
                packet.pts = packet.dts = 300 + 900 * number
                packet.duration, packet.time_base, packet.stream = 400, Fraction(1, 1000), text
                packets.append(packet)
            for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
                file.mux(packet)
        return waveforms

    return write


def _has_encoder(codec: str) -> bool:
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
