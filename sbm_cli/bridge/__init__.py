"""The Schrödinger bridge between a clean and a noisy tensor: schedules, marginal, samplers.

Knows torch and nothing else: a state is any tensor [batch, ...], complex or real.
"""

from sbm_cli.bridge.sampler import (
    SAMPLERS,
    Network,
    Sampler,
    draw_noise,
    grid,
    jump_grid,
    jump_step,
    ode_step,
    one_step,
    sample,
    sde_step,
)
from sbm_cli.bridge.schedule import SCHEDULES, VE, VP, Brownian, Flow, GMax, Schedule, marginal, mean, sample_state

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "VE",
    "VP",
    "Brownian",
    "Flow",
    "GMax",
    "Network",
    "Sampler",
    "Schedule",
    "draw_noise",
    "grid",
    "jump_grid",
    "jump_step",
    "marginal",
    "mean",
    "ode_step",
    "one_step",
    "sample",
    "sample_state",
    "sde_step",
]
