"""Flow matching: the velocity's error, told by an estimate of clean, and the noise at the end of the path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sbm_cli.bridge.schedule import Flow
from sbm_cli.config import build, dump
from sbm_cli.errors import ConfigError
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.training.config import TimeConfig, TrainConfig
from sbm_cli.training.objectives.examples import draw_state, draw_time, predict, to_spectra
from sbm_cli.training.objectives.flow import FlowMatching
from sbm_cli.training.objectives.objective import STUDENT, Batch


@pytest.fixture
def flow(recipe: TrainConfig) -> TrainConfig:
    model = replace(recipe.model, schedule=Flow(0.4))
    return replace(recipe, model=model, objective=FlowMatching(velocity=1.0, data=0.0, t_bound=0.2))


def batch(items: int = 4) -> Batch:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1))
    return Batch(noisy, clean, 3, torch.arange(items))


def drawn(config: TrainConfig, of: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return clean, noisy, times and states as the objective draws them."""
    spectra, t = to_spectra(config, of), draw_time(config, of)
    return spectra.clean, spectra.noisy, t, draw_state(config, of, spectra.clean, spectra.noisy, t)


def test_the_loss_is_the_squared_error_of_the_velocity(flow: TrainConfig) -> None:
    """That of the path is d state / dt = noisy + sigma noise - clean, and the network's leads to its estimate."""
    flow = replace(flow, time=TimeConfig(t_min=0.2, end_mass=0.25, final_end_mass=0.25))
    torch.manual_seed(0)
    network = OSpatialNet(flow.model.network)
    clean, noisy, t, state = drawn(flow, batch(8))
    times = t[:, None, None]
    noise = (state - (1 - times) * clean - times * noisy) / (0.4 * times)
    assert float(noise.abs().square().mean()) == pytest.approx(1, rel=0.05)
    velocity = noisy + 0.4 * noise - clean
    with torch.no_grad():
        found = (state - predict(flow, network, state, noisy, t)) / times
        loss = flow.objective.loss(flow, batch(8), STUDENT, {STUDENT: network})
    assert 1 in t.tolist() and float(t.min()) < 0.5
    assert float(loss) == pytest.approx(float((found - velocity).abs().square().mean()), rel=1e-4)


def test_small_times_weigh_no_more_than_the_bound(flow: TrainConfig) -> None:
    flow = replace(flow, time=TimeConfig(end_mass=0.0, final_end_mass=0.0))
    clean, _, t, _ = drawn(flow, batch(16))

    class Off(torch.nn.Module):  # by 1 everywhere
        def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
            return clean + 1, None

    loss = flow.objective.loss(flow, batch(16), STUDENT, {STUDENT: Off()})
    assert float(t.min()) < 0.2
    assert float(loss) == pytest.approx(float((1 / t.clamp_min(0.2) ** 2).mean()), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_a_path_that_ends_in_noise_is_trained_with_it(flow: TrainConfig, sigma: float) -> None:
    flow = replace(flow, model=replace(flow.model, schedule=Flow(sigma)), time=TimeConfig(final_end_mass=1, end_mass=1))
    _, noisy, t, state = drawn(flow, batch())
    assert (t == 1).all()
    assert float((state - noisy).abs().square().mean().sqrt()) == pytest.approx(sigma, rel=0.05)


def test_a_bridge_has_no_velocity(recipe: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="needs a straight path: model.schedule of kind flow"):
        build(TrainConfig, {**dump(recipe), "objective": {"kind": "flow"}}, "recipe")
    with pytest.raises(ValueError, match="velocity and data are both 0|must be"):
        FlowMatching(velocity=0.0, data=0.0)
