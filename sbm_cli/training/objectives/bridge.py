"""Data prediction at bridge times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sbm_cli.training.objectives.examples import data_loss, draw_estimate
from sbm_cli.training.objectives.objective import STUDENT, Batch, Objective

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


@dataclass(frozen=True)
class Bridge(Objective):
    """The clean spectrum from the state at a bridge time and the noisy one; if all times are 1, it is a mapping."""

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        spectra, _, estimate = draw_estimate(config, batch, networks[STUDENT])
        return data_loss(config, batch, spectra, estimate)
