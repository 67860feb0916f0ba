"""One gain for linked channels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sbm_cli.dsp.chain import Chain
from sbm_cli.dsp.link import linked, shares
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import Options

RATE = 16000
ALL = np.ones((2, 1, 7), np.float32)  # shares of linked channels


def spectra(seed: int, channels: int = 2) -> np.ndarray:
    parts = np.random.default_rng(seed).standard_normal((channels, 5, 7, 2)).astype(np.float32)
    return np.asarray(parts.view(np.complex64)[..., 0])


@pytest.mark.parametrize(
    ("channels", "wanted", "expected"),
    [
        ([1, 2, 6], None, [slice(1, 3)]),
        ([1, 2, 6], True, [slice(1, 3), slice(3, 9)]),
        ([1, 2, 6], False, []),
    ],
)
def test_two_channels_are_linked_unless_told(channels: list[int], wanted: bool | None, expected: list[slice]) -> None:
    model = SimpleNamespace(config=None, frames_late=lambda sampler, steps: 0)
    assert Chain(model, channels, Options(link_channels=wanted), high=False).links == expected  # type: ignore[arg-type]


def test_it_is_the_fit_of_one_gain_per_bin() -> None:
    clean, noisy = spectra(0), spectra(1)
    found = linked(clean, noisy, ALL)
    gain = found / noisy
    np.testing.assert_allclose(gain[0], gain[1], atol=1e-4)
    fitted = [
        np.linalg.lstsq(noisy[:, k, t, None], clean[:, k, t], rcond=None)[0][0] for k in range(5) for t in range(7)
    ]
    np.testing.assert_allclose(gain[0].ravel(), fitted, atol=1e-4)
    in_torch = linked(*(torch.from_numpy(x) for x in (clean, noisy, ALL)))
    np.testing.assert_allclose(in_torch.numpy(), found, atol=1e-6)
    np.testing.assert_allclose(linked(clean, noisy, 0 * ALL), clean, atol=1e-5)


def test_equal_channels_and_silence_stay_what_they_are() -> None:
    clean, noisy = (np.repeat(spectra(seed, 1), 2, axis=0) for seed in (0, 1))
    np.testing.assert_allclose(linked(clean, noisy, ALL), clean, atol=1e-5)
    for share in (0, 1):
        assert not linked(clean, np.zeros_like(noisy), share * ALL).any()


def test_a_channel_is_linked_unless_another_is_far_louder() -> None:
    level = np.array([[1, 1e-3, 0], [0.1, 1e-4, 0], [0.03, 1, 0], [1e-3, 0, 0]], np.float32)
    found = shares(level)
    np.testing.assert_array_equal(found[[0, 1, 3]], [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert 0 < found[2, 0] < 1 and list(found[2, 1:]) == [1, 0]
    np.testing.assert_array_equal(shares(torch.from_numpy(level)).numpy(), found)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return Enhancer.load("sbm-small", device="cpu")


def panned() -> tuple[np.ndarray, np.ndarray]:
    """Return a talker of vowels, 6 dB softer and 5 samples later on the right, alone and in noise of both sides."""
    draw, time = np.random.default_rng(3), np.arange(8 * RATE) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    voice = sum(np.sin(k * pitch) / k for k in range(1, 60)) * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)
    speech = 0.05 * np.stack([voice, 0.5 * np.roll(voice, 5)])
    return speech.astype(np.float32), (speech + 0.003 * draw.standard_normal(speech.shape)).astype(np.float32)


def image(samples: np.ndarray, speech: np.ndarray) -> tuple[float, float]:
    """Return by how many dB and degrees the speech in the channels was moved apart, the mean of bands of 500 Hz."""
    found, given = (
        np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, 512, axis=1)[:, ::128] * np.hanning(512))
        for x in (samples, speech)
    )
    moved = []
    for first in range(2, 130, 16):
        band = slice(first, first + 16)
        s, x = given[:, :, band], found[:, :, band]
        loud = (abs(s) ** 2).sum(0) > 1e-2 * (abs(s) ** 2).sum(0).max()
        left, right = ((x[c][loud] * s[c][loud].conj()).sum() / (abs(s[c][loud]) ** 2).sum() for c in (0, 1))
        moved.append((abs(20 * np.log10(abs(left / right))), abs(np.degrees(np.angle(left / right)))))
    return tuple(np.mean(moved, axis=0))


@pytest.mark.parametrize("options", [Options(), Options(dtype="bfloat16")], ids=["compiled", "torch"])
def test_a_panned_talker_stays_in_place(enhancer: Enhancer, options: Options) -> None:
    speech, noisy = panned()
    level, phase = image(enhancer.enhance(noisy, RATE, options), speech)
    assert level < 0.5 and phase < 5
    apart, _ = image(enhancer.enhance(noisy, RATE, replace(options, link_channels=False)), speech)
    assert apart > 3 * level


@pytest.mark.parametrize("options", [Options(), Options(dtype="bfloat16")], ids=["compiled", "torch"])
def test_a_far_softer_channel_is_as_loud_as_alone(enhancer: Enhancer, options: Options) -> None:
    _, (noisy, other) = panned()
    both = np.stack([np.roll(noisy, RATE // 5), 0.02 * other])  # the loud one is silent where the soft one talks
    alone = enhancer.enhance(both, RATE, replace(options, link_channels=False))[1]
    found = enhancer.enhance(both, RATE, options)[1]
    assert 20 * np.log10(found @ alone / (alone @ alone)) == pytest.approx(0, abs=0.5)


def test_the_engine_links_as_torch_does(enhancer: Enhancer) -> None:
    _, noisy = panned()
    compiled = enhancer.enhance(noisy, RATE)
    apart = enhancer.enhance(noisy, RATE, Options(link_channels=False))
    half = enhancer.enhance(noisy, RATE, Options(dtype="bfloat16"))
    error, step = np.sqrt(np.square(compiled - half).mean()), np.sqrt(np.square(compiled - apart).mean())
    assert error < 0.2 * step
    np.testing.assert_array_equal(enhancer.enhance(noisy[0], RATE), enhancer.enhance(noisy[:1], RATE)[0])


def test_the_high_band_is_linked_too(enhancer: Enhancer) -> None:
    draw = np.random.default_rng(0)
    noisy = np.stack([draw.normal(0, 0.1, 48000), draw.normal(0, 0.03, 48000)]).astype(np.float32)
    found = enhancer.enhance(noisy, 48000)
    spectrum_in, spectrum_out = (abs(np.fft.rfft(x[:, 8000:40000]))[:, 10000:] ** 2 for x in (noisy, found))
    gains = spectrum_out.sum(1) / spectrum_in.sum(1)
    assert gains[0] == pytest.approx(gains[1], rel=0.1)
