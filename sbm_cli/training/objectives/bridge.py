"""Data prediction at bridge times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sbm_cli.training.objectives.examples import data_loss, draw_state, draw_time, to_spectra
from sbm_cli.training.objectives.objective import STUDENT, Batch, Objective
from sbm_cli.training.predict import predict

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


@dataclass(frozen=True)
class Bridge(Objective):
    """The clean spectrum from the state at a bridge time and the noisy one; if all times are 1, it is a mapping."""

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        spectra, t = to_spectra(config, batch), draw_time(config, batch)
        state = draw_state(config, batch, spectra.clean, spectra.noisy, t)
        estimate = predict(config, networks[STUDENT], state, spectra.noisy, t, spectra.room)
        return data_loss(config, batch, spectra, estimate)
