"""A recording before and after, as spectrograms on one scale."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.samples import Samples
from sbm_cli.errors import needing
from sbm_cli.plot.chart import ticks

WIDTH, HEIGHT = 1000, 300  # pixels of one spectrogram
LABELS, LINE = 64, 26  # pixels left of it; above and below it
WINDOW = 0.032  # seconds
RANGE = 80.0  # dB that the colours span, below the loudest point of both
MARGIN, INK, GRID = 24, "#222222", "#dddddd"  # pixels around; of text; of lines
COLOURS = (0x000004, 0x3B0F70, 0x8C2981, 0xDE4968, 0xFE9F6D, 0xFCFDBF)  # six of matplotlib's magma


def require_pillow() -> None:
    """Raise DependencyError if pictures cannot be drawn."""
    with needing("plot", "a picture"):
        import PIL  # noqa: F401


@dataclass(frozen=True)
class Spectrogram:
    """Mean power [columns, frequencies] of a recording, from 0 Hz to rate / 2."""

    power: NDArray[np.float64]
    rate: int
    seconds: float


def spectrogram(path: Path, replace_nan: bool = False) -> Spectrogram:
    """Return the mean power of all channels in at most WIDTH columns, at constant memory.

    Raises AudioError if the recording cannot be read.
    """
    with SoundReader(path, replace_nan) as reader:
        form, samples = reader.format, reader.format.samples
        if samples is None:
            with SoundReader(path, replace_nan) as other:
                samples = sum(block.shape[1] for block in other.blocks(form.rate))
        return spectrogram_of(reader.blocks(form.rate), form.rate, form.channels, samples)


def spectrogram_of(blocks: Iterable[Samples], rate: int, channels: int, samples: int) -> Spectrogram:
    """Return the same of blocks [channels, n] that have so many samples in total."""
    window = 2 * max(1, round(WINDOW * rate / 2))
    hop = min(window // 2, max(1, samples // WIDTH))
    frames = samples // hop + 1
    columns = min(WIDTH, frames)
    power, counts = np.zeros((columns, window // 2 + 1)), np.zeros(columns)
    rest, done = np.zeros((channels, 0), np.float32), 0
    for block in itertools.chain(blocks, [np.zeros((channels, window), np.float32)]):
        rest = np.concatenate([rest, block], axis=1)
        if rest.shape[1] < window:
            continue
        cut = np.lib.stride_tricks.sliding_window_view(rest, window, axis=1)[:, ::hop]  # [channels, n, window]
        spectra = np.abs(np.fft.rfft(cut * np.hanning(window).astype(np.float32))) ** 2
        places = np.arange(done, done + cut.shape[1]) * columns // frames
        np.add.at(power, places, spectra.mean(0) / window**2)
        np.add.at(counts, places, 1)
        rest, done = rest[:, cut.shape[1] * hop :], done + cut.shape[1]
    return Spectrogram(power / counts[:, None], rate, samples / rate)


def draw(before: Spectrogram, after: Spectrogram, path: Path | BinaryIO) -> None:
    """Write a PNG: before above after, on the same scales of colour, frequency and time.

    Raises DependencyError without Pillow.
    """
    require_pillow()
    from PIL import Image, ImageDraw, ImageFont

    top = max(before.power.max(), after.power.max())
    rate, seconds = max(before.rate, after.rate), max(before.seconds, after.seconds, 1e-3)
    panel = LINE + HEIGHT + LINE
    image = Image.new("RGB", (LABELS + WIDTH + MARGIN, 2 * panel + 2 * MARGIN), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for index, (name, shown) in enumerate((("before", before), ("after", after))):
        upper = MARGIN + index * panel + LINE
        lower = upper + HEIGHT
        pen.text((LABELS, upper - 6), f"{name}; {RANGE:.0f} dB from black to the brightest", INK, font, anchor="ls")
        pen.rectangle((LABELS, upper, LABELS + WIDTH, lower), "black")
        height = max(1, round(HEIGHT * shown.rate / rate))
        scaled = Image.fromarray(_colours(shown.power, top)).resize((WIDTH, height), Image.Resampling.BOX)
        image.paste(scaled, (LABELS, lower - height))
        for hertz in ticks(0, rate / 2, HEIGHT // 40):
            y = lower - HEIGHT * hertz / (rate / 2)
            pen.line((LABELS - 5, y, LABELS, y), GRID)
            pen.text((LABELS - 8, y), f"{hertz / 1000:g} kHz", INK, font, anchor="rm")
        for second in ticks(0, seconds, WIDTH // 100):
            x = LABELS + WIDTH * second / seconds
            pen.line((x, lower, x, lower + 5), GRID)
            pen.text((x, lower + 8), f"{second:g} s", INK, font, anchor="mt")
    image.save(path, "PNG")


def brightness(power: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """Return powers on the scale of the pictures: 1 is that of `top`, 0 what lies RANGE dB below."""
    return 1 + 10 * np.log10((power + 1e-30) / max(top, 1e-12)) / RANGE


def _colours(power: NDArray[np.float64], top: float) -> NDArray[np.uint8]:
    """Return the picture [frequencies, columns, 3], highest frequency first."""
    heights = brightness(power.T[::-1], top)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(heights, stops, [colour >> shift & 255 for colour in COLOURS]) for shift in (16, 8, 0)]
    return np.stack(channels, -1).round().astype(np.uint8)
