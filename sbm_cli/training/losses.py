"""Loss of the data prediction: magnitudes, complex values, and a little waveform SNR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sbm_cli.dsp.compress import Compression
from sbm_cli.dsp.stft import Stft

FLOOR = 1e-8  # of a compressed power: bounds the gradient of |X|**p, p < 1, which is infinite at zero


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, after Wang et al. (arXiv 2602.18355, `hybrid`): 70 and 30 on spectra compressed by 0.3."""

    magnitude: float = 70.0
    complex: float = 30.0
    snr: float = 1.0
    exponent: float = 0.3


def enhancement_loss(
    config: LossConfig,
    stft: Stft,
    compression: Compression,
    estimate: Tensor,
    clean: Tensor,
    level: Tensor,
    target: Tensor,
) -> Tensor:
    """Return the mean loss of a batch.

    estimate, clean: compressed and levelled spectra [batch, freq, frames]; level: [batch, frames], the power that
    both were divided by; target: the clean waveform [batch, samples].
    """
    power = config.exponent / compression.exponent  # of the compressed magnitude
    (a, size_a), (b, size_b) = (_recompress(x / compression.factor, power) for x in (estimate, clean))
    loss = config.magnitude * (size_a - size_b).square().mean()
    loss = loss + config.complex * 2 * (a - b).square().mean()  # mean over real plus mean over imaginary parts
    if config.snr:
        spectrum = compression.expand(estimate) * level.sqrt()[:, None]
        loss = loss - config.snr * snr(stft.inverse(spectrum, target.shape[-1]), target).mean()
    return loss


def _recompress(compressed: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Return |X|**power * exp(i phase) as real pairs [..., 2], and |X|**power."""
    parts = torch.view_as_real(compressed)
    size = (parts.square().sum(-1) + FLOOR) ** ((power - 1) / 2)
    return parts * size[..., None], (parts.square().sum(-1) + FLOOR) ** (power / 2)


def snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return log10 of the signal-to-noise ratio, [batch], of waveforms [batch, samples].

    Limited to +-3 (30 dB); 0 for a silent target, which has no ratio. Not the scale-invariant one: that is blind to
    loudness, and a network trained with it returned clean speech 2.7 dB too quiet (docs/log.md).
    """
    signal, noise = target.square().sum(-1), (estimate - target).square().sum(-1)
    ratio = torch.log10((signal + 1e-3 * noise + 1e-10) / (noise + 1e-3 * signal + 1e-10))
    return torch.where(signal > 1e-6, ratio, 0.0)
