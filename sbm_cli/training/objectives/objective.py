"""What the training loop asks of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from sbm_cli.nn.network import Network

if TYPE_CHECKING:
    from sbm_cli.training.config import OptimizerConfig, TrainConfig

STUDENT, AVERAGE = "student", "average"


@dataclass(frozen=True)
class Batch:
    """Mixtures of a step; whatever is drawn for them should depend on (seed, step, items) alone.

    noisy, clean: waveforms [items, samples]; items: their numbers in the whole batch of the step, int64 [items].
    """

    noisy: Tensor
    clean: Tensor
    step: int
    items: Tensor


@dataclass(frozen=True)
class Learner:
    """A network beside the student, a discriminator say, and how it learns: in every so many of the student's steps.

    optimizer: None for one that stays as it is, a teacher say.
    """

    network: nn.Module
    optimizer: OptimizerConfig | None
    every: int = 1


class Objective:
    """What is learnt. In every step each learner makes a step down its own loss, first the student, then the others.

    wants_average: whether `loss` gets the moving average of the student as a network of its own.
    """

    wants_average: ClassVar[bool] = False

    @property
    def wants_start(self) -> bool:
        """Whether the student must begin as a trained model."""
        return False

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError for a recipe that this cannot be learnt with."""

    def learners(self, config: TrainConfig, student: Network) -> Mapping[str, Learner]:
        """Make the networks beside the student, by name; student: as it begins."""
        return {}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        """Return the loss of a learner, a mean over the items.

        networks: "student", those of `learners` and, if it is wanted, "average". Only the learner takes the gradient;
        of the others what needs none should run under `torch.no_grad`.
        """
        raise NotImplementedError
