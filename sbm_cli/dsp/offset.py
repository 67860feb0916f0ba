"""A constant offset in a recording, which the ear does not hear and the network would take for the loudest sound."""

from __future__ import annotations

import math

from sbm_cli.arrays import Array
from sbm_cli.dsp.level import frame_power

SOUND_HZ = 80.0  # where sound begins: in the lobes of the windows an offset reaches so far


def first_bin(bin_hz: float) -> int:
    """Return the first frequency that counts as sound."""
    return math.ceil(SOUND_HZ / bin_hz)


def most_offset(low_hz: float) -> float:
    """Return the largest power of an offset beside the mean power of the sound, for a level that begins at low_hz.

    30 dB leave a recording as it is, bit for bit, unless its offset is some 4 dB above the sound itself. A level that
    counts the offset would rise with it, and take the sound for soft: 15 dB, which noise itself does not reach.
    """
    return 1000.0 if low_hz >= SOUND_HZ else 30.0


def limit_offset(spectrum: Array, constant: Array, bin_hz: float, most: float) -> Array:
    """Return the spectrum [channels, freq, frames] with an offset of at most so much; see `most_offset`.

    constant: the spectrum [freq] of a constant under the window of a frame.
    """
    offset = spectrum.real[:, 0]
    limit = (most * frame_power(spectrum, first_bin(bin_hz))) ** 0.5
    excess = offset - offset.clip(-limit, limit)
    # ONNX adds no dimension to complex numbers.
    return spectrum - (excess[..., None] * (constant / constant.real[0])).swapaxes(1, 2)
