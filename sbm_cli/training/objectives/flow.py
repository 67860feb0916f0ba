"""Flow matching: the velocity of the path, told by a network that predicts data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sbm_cli.bridge.schedule import Flow
from sbm_cli.config import check_ranges
from sbm_cli.training.objectives.examples import data_loss, draw_estimate
from sbm_cli.training.objectives.objective import STUDENT, Batch, Objective

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


@dataclass(frozen=True)
class FlowMatching(Objective):
    """The velocity (state - clean) / t of a straight path, beside the recipe's loss of the estimate.

    velocity: weight of the squared error of the velocity, a mean over the compressed spectrum. With the estimate in
    the place of clean, that is the estimate's squared error over t².
    data: weight of the recipe's loss; 0 leaves flow matching alone.
    t_bound: no t is taken for smaller in that weight; uniform times then give it a mean of 2 / t_bound - 1.
    Source: Lipman et al. 2023 (arXiv 2210.02747), Eq. 23. The loss beside it, the weights and the bound are ours.
    """

    velocity: float = 10.0
    data: float = 1.0
    t_bound: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, velocity="[0, inf)", data="[0, inf)", t_bound="(0, 1]")
        if not self.velocity + self.data:
            raise ValueError("velocity and data are both 0: nothing would be learnt")

    def check(self, config: TrainConfig) -> None:
        if not isinstance(config.model.schedule, Flow):
            raise ValueError("the objective flow needs a straight path: model.schedule of kind flow")

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        spectra, t, estimate = draw_estimate(config, batch, networks[STUDENT])
        error = (estimate - spectra.clean).abs().square().mean((1, 2))
        velocity = (error / t.clamp_min(self.t_bound) ** 2).mean()
        return self.velocity * velocity + self.data * data_loss(config, batch, spectra, estimate)
