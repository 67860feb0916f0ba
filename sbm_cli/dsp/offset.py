"""A constant offset in a recording, which the ear does not hear and the network would take for the loudest sound."""

from __future__ import annotations

import math

from sbm_cli.arrays import Array
from sbm_cli.dsp.level import frame_power

MOST = 1000.0  # 30 dB


def first_bin(bin_hz: float) -> int:
    """Return the first frequency that counts as sound: in the lobes of the windows an offset reaches up to 80 Hz."""
    return math.ceil(80.0 / bin_hz)


def limit_offset(spectrum: Array, constant: Array, bin_hz: float) -> Array:
    """Return the spectrum [channels, freq, frames] with its offset at most 30 dB above the mean power from 80 Hz on.

    That leaves a recording as it is, bit for bit, unless its offset is some 4 dB above the sound itself.
    constant: the spectrum [freq] of a constant under the window of a frame.
    """
    offset = spectrum.real[:, 0]
    most = (MOST * frame_power(spectrum, first_bin(bin_hz))) ** 0.5
    excess = offset - offset.clip(-most, most)
    # ONNX adds no dimension to complex numbers.
    limited: Array = spectrum - (excess[..., None] * (constant / constant.real[0])).swapaxes(1, 2)
    return limited
