"""Scores of the moving average on a few fixed mixtures that training never sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sbm_cli.audio.sdr import si_sdr
from sbm_cli.bridge.sampler import draw_noise, sample
from sbm_cli.data.sources import Source
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.losses import enhancement_loss
from sbm_cli.training.objectives.examples import predict


@dataclass(frozen=True)
class Score:
    """Means over the mixtures of a set: loss at t = 1, SI-SDR of the estimate and of the noisy input in dB."""

    loss: float
    si_sdr: float
    noisy_si_sdr: float


@dataclass(frozen=True)
class Validation:
    """A set as it was scored: [items, samples] each, on the CPU."""

    score: Score
    noisy: Tensor
    estimate: Tensor
    clean: Tensor


@torch.no_grad()
def validate(
    config: TrainConfig, network: nn.Module, source: Source, device: torch.device, together: int
) -> Validation:
    """Score one step at t = 1, with the network's weights, on the first mixtures of a source, `together` at a time."""
    model, losses, estimates = config.model, [], []
    draw = partial(draw_noise, generator=torch.Generator().manual_seed(0))  # where the path ends in noise
    # Step 0 of seed 0 whatever the recipe's seed: two trainings are validated on the same mixtures.
    noisy, clean = (tensor.to(device) for tensor in source.batch(0, 0, range(config.loop.validate_items)))
    for a, b in zip(noisy.split(together), clean.split(together), strict=True):
        y, level = model.to_network(a)
        x0 = model.compress(model.stft.forward(b), level)
        spectrum = sample(partial(predict, config, network), model.schedule, y, 1, draw=draw)
        loss = enhancement_loss(config.loss, model, spectrum, x0, level, b)
        losses.append(loss * len(a) / len(noisy))
        estimates.append(model.to_waveform(spectrum, level, a.shape[-1]))
    noisy, estimate, clean = (tensor.cpu() for tensor in (noisy, torch.cat(estimates), clean))
    before, after = (
        float(np.mean([si_sdr(x.numpy(), ref.numpy()) for x, ref in zip(signal, clean, strict=True)]))
        for signal in (noisy, estimate)
    )
    return Validation(Score(float(torch.stack(losses).sum()), after, before), noisy, estimate, clean)
