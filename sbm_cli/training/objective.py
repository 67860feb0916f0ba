"""What is learnt: data prediction at bridge times, of mixtures as waveforms."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.bridge.schedule import sample_state
from sbm_cli.data.mixing import keep_room
from sbm_cli.data.random import BRIDGE_NOISE, TIME, WARM_LEVEL, normals, rows_of, uniforms
from sbm_cli.nn.network import Network
from sbm_cli.training.config import TimeConfig, TrainConfig
from sbm_cli.training.losses import enhancement_loss


def batch_loss(config: TrainConfig, network: Network, noisy: Tensor, clean: Tensor, step: int, items: Tensor) -> Tensor:
    """Return the mean loss of mixtures, noisy and clean [items, samples]; what is drawn depends on (step, item) alone.

    items: their numbers in the batch of the step, int64 [items].
    """
    model = config.model
    at_end, t = uniforms(config.seed, step, items, TIME, 2).unbind(1)
    t = draw_time(config.time, step, config.steps, at_end, t)
    warm, gain = uniforms(config.seed, step, items, WARM_LEVEL, 2).unbind(1)
    low, high = config.warm_level_db
    start = torch.where(warm < config.warm_level, 10 ** (0.1 * (low + (high - low) * gain)), 0.0)
    y, level = model.to_network(noisy, start)
    x0 = model.compress(model.stft.forward(clean), level)
    noise = torch.zeros_like(y)  # at t = 1 it has no weight
    rows = rows_of(t < 1)
    parts = normals(config.seed, step, items[rows], BRIDGE_NOISE, 2 * y[0].numel()).reshape(*noise[rows].shape, 2)
    noise[rows] = torch.view_as_complex(parts) * 0.5**0.5  # E|noise|² = 1
    room = keep_room(config.mix, config.seed, step, items).float() if config.mix.p_keep_room else None
    estimate = predict(config, network, sample_state(model.schedule, x0, y, t, noise), y, t, room)
    return enhancement_loss(config.loss, model, estimate, x0, level, clean)


def draw_time(config: TimeConfig, step: int, steps: int, at_end: Tensor, t: Tensor) -> Tensor:
    """Return bridge times from uniform numbers in [0, 1): 1 with the point mass's probability, else on [t_min, 1]."""
    mass = config.final_end_mass if step >= steps * (1 - config.final_part) else config.end_mass
    return torch.where(at_end < mass, 1.0, config.t_min + (1 - config.t_min) * t)


def predict(
    config: TrainConfig, network: Network, state: Tensor, noisy: Tensor, t: Tensor, room: Tensor | None = None
) -> Tensor:
    """Return the estimate of the clean spectrum, shaped like noisy [items, freq, frames]; room: as for the network."""
    late = network.config.lookahead
    if late:
        state, noisy = (F.pad(x, (0, late)) for x in (state, noisy))
    with autocast(config.loop.precision, noisy.device):
        estimate: Tensor = network(state, noisy, t, None, room)[0][..., late:]
    return estimate


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 or float16 inside; scans, sums and the loss stay in float32."""
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")
