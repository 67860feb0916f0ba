"""What the objectives share: spectra of a batch, a bridge time, the state and the estimate there, and the data loss."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.bridge.schedule import sample_state
from sbm_cli.data.mixing import keep_room
from sbm_cli.data.random import BRIDGE_NOISE, TIME, WARM_LEVEL, normals, rows_of, uniforms
from sbm_cli.training.losses import enhancement_loss
from sbm_cli.training.objectives.objective import Batch

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


@dataclass(frozen=True)
class Spectra:
    """A batch as the network sees it.

    clean, noisy: compressed spectra [items, freq, frames]; level: [items, frames]; room: as for the network.
    """

    clean: Tensor
    noisy: Tensor
    level: Tensor
    room: Tensor | None


def to_spectra(config: TrainConfig, batch: Batch) -> Spectra:
    """Return the spectra of a batch; some of them begin with a level as if sound had gone before."""
    model, key = config.model, (config.seed, batch.step, batch.items)
    warm, gain = uniforms(*key, WARM_LEVEL, 2).unbind(1)
    low, high = config.warm_level_db
    start = torch.where(warm < config.warm_level, 10 ** (0.1 * (low + (high - low) * gain)), 0.0)
    noisy, level = model.to_network(batch.noisy, start)
    clean = model.compress(model.stft.forward(batch.clean), level)
    room = keep_room(config.mix, *key).float() if config.mix.p_keep_room else None
    return Spectra(clean, noisy, level, room)


def draw_time(config: TrainConfig, batch: Batch) -> Tensor:
    """Return bridge times [items]: 1 with the point mass's probability, else uniform on [t_min, 1]."""
    time = config.time
    at_end, t = uniforms(config.seed, batch.step, batch.items, TIME, 2).unbind(1)
    mass = time.final_end_mass if batch.step >= config.steps * (1 - time.final_part) else time.end_mass
    return torch.where(at_end < mass, 1.0, time.t_min + (1 - time.t_min) * t)


def draw_state(
    config: TrainConfig, batch: Batch, clean: Tensor, noisy: Tensor, t: Tensor, stream: int = BRIDGE_NOISE
) -> Tensor:
    """Return the state at t [items] between two spectra; each stream of random numbers has noise of its own."""
    schedule, noise = config.model.schedule, torch.zeros_like(noisy)
    rows = rows_of((t < 1) | (schedule.end_std > 0))  # at the end of a bridge the noise has no weight
    count = 2 * noisy[0].numel()
    parts = normals(config.seed, batch.step, batch.items[rows], stream, count).reshape(*noise[rows].shape, 2)
    noise[rows] = torch.view_as_complex(parts) * 0.5**0.5  # E|noise|² = 1
    return sample_state(schedule, clean, noisy, t, noise)


def draw_estimate(config: TrainConfig, batch: Batch, network: nn.Module) -> tuple[Spectra, Tensor, Tensor]:
    """Return the spectra of a batch, bridge times [items], and the network's estimates from the states there."""
    spectra, t = to_spectra(config, batch), draw_time(config, batch)
    state = draw_state(config, batch, spectra.clean, spectra.noisy, t)
    return spectra, t, predict(config, network, state, spectra.noisy, t, spectra.room)


def predict(
    config: TrainConfig,
    network: nn.Module,
    state: Tensor,
    noisy: Tensor,
    t: Tensor,
    room: Tensor | None = None,
    to: Tensor | None = None,
) -> Tensor:
    """Return the estimate of the clean spectrum, shaped like noisy [items, freq, frames]; room, to: as the network."""
    late = config.model.network.lookahead
    if late:
        state, noisy = (F.pad(x, (0, late)) for x in (state, noisy))
    with autocast(config.loop.precision, noisy.device):
        return network(state, noisy, t, None, room, to)[0][..., late:]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 or float16 inside; scans, sums and the loss stay in float32."""
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def data_loss(config: TrainConfig, batch: Batch, spectra: Spectra, estimate: Tensor) -> Tensor:
    """Return the recipe's loss of an estimate, a mean over the items."""
    return enhancement_loss(config.loss, config.model, estimate, spectra.clean, spectra.level, batch.clean)
