"""Linear filters by fast Fourier transform, all in float32: rooms, shelves, band limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft  # its float32 rfft is three times as fast as NumPy's

from sbm_cli.training.data import RATE, Samples
from sbm_cli.training.rooms import LEAD, Room


def reverberate(dry: Samples, room: Room) -> tuple[Samples, Samples]:
    """Return dry speech in the room and the target (direct sound and 6 ms), both [samples], at lag 0 to `dry`."""
    n = len(dry)
    size = fast_length(n + len(room.response))
    spectrum = forward(dry, size)
    wet, target = (back(spectrum * forward(part, size), size) for part in (room.response, room.early))
    return wet[LEAD : LEAD + n], target[LEAD : LEAD + n]


def through_room(noise: Samples, room: Room) -> Samples:
    """Convolve noise with a response cyclically: it was there before the segment began."""
    n = len(noise)
    return back(forward(noise, n) * forward(room.response[:n], n), n)


def shelved(audio: Samples, low_db: float, high_db: float) -> Samples:
    """Raise or lower both ends of the spectrum: shelves with their half-way points at 300 Hz and 3 kHz."""
    size = fast_length(len(audio))
    f = np.linspace(0, RATE / 2, size // 2 + 1, dtype=np.float32)
    low, high = 1 / (1 + (f / 300) ** 2), 1 - 1 / (1 + (f / 3000) ** 2)
    gain = np.exp((low * np.float32(low_db) + high * np.float32(high_db)) * np.float32(np.log(10) / 20))
    return back(forward(audio, size) * gain, size)[: len(audio)]


def band_limited(waveforms: list[Samples], low_hz: float, high_hz: float) -> list[Samples]:
    """Cut away what lies below low_hz and above high_hz, with slopes 100 and 400 Hz wide."""
    n = len(waveforms[0])
    size = fast_length(n + 480)  # 30 ms for the rims of the filter
    f = np.linspace(0, RATE / 2, size // 2 + 1, dtype=np.float32)
    gain = np.clip((np.float32(high_hz + 200) - f) / 400, 0, 1)
    if low_hz:
        gain *= np.clip((f - np.float32(low_hz - 50)) / 100, 0, 1)
    gain = np.sin(np.float32(np.pi / 2) * gain) ** 2
    return [back(forward(x, size) * gain, size)[:n] for x in waveforms]


def fast_length(n: int) -> int:
    return int(fft.next_fast_len(n, real=True))


def forward(audio: Samples, size: int) -> NDArray[np.complex64]:
    return np.asarray(fft.rfft(audio, size), np.complex64)


def back(spectrum: NDArray[np.complex64], size: int) -> Samples:
    return np.asarray(fft.irfft(spectrum, size), np.float32)
