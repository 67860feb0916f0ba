"""Clip modes: what is limited, what is counted, what is left alone."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.audio.samples import apply_clip_mode
from sbm_cli.options import ClipMode

CLIP_MODES: tuple[str, ...] = get_args(ClipMode)
BLOCK = np.array([[0.5, -1.5, 1.0], [2.0, -1.0, 0.0]], np.float32)


def test_clamp_is_the_default_and_counts() -> None:
    block, clipped = apply_clip_mode(BLOCK)
    assert block.tolist() == [[0.5, -1.0, 1.0], [1.0, -1.0, 0.0]]
    assert clipped == 2
    assert float(np.abs(BLOCK).max()) == 2  # the caller's samples are untouched


def test_none_leaves_and_counts() -> None:
    block, clipped = apply_clip_mode(BLOCK, "none")
    assert np.array_equal(block, BLOCK)
    assert clipped == 2


def test_rescale_divides_by_the_peak_of_the_recording_and_clips_nothing() -> None:
    block, clipped = apply_clip_mode(BLOCK, "rescale", peak=4)
    assert np.array_equal(block, BLOCK / 4)
    assert clipped == 0
    assert block.dtype == np.float32


@pytest.mark.parametrize("mode", CLIP_MODES)
def test_what_fits_passes_as_it_is(mode: str) -> None:
    quiet = (BLOCK / 2).astype(np.float32)
    block, clipped = apply_clip_mode(quiet, mode, peak=1.0)
    assert block is quiet
    assert clipped == 0


@pytest.mark.parametrize("mode", CLIP_MODES)
def test_an_empty_block_is_no_problem(mode: str) -> None:
    block, clipped = apply_clip_mode(np.zeros((2, 0), np.float32), mode, peak=0.0)
    assert block.shape == (2, 0)
    assert clipped == 0


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20), st.integers(1, 5))
def test_cutting_into_blocks_changes_nothing(values: list[float], size: int) -> None:
    whole = np.array([values], np.float32)
    peak = float(np.abs(whole).max())
    for mode in CLIP_MODES:
        expected, count = apply_clip_mode(whole, mode, peak)
        parts = [apply_clip_mode(whole[:, i : i + size], mode, peak) for i in range(0, len(values), size)]
        assert np.array_equal(np.concatenate([part for part, _ in parts], axis=1), expected)
        assert sum(number for _, number in parts) == count
        assert mode == "none" or float(np.abs(expected).max()) <= 1
