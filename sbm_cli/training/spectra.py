"""Mixtures as the network sees them, and its estimate with the precision and the look-ahead of a training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.checkpoint import ModelConfig

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


def prepare(
    model: ModelConfig, noisy: Tensor, clean: Tensor, start: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the levelled, compressed spectra of noisy and clean [items, freq, frames] and their level [items, frames].

    start: the level before the first frame, [items], as a factor on the segment's mean power; 0 (or None for all)
    takes the first frame's own power.
    """
    spectra = (model.stft.forward(noisy), model.stft.forward(clean))
    power = model.level.power(spectra[0], model.rate / model.stft.n_fft).clamp_min(10 ** (model.level.floor_db / 10))
    carry = None if start is None else torch.where(start > 0, start * power.mean(1), power[:, 0])
    level, _ = model.level.track(power, model.stft.hop / model.rate, carry)
    y, x0 = (model.compression.compress(spectrum / level.sqrt()[:, None]) for spectrum in spectra)
    return y, x0, level


def predict(
    config: TrainConfig, network: nn.Module, state: Tensor, noisy: Tensor, t: Tensor, room: Tensor | None = None
) -> Tensor:
    """Return the estimate of the clean spectrum, shaped like noisy [items, freq, frames]; room: as for the network."""
    late = config.model.network.lookahead
    if late:
        state, noisy = (F.pad(x, (0, late)) for x in (state, noisy))
    with autocast(config.loop.precision, noisy.device):
        estimate: Tensor = network(state, noisy, t, None, room)[0][..., late:]
    return estimate


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 or float16 inside; scans, sums and the loss stay in float32."""
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")
