"""Paths between clean and noisy: the schedules of the bridge, and the straight path of flow matching.

Times and states are arrays of NumPy or tensors.

Source of the bridge: Jukić et al. 2024 (arXiv 2407.16074), Table 1 and Eq. 11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from sbm_cli.arrays import Array, functions

MOST = 100.0  # of every parameter: exp(100) is the largest variance that float32 nearly holds
LEAST = 1e-9  # of the variance at t = 1: below, float32 divides zero by zero on the way


class BridgeSchedule:
    """A path that ends at the noisy signal itself, fixed by its scale `alpha` and its accumulated variance `var`."""

    end_std = 0.0  # of the state at t = 1

    def alpha(self, t: Array) -> Array:
        return functions(t).ones_like(t)

    def var(self, t: Array) -> Array:
        raise NotImplementedError

    def marginal(self, t: Array) -> tuple[Array, Array, Array]:
        """Return the weights of clean and noisy and the standard deviation of the state.

        t: bridge time in [0, 1], real, any shape; 0 is clean, 1 is noisy.
        Returns three arrays shaped like t. At t = 1 they are exactly 0, 1, 0: no epsilon stands in there.

        Source: Jukić et al. 2024 (arXiv 2407.16074), Eq. 11 and the lines below it.
        """
        where, end = functions(t).where, functions(t).ones_like(t)
        alpha, alpha_end = self.alpha(t), self.alpha(end)
        var, var_end = self.var(t), self.var(end)
        rest = (var_end - var).clip(min=0)
        clean_weight = alpha * rest / var_end
        noisy_weight = alpha / alpha_end * var / var_end
        std = alpha * (rest * var / var_end) ** 0.5
        # Said outright: rounding of a vectorised exp may differ between two equal elements, and sqrt'(0) is infinite.
        at_end = t >= 1
        return where(at_end, 0 * end, clean_weight), where(at_end, end, noisy_weight), where(at_end, 0 * end, std)

    def carried(self, t_from: Array, t_to: Array) -> Array:
        """Return how much of the state's distance to its mean the probability flow keeps from t_from to t_to.

        At t_from = 1 the state is `noisy` and has none: nothing is divided by std(1) = 0.
        """
        std_from, std_to = self.marginal(t_from)[2], self.marginal(t_to)[2]
        where, moves = functions(t_from).where, std_from > 0
        return where(moves, std_to / where(moves, std_from, 1.0), 0.0)


@dataclass(frozen=True)
class VE(BridgeSchedule):
    """Variance exploding: f = 0, g² = c·k^(2t). Defaults of NVIDIA NeMo; larger c is a louder bridge."""

    k: float = 2.6
    c: float = 0.4

    def __post_init__(self) -> None:
        if not (1 < self.k <= MOST and LEAST <= self.c <= MOST):
            raise ValueError(f"VE needs 1 < k <= {MOST} and {LEAST} <= c <= {MOST}, got k = {self.k}, c = {self.c}")

    def var(self, t: Array) -> Array:
        # c·(k^(2t) - 1) / (2 ln k); expm1 keeps the digits of small t.
        log_k = math.log(self.k)
        return self.c / (2 * log_k) * functions(t).expm1(2 * log_k * t)


@dataclass(frozen=True)
class VP(BridgeSchedule):
    """Variance preserving: f = -b(t)/2, g² = c·b(t), b linear from beta0 to beta1."""

    beta0: float = 0.01
    beta1: float = 20.0
    c: float = 0.3

    def __post_init__(self) -> None:
        _check_betas("VP", self.beta0, self.beta1)
        if not LEAST <= self.c <= MOST:
            raise ValueError(f"VP needs {LEAST} <= c <= {MOST}, got c = {self.c}")

    def alpha(self, t: Array) -> Array:
        return functions(t).exp(-0.5 * _integral(self.beta0, self.beta1, t))

    def var(self, t: Array) -> Array:
        return self.c * functions(t).expm1(_integral(self.beta0, self.beta1, t))


@dataclass(frozen=True)
class GMax(BridgeSchedule):
    """Growing diffusion without drift: f = 0, g² = b(t), b linear from beta0 to beta1."""

    beta0: float = 0.01
    beta1: float = 20.0

    def __post_init__(self) -> None:
        _check_betas("GMax", self.beta0, self.beta1)

    def var(self, t: Array) -> Array:
        return _integral(self.beta0, self.beta1, t)


@dataclass(frozen=True)
class Brownian(BridgeSchedule):
    """Brownian bridge: f = 0, g² = rho², so that the marginal's standard deviation is rho·√(t(1 - t))."""

    rho: float = 1.0

    def __post_init__(self) -> None:
        if not LEAST <= self.rho**2 <= MOST**2:
            raise ValueError(f"Brownian needs {LEAST**0.5:.1e} <= rho <= {MOST}, got rho = {self.rho}")

    def var(self, t: Array) -> Array:
        return self.rho**2 * t


