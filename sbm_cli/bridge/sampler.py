"""Samplers: one step at t = 1, and the probability-flow ODE and the SDE for those who want the trajectory.

The network is always told the time of the state it sees, never the time it is to reach: with one step it sees
x = y together with t = 1, the pair it met in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sbm_cli.arrays import Array, zeros
from sbm_cli.bridge.schedule import BridgeSchedule, Schedule, expand, mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T_MIN = 1e-4  # Jukić et al. 2024 and NeMo: smallest time in training, last time of the grid
JUMP_MIN = 0.03  # SBCTM: smallest time in training


# Data prediction: (state, noisy, t) -> the estimate of clean, all [batch, ...] but t [batch]. A network that jumps is
# told where to, [batch], as its fourth; told nothing it jumps to 0.
Network = Callable[..., Any]


def grid(steps: int, t_min: float = T_MIN) -> NDArray[np.float64]:
    """Return the times t_0 = 1 > … > t_steps = t_min, equally spaced, float64 [steps + 1]; t_min: in (0, 1)."""
    return np.linspace(1.0, t_min, steps + 1)


def karras(part: Array, t_min: float = JUMP_MIN) -> Array:
    """Return the time that lies a part, 0 to 1, of the way from 1 to t_min, if equal parts are denser towards t_min.

    Source: Karras et al. 2022 (arXiv 2206.00364), Eq. 5 with rho = 7.
    """
    return (1 + part * (t_min ** (1 / 7) - 1)) ** 7


def jump_grid(steps: int, t_min: float = T_MIN) -> NDArray[np.float64]:
    """Return the times of so many jumps, float64 [steps + 1]: those of `karras`, but the last jump goes to 0 itself."""
    times = karras((1 - grid(steps, t_min)) / (1 - t_min))
    times[-1] = 0
    return times


def ode_step(schedule: Schedule, state: Array, estimate: Array, noisy: Array, t_from: Array, t_to: Array) -> Array:
    """Take one step of the probability flow: rescale the residual around the new mean.

    state, estimate, noisy: [batch, ...]; t_from, t_to: [batch], t_to ≤ t_from.
    Of a bridge it is equal to the published three-weight form (arXiv 2407.16074; NeMo), without its singularity at
    t = 1; of a flow it is Euler's step.
    """
    residual = state - mean(schedule, estimate, noisy, t_from)
    return mean(schedule, estimate, noisy, t_to) + expand(schedule.carried(t_from, t_to), state) * residual


def sde_step(
    schedule: Schedule, state: Array, estimate: Array, t_from: Array, t_to: Array, noise: Array | None = None
) -> Array:
    """Take one step of the SDE: draw x_(t_to) given x_(t_from) and the estimate, exact for a constant estimate.

    state, estimate, noise: [batch, ...]; t_from, t_to: [batch], t_to ≤ t_from, t_from > 0. Without noise it returns
    the mean of that draw. What the bridge still has of the noisy signal, the state holds.

    Raises ValueError for a flow, which has no such step.
    """
    if not isinstance(schedule, BridgeSchedule):
        raise ValueError("a flow has no SDE: use the sampler ode or heun")
    var_to = schedule.var(t_to)
    ratio = var_to / schedule.var(t_from)
    alpha_from, alpha_to = schedule.alpha(t_from), schedule.alpha(t_to)
    stepped = expand(alpha_to / alpha_from * ratio, state) * state + expand(alpha_to * (1 - ratio), state) * estimate
    if noise is not None:
        stepped = stepped + expand(alpha_to * (var_to * (1 - ratio)) ** 0.5, noise) * noise
    return stepped


def jump_step(state: Array, estimate: Array, t_from: Array, t_to: Array) -> Array:
    """Take one step of a consistency trajectory: towards the estimate of a network that was told of t_to.

    state, estimate: [batch, ...]; t_from, t_to: [batch], 0 < t_from. With t_to = t_from nothing moves, whatever the
    network says.

    Source: Kim et al. 2024 (arXiv 2310.02279), for bridges in SBCTM (arXiv 2507.11925).
    """
    kept = expand(t_to / t_from, state)
    return kept * state + (1 - kept) * estimate


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw noise of the shape, dtype and device of `like` with E|noise|² = 1 per element.

    Complex `like`: circular complex normal, variance 1/2 in each of real and imaginary part. Real `like`: standard
    normal; so not for a complex state held as two real channels, which needs randn/√2 (or `torch.view_as_complex`).
    The generator may live on the CPU whatever the device of `like`, for equal draws everywhere.
    """
    import torch

    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator).to(like.device)


Draw = Callable[[Any], Any]  # noise as of `draw_noise`
# (t, state, noisy, others, to=None) -> the network's estimate, and the arrays it was given as they belong to that
Evaluate = Callable[..., tuple[Any, ...]]
# (evaluate, schedule, state, noisy, t, to, draw) -> the state at `to`, and noisy beside it
Step = Callable[[Evaluate, Schedule, Any, Any, Any, Any, Draw | None], tuple[Any, Any]]


def _ode(
    evaluate: Evaluate, schedule: Schedule, state: Array, noisy: Array, t: Array, to: Array, draw: Draw | None
) -> tuple[Array, Array]:
    estimate, state, noisy = evaluate(t, state, noisy)
    return ode_step(schedule, state, estimate, noisy, t, to), noisy


