"""Audible disturbance: how loud what is missing and what is added is, after ITU-T P.862 (PESQ), with a gradient.

Of P.862: bands on a pitch scale, Zwicker's law of loudness, the dead zone, symmetric and asymmetric disturbance, their
norms over bands (2 and 1), over 20 frames (6) and over time (2), and their weights in the score. Not of it: alignment
in time and compensation of gain and filtering, for which an enhancer has no excuse; its pitch scale and threshold of
hearing, in whose place are formulas (Traunmüller 1990, Terhardt 1979).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

RATE = 16_000  # Hz
WINDOW = 512  # samples, of which half are a hop
BANDS = 49
SPEECH_DB = 74.0  # sound pressure level that the clean speech is heard at
SILENT = 1e-6  # mean square of a clean waveform that nothing is compared with
EXPONENT, SCALE = 0.23, 0.1866  # of loudness


def disturbance(estimate: Tensor, clean: Tensor) -> Tensor:
    """Return how much an estimate disturbs beside the clean waveform, both [batch, samples] at 16 kHz: [batch].

    0 if they are equal, or if the clean one is silent; a unit is about one of PESQ before its last mapping. Waveforms
    last at least 20 frames.
    """
    overlap, threshold, width = _bands(estimate.device)
    window = torch.hann_window(WINDOW, device=clean.device)
    powers = []  # [batch, bands, frames]
    for waveform in (estimate, clean):
        spectrum = torch.stft(waveform, WINDOW, WINDOW // 2, window=window, center=False, return_complex=True)
        powers.append(overlap @ torch.view_as_real(spectrum).square().sum(-1))
    active = clean.square().mean(-1) > SILENT
    scale = 10 ** (SPEECH_DB / 10) / powers[1].sum(1).mean(1).clamp_min(1e-12)
    scale = torch.where(active, scale, 0.0)  # silence stays so, else its gradient would not be a number
    degraded, reference = (power * scale[:, None, None] for power in powers)
    loudness = [_loudness(power, threshold) for power in (degraded, reference)]
    disturbance = ((loudness[0] - loudness[1]).abs() - 0.25 * torch.minimum(*loudness)).clamp_min(0.0) * width
    added = ((degraded.detach() + 50.0) / (reference + 50.0)) ** 1.2
    added = torch.where(added < 3.0, 0.0, added.clamp_max(12.0))
    symmetric = (disturbance.square().sum(1) / (BANDS * width) + 1e-12).sqrt() * (BANDS * width)
    asymmetric = (disturbance * added).sum(1)
    loud = ((reference.sum(1) + 1e5) / 1e7) ** 0.04
    total = 0.1 * _over_time(symmetric / loud) + 0.0309 * _over_time(asymmetric / loud)
    return torch.where(active, total, 0.0)


def _loudness(power: Tensor, threshold: Tensor) -> Tensor:
    """Return the loudness in sone of band powers [batch, bands, frames]; 0 below the threshold of hearing."""
    audible = (0.5 + 0.5 * power / threshold).clamp_min(1.0) ** EXPONENT - 1
    return SCALE * (threshold / 0.5) ** EXPONENT * audible


def _over_time(frames: Tensor) -> Tensor:
    """Return the mean of the disturbance of frames, [batch, frames] to [batch], in which the worst count most."""
    worst = (frames.clamp_max(45.0) + 1e-3).unfold(-1, 20, 10).pow(6).mean(-1).pow(1 / 6)
    return worst.square().mean(-1).sqrt()


@lru_cache(maxsize=4)
def _bands(device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Return the share of each bin in each band [bands, freq], their thresholds of hearing [bands, 1], their width."""
    hertz = torch.arange(WINDOW // 2 + 1, dtype=torch.float64) * RATE / WINDOW
    bark = 26.81 * hertz / (1960 + hertz) - 0.53
    edges = torch.linspace(float(bark[2]), float(bark[-1]), BANDS + 1, dtype=torch.float64)  # from 62 Hz on
    half = torch.gradient(bark)[0] / 2  # a bin covers its own width
    low, high = edges[:-1, None], edges[1:, None]
    overlap = (torch.minimum(high, bark + half) - torch.maximum(low, bark - half)).clamp_min(0) / (2 * half)
    centre = (low + high) / 2
    khz = 1.96 * (centre + 0.53) / (26.28 - centre)
    quiet = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4  # dB
    overlap, threshold = (x.to(device, torch.float32) for x in (overlap, 10 ** (quiet / 10)))
    return overlap, threshold, float(edges[1] - edges[0])
