"""Schrödinger bridge consistency trajectory model: jumps along the path that a trained bridge would walk."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from sbm_cli.bridge.sampler import JUMP_MIN, jump_step, karras, ode_step
from sbm_cli.config import check_ranges
from sbm_cli.data.random import SECOND_NOISE, TRAJECTORY, WALK, uniforms
from sbm_cli.errors import ConfigError
from sbm_cli.model import Model
from sbm_cli.nn.network import Network
from sbm_cli.training.objectives.examples import Spectra, data_loss, draw_state, predict, to_spectra
from sbm_cli.training.objectives.objective import AVERAGE, STUDENT, Batch, Learner, Objective

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig

TEACHER = "teacher"
LARGEST_WEIGHT = 1e3  # of the denoising loss


@dataclass(frozen=True)
class SBCTM(Objective):
    """From one state two ways lead to clean, and must end alike: the student's jump, or the teacher's walk and a jump.

    With times 0 < s <= u < t: the student jumps from t to s; the teacher, a bridge that stays as it is, walks its ODE
    from t to u, and the student's moving average jumps on to s. Both go from s to 0 with the moving average, and there
    the recipe's loss compares them. To that comes the student's denoising (s = t), compared with clean, with such a
    weight that both have gradients of one size at the output layer, in every forward pass anew.

    teacher: its model file; "": the weights that the training began with.
    teacher_steps: of a walk, at most; theirs takes one for every interval of the grid that it crosses.
    points: of the grid of times between 1 and t_min, as in `karras`. A walk crosses k of its intervals with a
    probability proportional to k.
    The recipe's `time` has no say here.

    Source: SBCTM (arXiv 2507.11925) and its code, sony/sbctm, which ends at t_min where we end at 0 itself.
    """

    teacher: str = ""
    teacher_steps: int = 39
    points: int = 40
    t_min: float = JUMP_MIN

    wants_average: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ranges(self, points="[2, inf)", teacher_steps="[1, inf)", t_min="(0, 1)")

    @property
    def wants_start(self) -> bool:
        return not self.teacher

    def check(self, config: TrainConfig) -> None:
        if not config.model.network.jumps:
            raise ValueError("the objective sbctm needs a network that jumps: model.network.jumps")

    def learners(self, config: TrainConfig, student: Network) -> Mapping[str, Learner]:
        if not self.teacher:
            return {TEACHER: Learner(copy.deepcopy(student), None)}
        teacher, model = Model.load(Path(self.teacher)), config.model
        if replace(teacher.config, name=model.name, level=model.level, network=model.network) != model:
            raise ConfigError(f"{self.teacher}: hears or walks otherwise than the recipe's model", "Use its recipe.")
        return {TEACHER: Learner(teacher.network, None)}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        student, average = networks[STUDENT], networks[AVERAGE]
        assert isinstance(student, Network)
        spectra = to_spectra(config, batch)

        def jump(network: nn.Module, state: Tensor, t: Tensor, to: Tensor) -> Tensor:
            return jump_step(state, predict(config, network, state, spectra.noisy, t, spectra.room, to), t, to)

        steps, t, u, s = self.draw_times(config, batch)
        state, end = draw_state(config, batch, spectra.clean, spectra.noisy, t), torch.zeros_like(t)
        parts = torch.linspace(0, 1, min(steps, self.teacher_steps) + 1, device=t.device)
        with torch.no_grad():
            walked = walk(config, networks[TEACHER], spectra, state, torch.lerp(t, u, parts[:, None]))
            goal = jump(average, jump(average, walked, u, s), s, end)
            sound = config.model.to_waveform(goal, spectra.level, batch.clean.shape[-1])
        arrived = jump(average, jump(student, state, t, s), s, end)
        consistency = data_loss(config, replace(batch, clean=sound), replace(spectra, clean=goal), arrived)

        t = self.draw_denoising_time(config, batch)
        state = draw_state(config, batch, spectra.clean, spectra.noisy, t, SECOND_NOISE)
        estimate = predict(config, student, state, spectra.noisy, t, spectra.room, t)
        denoising = data_loss(config, batch, spectra, estimate)
        return consistency + balance(consistency, denoising, student.output_layer.weight) * denoising

    def draw_times(self, config: TrainConfig, batch: Batch) -> tuple[int, Tensor, Tensor, Tensor]:
        """Return how many intervals of the grid the walks of a step cross, and the times t, u and s [items]."""
        chances = torch.arange(1, self.points).float()
        (drawn,) = uniforms(config.seed, batch.step, torch.zeros(1, dtype=torch.int64), WALK, 1)[:, 0]
        steps = 1 + int((drawn >= chances.cumsum(0) / chances.sum()).sum())
        # In double precision: in float32 a product could round up to the bound.
        first, second = uniforms(config.seed, batch.step, batch.items, TRAJECTORY, 2).double().unbind(1)
        t = (first * (self.points - steps)).long()
        u = t + steps
        s = u + (second * (self.points - u)).long()
        t, u, s = (karras(point / (self.points - 1), self.t_min) for point in (t, u, s))
        return steps, t, u, s

    def draw_denoising_time(self, config: TrainConfig, batch: Batch) -> Tensor:
        """Return times [items], half of them uniform on [t_min, 1], half on the first 0.7 of the way of `karras`."""
        _, _, half, part = uniforms(config.seed, batch.step, batch.items, TRAJECTORY, 4).unbind(1)
        return torch.where(half < 0.5, 1 - part * (1 - self.t_min), karras(0.7 * part, self.t_min))


def walk(config: TrainConfig, teacher: nn.Module, spectra: Spectra, state: Tensor, times: Tensor) -> Tensor:
    """Return the state after a walk along the teacher's probability flow through times [steps + 1, items]."""
    for t_from, t_to in itertools.pairwise(times):
        estimate = predict(config, teacher, state, spectra.noisy, t_from, spectra.room)
        state = ode_step(config.model.schedule, state, estimate, spectra.noisy, t_from, t_to)
    return state


def balance(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Return what makes the gradient of a second loss at a layer's weight as long as that of the first."""
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (first, second)]
    return torch.clamp(norms[0] / (norms[1] + 1e-8), max=LARGEST_WEIGHT)
