"""Networks that see whole utterances, on windows of a recording."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sbm_cli.stream.windows import Carry, enhance_windows


def run(frames: Tensor, cuts: list[int], length: int, fade: int) -> tuple[Tensor, Carry, list[Tensor]]:
    """Enhance by halving, block by block; return the estimate, not late any more, and the windows seen."""
    calls: list[Tensor] = []

    def enhance(window: Tensor) -> Tensor:
        calls.append(window)
        return window[0] / 2

    padded = torch.cat([frames, frames.new_zeros(*frames.shape[:3], length)], -1)
    carry, parts = None, []
    for block in padded.split([*cuts, length], -1):
        estimate, carry = enhance_windows(enhance, block, carry, length, fade)
        assert estimate.shape == block.shape[1:]
        parts.append(estimate)
    assert carry is not None
    return torch.cat(parts, -1)[..., length:], carry, calls


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("length", "fade"), [(8, 0), (8, 4), (12, 3), (6, 1)])
@pytest.mark.parametrize("cuts", [[50], [1] * 50, [3, 0, 17, 30]])
def test_what_needs_no_windows_is_not_changed(length: int, fade: int, cuts: list[int]) -> None:
    frames = noise(3, 2, 33, 50)
    estimate, carry, _ = run(frames, cuts, length, fade)
    torch.testing.assert_close(estimate, frames[0] / 2, rtol=0, atol=1e-6)
    assert carry.seen.shape[-1] < length and carry.ready.shape[-1] <= length  # however long it went on


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_a_short_recording_goes_through_whole(frames: int) -> None:
    """In one call for each channel, which sees neither the zeros after it nor the other channel."""
    noisy = noise(2, 2, 33, frames)
    *_, calls = run(noisy, [frames], 8, 0)
    assert len(calls) == 2
    for row, call in enumerate(calls):
        torch.testing.assert_close(call, noisy[:, row : row + 1])


def test_silence_stays_silence() -> None:
    silent, _, calls = run(torch.zeros(1, 1, 33, 20, dtype=torch.complex64), [20], 8, 2)
    assert not silent.any() and not calls


def test_one_window_fades_into_the_next() -> None:
    numbers = iter([1.0, 2.0, 3.0])
    estimate, _ = enhance_windows(lambda seen: torch.full_like(seen[0], next(numbers)), noise(1, 1, 1, 18), None, 8, 3)
    torch.testing.assert_close(estimate[0, 0, 8:].real, torch.tensor([1, 1, 1, 1, 1, 1.25, 1.5, 1.75, 2, 2]))