def _sde(
    evaluate: Evaluate, schedule: Schedule, state: Array, noisy: Array, t: Array, to: Array, draw: Draw | None
) -> tuple[Array, Array]:
    estimate, state, noisy = evaluate(t, state, noisy)
    return sde_step(schedule, state, estimate, t, to, draw(noisy) if draw else None), noisy


def _heun(
    evaluate: Evaluate, schedule: Schedule, state: Array, noisy: Array, t: Array, to: Array, draw: Draw | None
) -> tuple[Array, Array]:
    """Average the estimates at both ends, by Heun's method; what is linear in the flow is solved exactly.

    Second order on a flow (Karras et al. 2022, arXiv 2206.00364, Algorithm 1; Lu et al. 2022, arXiv 2206.00927); about
    one and a half on a bridge, whose standard deviation has an infinite slope at t = 1.
    """
    first, state, noisy = evaluate(t, state, noisy)
    there = ode_step(schedule, state, first, noisy, t, to)
    second, _, noisy, state, first = evaluate(to, there, noisy, state, first)
    return ode_step(schedule, state, (first + second) / 2, noisy, t, to), noisy


def _jump(
    evaluate: Evaluate, schedule: Schedule, state: Array, noisy: Array, t: Array, to: Array, draw: Draw | None
) -> tuple[Array, Array]:
    estimate, state, noisy = evaluate(t, state, noisy, to=to)
    return jump_step(state, estimate, t, to), noisy


@dataclass(frozen=True)
class Sampler:
    """A way from noisy to clean: its step, how often that calls the network, what it draws, and its grid of times.

    draws: whether every step but the last draws noise. In its last step the SDE adds none, as sgmse and fdbm do and
    NeMo does not: no later step would remove it, and the mean of the last draw is its best estimate.
    calls: of the network in every step but the last, which calls it once.
    jumps: whether the network must have been trained for it.
    """

    step: Step
    draws: bool = False
    calls: int = 1
    jumps: bool = False
    grid: Callable[[int, float], NDArray[np.float64]] = grid

    def nfe(self, steps: int) -> int:
        """Return how many network calls so many steps take."""
        return self.calls * (steps - 1) + 1


SAMPLERS = {
    "ode": Sampler(_ode),
    "sde": Sampler(_sde, draws=True),
    "heun": Sampler(_heun, calls=2),
    "jump": Sampler(_jump, jumps=True, grid=jump_grid),
}


class FrameNoise:
    """What so many steps draw for the frames of recordings side by side, of so many channels each.

    Frame after frame, and by a generator for each, so that the noise of a recording does not depend on its blocks or on
    its neighbours.
    """

    def __init__(self, schedule: Schedule, sampler: str, steps: int, channels: Sequence[int], seed: int) -> None:
        self._draws = SAMPLERS[sampler].draws * (steps - 1) + (schedule.end_std > 0)
        self._channels, self._generators = channels, [np.random.default_rng(seed) for _ in channels]

    def draw(self, frames: int, bins: int) -> NDArray[np.float32]:
        """Draw noise with E|noise|² = 1, its real and imaginary part, [frames, draws, channels of all, bins, 2]."""
        if not self._draws:
            return np.zeros((frames, 0, sum(self._channels), bins, 2), np.float32)
        noise = [
            generator.standard_normal((frames, self._draws, count, bins, 2), np.float32)
            for generator, count in zip(self._generators, self._channels, strict=True)
        ]
        return np.concatenate(noise, axis=2) * np.float32(0.5**0.5)


def sample(
    network: Network,
    schedule: Schedule,
    noisy: Array,
    steps: int,
    sampler: str = "ode",
    draw: Draw = draw_noise,
    t_min: float = T_MIN,
    wait: Callable[..., tuple[Array, ...]] = lambda *arrays: arrays,
) -> Array:
    """Walk from `noisy` [batch, ...] to clean.

    One step is the network's estimate at t = 1, whatever the sampler: the update that would follow moves it by
    noisy_weight(t_min) (3e-5 for VE) of its distance to noisy, back towards the noise.
    draw: called in the order of the steps that draw, for noise as of `draw_noise`; before them for the end of a path
    that is not the noisy signal itself.
    wait: of a network whose estimates come late, as one with a look-ahead has them in a stream: called after each of
    several calls, it returns arrays as they belong to its estimate.
    """
    state = noisy + schedule.end_std * draw(noisy) if schedule.end_std else noisy
    if steps == 1:
        return network(state, noisy, _times(noisy, 1.0))

    def evaluate(t: Array, *arrays: Array, to: Array | None = None) -> tuple[Array, ...]:
        times = (t,) if to is None else (t, to)
        return network(arrays[0], arrays[1], *times), *wait(*arrays)

    chosen = SAMPLERS[sampler]
    times = chosen.grid(steps, t_min)
    for index in range(steps):
        last = index + 1 == steps
        step = _ode if last and chosen.calls > 1 else chosen.step
        ends = _times(noisy, float(times[index])), _times(noisy, float(times[index + 1]))
        state, noisy = step(evaluate, schedule, state, noisy, *ends, draw if chosen.draws and not last else None)
    return state


def _times(noisy: Array, value: float) -> Array:
    return zeros(noisy.real, len(noisy)) + value
