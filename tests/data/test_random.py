"""Counter-based random numbers: known answers, keys, splits of a batch, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sbm_cli.data.random import normals, philox, uniforms

WORD = st.integers(0, 2**32 - 1)
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    """kat_vectors of Random123 (Salmon et al.), philox4x32 10."""
    assert tuple(int(word) for word in philox([torch.tensor(word) for word in counter], key)) == answer


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), WORD, st.lists(WORD, min_size=1, max_size=6), st.integers(0, 255), st.integers(1, 9))
def test_a_number_depends_on_its_key_alone(seed: int, step: int, items: list[int], stream: int, count: int) -> None:
    for draw in (uniforms, normals):
        whole = draw(seed, step, torch.tensor(items), stream, count + 5)
        parts = [draw(seed, step, torch.tensor([item]), stream, count) for item in items]
        assert whole.dtype == torch.float32 and whole.shape == (len(items), count + 5)
        assert torch.equal(whole[:, :count], torch.cat(parts))


def test_neighbouring_keys_are_independent() -> None:
    """Every word of the key decides, both halves of the seed too, and correlations are those of independent numbers."""
    n, items = 4000, torch.tensor([7])
    keys = [(1, 5, 7, 0), (2, 5, 7, 0), (1 + 2**32, 5, 7, 0), (1, 6, 7, 0), (1, 5, 8, 0), (1, 5, 7, 1), (5, 1, 7, 0)]
    for draw in (uniforms, normals):
        rows = [draw(seed, step, items * 0 + item, stream, n)[0] for seed, step, item, stream in keys]
        correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(len(keys))
        assert correlation.abs().max() < 4.5 / n**0.5
        assert abs(torch.corrcoef(torch.stack([rows[0][1:], rows[0][:-1]]))[0, 1]) < 4.5 / n**0.5


def test_distributions() -> None:
    items = torch.arange(100)
    flat = np.sort(uniforms(3, 0, items, 1, 1000).numpy().ravel())
    assert flat[0] >= 0 and flat[-1] < 1
    bound = 1.95 / len(flat) ** 0.5  # Kolmogorov-Smirnov at p = 0.001
    assert np.abs(flat - np.arange(len(flat)) / len(flat)).max() < bound
    bell = np.sort(normals(3, 0, items, 1, 1000).numpy().ravel())
    normal = 0.5 * (1 + torch.erf(torch.from_numpy(bell) / 2**0.5)).numpy()
    assert np.abs(normal - np.arange(len(bell)) / len(bell)).max() < bound
    assert 4 < np.abs(bell).max() < 7 and np.isfinite(bell).all()


@pytest.mark.cuda
def test_cuda_gives_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    items = torch.tensor([0, 1, 2**32 - 1])
    assert torch.equal(uniforms(9, 4, items, 1, 999), uniforms(9, 4, items.cuda(), 1, 999).cpu())
    torch.testing.assert_close(normals(9, 4, items, 1, 999), normals(9, 4, items.cuda(), 1, 999).cpu())
