"""What to do with samples beyond full scale before they are stored in a format that cannot hold them."""

import numpy as np

from sbm_cli.audio.samples import Samples


def apply_clip_mode(block: Samples, mode: str = "clamp", peak: float = 0.0) -> tuple[Samples, int]:
    """Return the block ready for a format with a full scale, and how many of its samples are clipped.

    block: waveform [channels, samples], ±1 full scale; returned as it is where nothing has to change.
    mode: `clamp` limits to ±1; `rescale` divides by `peak` where that exceeds 1, so nothing is clipped; `none` leaves
    them to the writer, whose integer formats limit them all the same (they never wrap), float formats not.
    peak: largest magnitude of the whole recording, all blocks and channels; only `rescale` needs it, and it must be
    known before the first block: one gain for the whole file, or blocks would differ in level.
    """
    if mode == "rescale":
        return (block / np.float32(peak) if peak > 1 else block), 0
    clipped = int(np.count_nonzero(np.abs(block) > 1))
    if mode == "none" or clipped == 0:
        return block, clipped
    return np.clip(block, -1, 1), clipped
