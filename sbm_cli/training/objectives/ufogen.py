"""SB-UFOGen: a bridge whose one step must pass for clean speech before a discriminator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sbm_cli.config import check_ranges
from sbm_cli.data.random import SECOND_NOISE, THIRD_NOISE
from sbm_cli.nn.network import Network
from sbm_cli.training.objectives.examples import data_loss, draw_estimate, draw_state, predict
from sbm_cli.training.objectives.objective import STUDENT, Batch, Learner, Objective

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class UFOGen(Objective):
    """Data prediction whose estimate, noised anew to an earlier time of the bridge, is told from noised clean speech.

    adversarial: weight of what the student loses by not passing; the rest is the recipe's loss.
    delta: how much earlier than the state, in bridge time, but not below the recipe's t_min.
    every, rate: the discriminator moves in every so many steps, at this rate; otherwise as the student does.

    Sources: SB-UFOGen (arXiv 2506.01460), of which the abstract alone was open to us; UFOGen (Xu et al., arXiv
    2311.09257) for noising anew, for both networks beginning as one, and for the two losses. That the noise is the
    bridge's, the numbers, and the head of the discriminator are ours.
    """

    adversarial: float = 1.0
    delta: float = 0.25
    every: int = 2
    rate: float = 1e-4

    def __post_init__(self) -> None:
        check_ranges(self, adversarial="[0, inf)", delta="(0, 1)", every="[1, inf)", rate="(0, inf)")

    def learners(self, config: TrainConfig, student: Network) -> Mapping[str, Learner]:
        optimizer = replace(config.optimizer, rate=self.rate, final_rate=min(self.rate, config.optimizer.final_rate))
        return {DISCRIMINATOR: Learner(Discriminator(student), optimizer, self.every)}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        discriminator = networks[DISCRIMINATOR]
        with torch.set_grad_enabled(learner == STUDENT):
            spectra, t, estimate = draw_estimate(config, batch, networks[STUDENT])
        earlier = (t - self.delta).clamp_min(config.time.t_min)

        def judge(clean: Tensor, noise: int) -> Tensor:
            """Return how real each item is taken for, noised to the earlier time, as a logit."""
            state = draw_state(config, batch, clean, spectra.noisy, earlier, noise)
            return discriminator(config, state, spectra.noisy, earlier, spectra.room)

        fake = judge(estimate, SECOND_NOISE)
        if learner == DISCRIMINATOR:
            return (softplus(fake) + softplus(-judge(spectra.clean, THIRD_NOISE))).mean()
        return data_loss(config, batch, spectra, estimate) + self.adversarial * softplus(-fake).mean()


class Discriminator(nn.Module):
    """A network up to its output layer, whose inputs there, averaged, give one logit for each item."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.score = nn.Linear(self.network.output_layer.in_channels, 1)

    def forward(self, config: TrainConfig, state: Tensor, noisy: Tensor, t: Tensor, room: Tensor | None) -> Tensor:
        features: list[Tensor] = []
        with self.network.output_layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])):
            predict(config, self.network, state, noisy, t, room)
        return self.score(features[0].float().mean((2, 3)))[:, 0]
