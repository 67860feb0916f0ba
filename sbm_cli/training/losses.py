"""Loss of the data prediction: magnitudes, complex values, both at several resolutions, waveform SNR, disturbance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sbm_cli.config import check_ranges, written
from sbm_cli.dsp.stft import Stft
from sbm_cli.model import ModelConfig
from sbm_cli.training.perceptual import disturbance

FLOOR = 1e-8  # of a power beside a level of 1: bounds the gradient of |X|**p, p < 1, which is infinite at zero


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, after Wang et al. (arXiv 2602.18355, `hybrid`): 70 and 30 on spectra compressed by 0.3.

    multi_magnitude, multi_complex: the same two terms on spectra of the waveform with other windows, their mean. That
    there are such terms is Yang et al.'s (arXiv 2510.16834); the windows, in samples, are our choice.
    disturbance: of the waveform, after ITU-T P.862 (`training/perceptual.py`), at 16 kHz.
    """

    magnitude: float = 70.0
    complex: float = 30.0
    multi_magnitude: float = 0.0
    multi_complex: float = 0.0
    windows: tuple[int, ...] = (256, 512, 1024)
    snr: float = 1.0
    disturbance: float = 0.0
    exponent: float = 0.3

    def __post_init__(self) -> None:
        weights = ("magnitude", "complex", "multi_magnitude", "multi_complex", "snr", "disturbance")
        check_ranges(self, **dict.fromkeys(weights, "[0, inf)"), exponent="(0, 1]")
        if not any(getattr(self, name) for name in weights):
            raise ValueError("every weight of the loss is 0: nothing would be learnt")
        if (self.multi_magnitude or self.multi_complex) and not self.windows:
            raise ValueError("multi-resolution terms need windows")
        if any(window % 2 or not 2 <= window <= 2**15 for window in self.windows):
            raise ValueError(f"windows are even numbers of samples, {2**15} at most, got {written(self.windows)}")


def enhancement_loss(
    config: LossConfig, model: ModelConfig, estimate: Tensor, clean: Tensor, level: Tensor, target: Tensor
) -> Tensor:
    """Return the mean loss of a batch.

    estimate, clean: compressed and levelled spectra [batch, freq, frames]; level: [batch, frames], the power that
    both were divided by; target: the clean waveform [batch, samples].
    """
    compression = model.compression
    power = config.exponent / compression.exponent  # of the compressed magnitude
    pair = (estimate / compression.factor, clean / compression.factor)
    loss = _distance(*pair, power, config.magnitude, config.complex)
    multi = config.multi_magnitude or config.multi_complex
    if not (config.snr or config.disturbance or multi):
        return loss
    waveform = model.to_waveform(estimate, level, target.shape[-1])
    if config.snr:
        loss = loss - config.snr * snr(waveform, target).mean()
    if config.disturbance:
        loss = loss + config.disturbance * disturbance(waveform, target).mean()
    if multi:
        scale = level.mean(1, keepdim=True).sqrt()  # one for all frames: other windows have other frames
        for window in config.windows:
            other = Stft(window, window, window // 2)
            pair = (other.forward(waveform / scale), other.forward(target / scale))
            part = _distance(*pair, config.exponent, config.multi_magnitude, config.multi_complex)
            loss = loss + part / len(config.windows)
    return loss


def _distance(estimate: Tensor, clean: Tensor, power: float, magnitude: float, parts: float) -> Tensor:
    """Return the weighted squared errors of |X|**power and of |X|**power * exp(i phase), means over the spectrum."""
    pairs = [torch.view_as_real(x) for x in (estimate, clean)]
    energies = [x.square().sum(-1) + FLOOR for x in pairs]
    sizes = [energy ** (power / 2) for energy in energies]
    loss = magnitude * (sizes[0] - sizes[1]).square().mean()
    if parts:
        a, b = (x * (s * e.rsqrt())[..., None] for x, s, e in zip(pairs, sizes, energies, strict=True))
        loss = loss + parts * 2 * (a - b).square().mean()  # mean over real plus mean over imaginary parts
    return loss


def snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return log10 of the signal-to-noise ratio, [batch], of waveforms [batch, samples].

    Limited to +-3 (30 dB); 0 for a silent target, which has no ratio. Not the scale-invariant one: that is blind to
    loudness, and a network trained with it returned clean speech 2.7 dB too quiet (docs/log.md).
    """
    signal, noise = target.square().sum(-1), (estimate - target).square().sum(-1)
    ratio = torch.log10((signal + 1e-3 * noise + 1e-10) / (noise + 1e-3 * signal + 1e-10))
    return torch.where(signal > 1e-6, ratio, 0.0)
