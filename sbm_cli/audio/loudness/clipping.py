"""What to do with samples beyond full scale before they are stored in a format that cannot hold them."""

import numpy as np
from numpy.typing import NDArray

CLIP_MODES = ("clamp", "rescale", "none")


def apply_clip_mode(
    block: NDArray[np.float32], mode: str = "clamp", peak: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Return the block ready for a format with a full scale, and how many of its samples are clipped.

    block: waveform [channels, samples], ±1 full scale; returned as it is where nothing has to change.
    mode: `clamp` limits to ±1; `rescale` divides by `peak` where that exceeds 1, so nothing is clipped; `none` leaves
    them to the writer, whose integer formats limit them all the same (they never wrap), float formats not.
    peak: largest magnitude of the whole recording, all blocks and channels; only `rescale` needs it, and it must be
    known before the first block: one gain for the whole file, or blocks would differ in level.

    Raises ValueError for an unknown mode, `rescale` without a peak, or a block that exceeds the peak it was given.
    """
    if mode not in CLIP_MODES:
        raise ValueError(f"clip mode must be one of {', '.join(CLIP_MODES)}, got {mode!r}")
    if mode == "rescale":
        if peak is None:
            raise ValueError("clip mode 'rescale' needs the peak of the whole recording before its first block")
        if block.size and float(np.abs(block).max()) > peak:
            raise ValueError(f"a sample of magnitude {np.abs(block).max():g} exceeds the given peak {peak:g}")
        return (block / np.float32(peak) if peak > 1 else block), 0
    clipped = int(np.count_nonzero(np.abs(block) > 1))
    if mode == "none" or clipped == 0:
        return block, clipped
    return np.clip(block, -1, 1), clipped
