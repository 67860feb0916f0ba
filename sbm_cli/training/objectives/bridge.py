"""Data prediction at bridge times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from sbm_cli.bridge.schedule import sample_state
from sbm_cli.data.mixing import keep_room
from sbm_cli.data.random import BRIDGE_NOISE, TIME, WARM_LEVEL, normals, rows_of, uniforms
from sbm_cli.training.losses import enhancement_loss
from sbm_cli.training.objectives.objective import STUDENT, Batch, Learner
from sbm_cli.training.predict import predict

if TYPE_CHECKING:
    from sbm_cli.training.config import TimeConfig, TrainConfig


@dataclass(frozen=True)
class Bridge:
    """The clean spectrum from the state at a bridge time and the noisy one; if all times are 1, it is a mapping."""

    wants_teacher: ClassVar[bool] = False

    def learners(self, config: TrainConfig) -> Mapping[str, Learner]:
        return {}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        model, seed, step, items = config.model, config.seed, batch.step, batch.items
        at_end, t = uniforms(seed, step, items, TIME, 2).unbind(1)
        t = draw_time(config.time, step, config.steps, at_end, t)
        warm, gain = uniforms(seed, step, items, WARM_LEVEL, 2).unbind(1)
        low, high = config.warm_level_db
        start = torch.where(warm < config.warm_level, 10 ** (0.1 * (low + (high - low) * gain)), 0.0)
        y, level = model.to_network(batch.noisy, start)
        x0 = model.compress(model.stft.forward(batch.clean), level)
        noise = torch.zeros_like(y)  # at t = 1 it has no weight
        rows = rows_of(t < 1)
        parts = normals(seed, step, items[rows], BRIDGE_NOISE, 2 * y[0].numel()).reshape(*noise[rows].shape, 2)
        noise[rows] = torch.view_as_complex(parts) * 0.5**0.5  # E|noise|² = 1
        room = keep_room(config.mix, seed, step, items).float() if config.mix.p_keep_room else None
        state = sample_state(model.schedule, x0, y, t, noise)
        estimate = predict(config, networks[STUDENT], state, y, t, room)
        return enhancement_loss(config.loss, model, estimate, x0, level, batch.clean)


def draw_time(config: TimeConfig, step: int, steps: int, at_end: Tensor, t: Tensor) -> Tensor:
    """Return bridge times from uniform numbers in [0, 1): 1 with the point mass's probability, else on [t_min, 1]."""
    mass = config.final_end_mass if step >= steps * (1 - config.final_part) else config.end_mass
    return torch.where(at_end < mass, 1.0, config.t_min + (1 - config.t_min) * t)
