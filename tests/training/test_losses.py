"""The loss is zero for the truth, grows with error, and has finite gradients in silence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sbm_cli.dsp.stft import Stft
from sbm_cli.model import ModelConfig
from sbm_cli.training.losses import FLOOR, LossConfig, enhancement_loss, snr
from sbm_cli.training.perceptual import disturbance

MODEL = ModelConfig("any")
STFT, COMPRESSION = MODEL.stft, MODEL.compression


def loss(config: LossConfig, estimate: Tensor, target: Tensor) -> Tensor:
    clean = COMPRESSION.compress(STFT.forward(target))
    level = torch.ones(len(target), clean.shape[2])
    return enhancement_loss(config, MODEL, estimate, clean, level, target)


def test_truth_costs_nothing_but_the_best_snr() -> None:
    target = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    truth = COMPRESSION.compress(STFT.forward(target))
    assert loss(LossConfig(snr=0.0), truth, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(LossConfig(), truth, target).item() == pytest.approx(-3, abs=0.02)  # log10 ratio, limited to 30 dB


def test_magnitude_and_complex_terms_have_their_stated_weight() -> None:
    """Against silence the spectra differ by |X|**0.3: 70 times its square for magnitudes, 30 for the two parts."""
    target = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros(1, STFT.bins, STFT.frames(4000), dtype=torch.complex64)
    energy = STFT.forward(target).abs().pow(0.6).mean().item()
    assert loss(LossConfig(complex=0.0, snr=0.0), silence, target).item() == pytest.approx(70 * energy, rel=0.02)
    assert loss(LossConfig(magnitude=0.0, snr=0.0), silence, target).item() == pytest.approx(30 * energy, rel=0.02)


def test_gradients_are_finite_in_silence() -> None:
    estimate = torch.zeros(1, STFT.bins, STFT.frames(2000), dtype=torch.complex64, requires_grad=True)
    loss(LossConfig(), estimate, torch.zeros(1, 2000)).backward()
    assert estimate.grad is not None and torch.isfinite(torch.view_as_real(estimate.grad)).all()


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 10.0])
def test_snr_of_added_noise(ratio_db: float) -> None:
    time = torch.arange(16000) * 2 * math.pi / 16000
    target, noise = (100 * time).sin()[None], (200 * time).sin()[None]
    ratio = snr(target + 10 ** (-ratio_db / 20) * noise, target)
    assert 10 * ratio.item() == pytest.approx(ratio_db, abs=0.1)


def test_snr_hears_a_wrong_loudness() -> None:
    target = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    assert 10 * snr(0.9 * target, target).item() == pytest.approx(20, abs=0.5)


def test_snr_ignores_a_silent_target() -> None:
    assert snr(torch.randn(1, 100), torch.zeros(1, 100)).item() == 0


def test_disturbance_has_its_stated_weight() -> None:
    target = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    half = COMPRESSION.compress(0.5 * STFT.forward(target))
    found = loss(LossConfig(magnitude=0.0, complex=0.0, snr=0.0, disturbance=3.0), half, target).item()
    assert found == pytest.approx(3 * disturbance(0.5 * target, target).mean().item(), rel=1e-3)


def test_multi_resolution_terms_have_their_stated_weight() -> None:
    """Against silence a spectrum of white noise differs by |X|**0.3, whatever the window."""
    target = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros(2, STFT.bins, STFT.frames(16000), dtype=torch.complex64)
    config = LossConfig(magnitude=0.0, complex=0.0, snr=1e-9, windows=(256, 1024))  # some term there must be
    power = [Stft(window, window, window // 2).forward(target).abs().square() for window in config.windows]
    sizes = [(p + FLOOR) ** 0.15 - FLOOR**0.15 for p in power]
    for term, expected in (
        ("multi_magnitude", sum(size.square().mean().item() for size in sizes)),
        ("multi_complex", sum(p.pow(0.3).mean().item() for p in power)),
    ):
        value = loss(replace(config, **{term: 500.0}), silence, target).item()  # type: ignore[arg-type]
        assert value == pytest.approx(500 * expected / 2, rel=0.01)


def test_multi_resolution_terms_do_not_hear_the_level() -> None:
    target = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    clean = COMPRESSION.compress(STFT.forward(target))
    estimate, config = 0.7 * clean, LossConfig(multi_magnitude=100.0, multi_complex=50.0, snr=0.0)
    values = []
    for gain in (1.0, 0.01):
        level = torch.full((1, clean.shape[2]), gain**2)
        values.append(enhancement_loss(config, MODEL, estimate, clean, level, gain * target).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4) and values[0] > 1


def test_gradients_of_all_terms_are_finite_in_silence_and_at_the_truth() -> None:
    config = LossConfig(multi_magnitude=500.0, multi_complex=500.0)
    for target in (torch.zeros(1, 2000), torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))):
        estimate = COMPRESSION.compress(STFT.forward(target)).requires_grad_()
        loss(config, estimate, target).backward()
        assert estimate.grad is not None and torch.isfinite(torch.view_as_real(estimate.grad)).all()


@pytest.mark.parametrize(
    "wrong",
    [{"magnitude": -1.0}, {"exponent": 0.0}, {"multi_complex": 1.0, "windows": ()}, {"windows": (255,)}],
)
def test_config_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LossConfig(**wrong)