@dataclass(frozen=True)
class Flow:
    """The straight path of flow matching: (1 - t)·clean + t·noisy + t·sigma·noise.

    sigma: of the noise around the noisy signal, where the path ends; 0 ends at the noisy signal itself.
    Source: Lipman et al. 2023 (arXiv 2210.02747), with the noisy signal as the mean of the prior.
    """

    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= MOST:
            raise ValueError(f"Flow needs 0 <= sigma <= {MOST}, got sigma = {self.sigma}")

    @property
    def end_std(self) -> float:
        return self.sigma

    def marginal(self, t: Array) -> tuple[Array, Array, Array]:
        return 1 - t, t, self.sigma * t

    def carried(self, t_from: Array, t_to: Array) -> Array:
        """Return what a straight line to the estimate, Euler's step, keeps of the distance to the path."""
        return t_to / t_from


SCHEDULES = {"ve": VE, "vp": VP, "gmax": GMax, "brownian": Brownian, "flow": Flow}
Schedule = Annotated[VE | VP | GMax | Brownian | Flow, SCHEDULES]


def mean(schedule: Schedule, clean: Array, noisy: Array, t: Array) -> Array:
    """Return the mean of the state, shaped like clean and noisy [batch, ...]; t is [batch] or a scalar."""
    clean_weight, noisy_weight, _ = schedule.marginal(t)
    return expand(clean_weight, clean) * clean + expand(noisy_weight, noisy) * noisy


def sample_state(schedule: Schedule, clean: Array, noisy: Array, t: Array, noise: Array) -> Array:
    """Return x_t = clean_weight·clean + noisy_weight·noisy + std·noise.

    clean, noisy, noise: [batch, ...]; t: [batch] or a scalar. For a complex state `noise` is circular complex
    normal with E|noise|² = 1, which is what `torch.randn` draws in a complex dtype (see `draw_noise`). Whoever
    holds real and imaginary part as two real channels must draw randn/√2 in each, or the noise is 3 dB too loud.
    """
    return mean(schedule, clean, noisy, t) + expand(schedule.marginal(t)[2], noise) * noise


def expand(weight: Array, like: Array) -> Array:
    """Give a weight [batch] (or a scalar) trailing axes of size 1, so that it multiplies `like` [batch, ...]."""
    return weight.reshape(weight.shape + (1,) * (like.ndim - weight.ndim))


def _integral(beta0: float, beta1: float, t: Array) -> Array:
    """B(t) = ∫₀ᵗ beta0 + s·(beta1 - beta0) ds."""
    return beta0 * t + 0.5 * (beta1 - beta0) * t * t


def _check_betas(name: str, beta0: float, beta1: float) -> None:
    if not (0 <= beta0 < beta1 <= MOST and beta0 + beta1 >= LEAST):
        raise ValueError(
            f"{name} needs 0 <= beta0 < beta1 <= {MOST}, beta1 not below {LEAST}, got beta0 = {beta0}, beta1 = {beta1}"
        )
