"""The audible disturbance: its zeros, its order, its gradient, and PESQ beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sbm_cli.training.perceptual import disturbance


def speech_like(items: int, samples: int = 40000) -> Tensor:
    """Return buzzes [items, samples] that come and go like syllables."""
    time = torch.arange(samples) / 16000
    pitches = 100 + 20 * torch.arange(items)[:, None]
    buzz = sum(torch.sin(2 * torch.pi * k * pitches * time) / k for k in range(1, 30))
    return 0.1 * buzz * torch.sin(torch.pi * (1 + torch.arange(items)[:, None]) * time).clamp_min(0)


def noise_like(clean: Tensor) -> Tensor:
    return torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * clean.square().mean(-1, True).sqrt()


def test_equal_waveforms_do_not_disturb_and_loudness_does_not_matter() -> None:
    clean = speech_like(2)
    assert (disturbance(clean, clean) < 1e-3).all()
    noisy = clean + 0.3 * noise_like(clean)
    torch.testing.assert_close(disturbance(0.1 * noisy, 0.1 * clean), disturbance(noisy, clean), rtol=1e-3, atol=0)


def test_what_is_added_disturbs_more_than_what_is_missing() -> None:
    clean = speech_like(1)
    spectrum = torch.fft.rfft(clean)
    spectrum[:, 3000:6000] = 0
    missing = torch.fft.irfft(spectrum)
    assert disturbance(clean, missing) > 1.2 * disturbance(missing, clean) > 0


def test_it_falls_as_pesq_rises() -> None:
    pesq = pytest.importorskip("pesq").pesq
    clean = speech_like(4)
    clean[:, -3200:] = 0
    ours, theirs = [], []
    for snr_db in (0, 6, 12, 18, 24):
        noisy = clean + 10 ** (-snr_db / 20) * noise_like(clean)
        ours += disturbance(noisy, clean).tolist()
        theirs += [pesq(16000, a.numpy(), b.numpy(), "wb") for a, b in zip(clean, noisy, strict=True)]
    assert np.corrcoef(ours, theirs)[0, 1] < -0.8


@pytest.mark.parametrize("gain", [0.0, 1.0, 30.0])
def test_its_gradient_is_a_number_and_leads_down(gain: float) -> None:
    clean = speech_like(3)
    clean[1] = 0
    estimate = (gain * (clean + 0.3 * noise_like(speech_like(3)))).requires_grad_()
    before = disturbance(estimate, clean)
    (gradient,) = torch.autograd.grad(before.sum(), estimate)
    assert gradient.isfinite().all() and before[1] == 0 and not gradient[1].any()
    if gain == 1:
        step = 0.01 * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        after = disturbance(estimate.detach() - step, clean)
        assert (after[[0, 2]] < before[[0, 2]]).all()
