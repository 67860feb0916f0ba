"""What samples can be: the range that everything after them can stand, full scale, and the scale of integers."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Samples = NDArray[np.float32]  # full scale 1; what the axes are, the function says

LIMIT = 1e12  # of a sample: the power of larger ones leaves float32

# The silence and full scale of integers as WAV files and their readers have them. No recording has 64 bits: that is
# what Python's numbers become.
_SCALES = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}


def usable(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which samples are finite and not absurdly large."""
    return np.abs(samples) < LIMIT  # false for NaN too


def full_scale_one(samples: ArrayLike) -> NDArray[np.float32]:
    """Return samples as float32 of full scale 1: integers scaled by their range, floats as they are.

    Raises ValueError for integers without a range that sound has, and for what is no real number.
    """
    samples = np.asarray(samples)
    kind = samples.dtype.name
    if kind in _SCALES:
        silence, full = _SCALES[kind]
        return ((samples.astype(np.float64) - silence) / full).astype(np.float32)
    if samples.dtype.kind != "f":
        raise ValueError(f"samples must be float, with full scale 1, or {', '.join(_SCALES)}, got {kind}")
    with np.errstate(over="ignore"):  # of float64: infinity, which `usable` finds
        return samples.astype(np.float32, copy=False)


def whole_rate(rate: float) -> int:
    """Return a sampling rate of any numeric type in Hz as an integer.

    Raises ValueError if it is none, or below 1 Hz.
    """
    try:
        is_whole = rate >= 1 and float(rate).is_integer()
    except TypeError:  # no number
        is_whole = False
    if not is_whole:
        raise ValueError(f"the sampling rate must be a whole number of Hz, at least 1, got {rate!r}")
    return int(rate)


def apply_clip_mode(block: Samples, mode: str = "clamp", peak: float = 0.0) -> tuple[Samples, int]:
    """Return the block ready for a format with a full scale, and how many of its samples are clipped.

    block: waveform [channels, samples], ±1 full scale; returned as it is where nothing has to change.
    mode: `clamp` limits to ±1; `rescale` divides by `peak`, the largest magnitude of the whole recording, where that
    exceeds 1; `none` leaves them to the writer, whose integer formats limit them all the same, and never wrap.
    """
    if mode == "rescale":
        return (block / np.float32(peak) if peak > 1 else block), 0
    clipped = int(np.count_nonzero(np.abs(block) > 1))
    if mode == "none" or clipped == 0:
        return block, clipped
    return np.clip(block, -1, 1), clipped
