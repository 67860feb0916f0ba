"""Samplers: one step at t = 1, and the probability-flow ODE and the SDE for those who want the trajectory.

The network is always told the time of the state it sees, never the time it is to reach: with one step it sees
x = y together with t = 1, the pair it met in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sbm_cli.bridge.schedule import Schedule, expand, marginal, mean

T_MIN = 1e-4  # Jukić et al. 2024 and NeMo: smallest time in training, last time of the grid


class Network(Protocol):
    """Data prediction: state and noisy [batch, ...], t [batch] in; the estimate of clean [batch, ...] out."""

    def __call__(self, state: Tensor, noisy: Tensor, t: Tensor) -> Tensor: ...


def one_step(network: Network, noisy: Tensor) -> Tensor:
    """Return the estimate from the noisy end of the bridge: one call, no noise, no update, so no seed either."""
    return network(noisy, noisy, _times(noisy, 1.0))


def grid(steps: int, t_min: float = T_MIN) -> Tensor:
    """Return the times t_0 = 1 > … > t_steps = t_min, equally spaced, float64 [steps + 1].

    Raises ValueError if steps < 1 or t_min is outside (0, 1).
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < t_min < 1:
        raise ValueError(f"t_min must lie in (0, 1), got {t_min}")
    return torch.linspace(1.0, t_min, steps + 1, dtype=torch.float64, device="cpu")


def ode_step(
    schedule: Schedule,
    state: Tensor,
    estimate: Tensor,
    noisy: Tensor,
    t_from: Tensor,
    t_to: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Take one step of the probability flow: rescale the residual around the new mean.

    state, estimate, noisy: [batch, ...]; t_from, t_to: [batch], t_to ≤ t_from. At t_from = 1 the state is `noisy` and
    carries no residual: the step is the new mean, and nothing is divided by std(1) = 0.
    Equal to the published three-weight form (arXiv 2407.16074; NeMo), without its singularity at t = 1.

    Raises ValueError if a time leaves [0, 1] or t_to > t_from.
    """
    _check_direction(t_from, t_to)
    std_from, std_to = marginal(schedule, t_from)[2], marginal(schedule, t_to)[2]
    at_rest = std_from <= 0
    scale = torch.where(at_rest, 0.0, std_to / torch.where(at_rest, 1.0, std_from))
    residual = state - mean(schedule, estimate, noisy, t_from)
    return mean(schedule, estimate, noisy, t_to) + expand(scale, state) * residual


def sde_step(
    schedule: Schedule,
    state: Tensor,
    estimate: Tensor,
    noisy: Tensor,
    t_from: Tensor,
    t_to: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Take one step of the SDE: draw x_(t_to) given x_(t_from) and the estimate, exact for a constant estimate.

    state, estimate, noise: [batch, ...]; t_from, t_to: [batch], t_to ≤ t_from, t_from > 0. Without noise it returns
    the mean of that draw. It does not look at `noisy`: the state holds what the bridge still has of it.

    Raises ValueError if a time leaves [0, 1], t_to > t_from, or t_from = 0.
    """
    _check_direction(t_from, t_to)
    if bool((t_from <= 0).any()):
        raise ValueError("an SDE step cannot start at t = 0, where the bridge has arrived")
    var_to = schedule.var(t_to)
    ratio = var_to / schedule.var(t_from)
    alpha_from, alpha_to = schedule.alpha(t_from), schedule.alpha(t_to)
    result = expand(alpha_to / alpha_from * ratio, state) * state + expand(alpha_to * (1 - ratio), state) * estimate
    if noise is None:
        return result
    return result + expand(alpha_to * (var_to * (1 - ratio)).sqrt(), noise) * noise


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw noise of the shape, dtype and device of `like` with E|noise|² = 1 per element.

    Complex `like`: circular complex normal, variance 1/2 in each of real and imaginary part. Real `like`: standard
    normal; so not for a complex state held as two real channels, which needs randn/√2 (or `torch.view_as_complex`).
    The generator may live on the CPU whatever the device of `like`, for equal draws everywhere.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator).to(like.device)


class Step(Protocol):
    """One update of the state [batch, ...] from t_from to t_to [batch], given the estimate at t_from."""

    def __call__(
        self,
        schedule: Schedule,
        state: Tensor,
        estimate: Tensor,
        noisy: Tensor,
        t_from: Tensor,
        t_to: Tensor,
        noise: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Sampler:
    """A way from noisy to clean: its update, its grid of times, and whether it draws noise for every step but the last.

    The SDE adds none in its last step, as sgmse and fdbm do and NeMo does not: no later step would remove it, and the
    mean of the last draw is its best estimate.
    """

    step: Step
    draws: bool
    grid: Callable[[int, float], Tensor] = grid


SAMPLERS = {"ode": Sampler(ode_step, draws=False), "sde": Sampler(sde_step, draws=True)}


def sample(
    network: Network,
    schedule: Schedule,
    noisy: Tensor,
    steps: int,
    sampler: str = "ode",
    draw: Callable[[Tensor], Tensor] = draw_noise,
    t_min: float = T_MIN,
    wait: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda state, noisy: (state, noisy),
) -> Tensor:
    """Walk the bridge from `noisy` [batch, ...] to clean; NFE = steps.

    With one step every sampler is `one_step`: the update that would follow moves the estimate by noisy_weight(t_min)
    (3e-5 for VE) of its distance to noisy, back towards the noise.
    draw: called in the order of the steps that draw, for noise as of `draw_noise`.
    wait: of a network whose estimates come late, as one with a look-ahead has them in a stream: called after each of
    several steps, it returns state and noisy as they belong to its estimate.

    Raises ValueError for an unknown sampler, steps < 1, or t_min outside (0, 1).
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    chosen = SAMPLERS[sampler]
    times = chosen.grid(steps, t_min).tolist()
    if steps == 1:
        return one_step(network, noisy)
    state = noisy
    for index in range(steps):
        t_from, t_to = _times(noisy, times[index]), _times(noisy, times[index + 1])
        estimate = network(state, noisy, t_from)
        state, noisy = wait(state, noisy)
        noise = draw(noisy) if chosen.draws and index + 1 < steps else None
        state = chosen.step(schedule, state, estimate, noisy, t_from, t_to, noise)
    return state


def _times(noisy: Tensor, value: float) -> Tensor:
    return torch.full((noisy.shape[0],), value, dtype=noisy.real.dtype, device=noisy.device)


def _check_direction(t_from: Tensor, t_to: Tensor) -> None:
    if not bool(((t_to >= 0) & (t_to <= t_from) & (t_from <= 1)).all()):
        raise ValueError(f"a step goes from t_from down to t_to in [0, 1], got {t_from.tolist()} to {t_to.tolist()}")
