"""What the training loop asks of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from sbm_cli.training.config import OptimizerConfig, TrainConfig

STUDENT, TEACHER = "student", "teacher"


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
    """A network that learns beside the student, a discriminator say, and how."""

    network: nn.Module
    optimizer: OptimizerConfig


class Objective(Protocol):
    """What is learnt. In every step each learner makes a step down its own loss, first the student, then the others.

    wants_teacher: whether `loss` gets the moving average of the student as a network of its own.
    """

    wants_teacher: ClassVar[bool]

    def learners(self, config: TrainConfig) -> Mapping[str, Learner]:
        """Make the networks that learn beside the student, by name."""

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        """Return the loss of a learner, a mean over the items.

        networks: "student", the other learners and, if it is wanted, "teacher". Only the learner takes the gradient;
        of the others what needs none should run under `torch.no_grad`.
        """
