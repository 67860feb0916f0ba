"""The loss of a batch: the mean of its items', whatever they stand beside; times and levels as the recipe says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sbm_cli.bridge.schedule import VE
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.training.config import TimeConfig, TrainConfig
from sbm_cli.training.losses import LossConfig
from sbm_cli.training.objectives.bridge import Bridge
from sbm_cli.training.objectives.examples import draw_time
from sbm_cli.training.objectives.objective import STUDENT, Batch


def mixtures(items: int) -> tuple[torch.Tensor, torch.Tensor]:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    return clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1)), clean


def moved(config: TrainConfig) -> OSpatialNet:
    torch.manual_seed(0)
    network = OSpatialNet(config.model.network)
    with torch.no_grad():  # away from the start, where it returns its input whatever the time
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def batch_loss(
    config: TrainConfig,
    network: torch.nn.Module,
    noisy: torch.Tensor,
    clean: torch.Tensor,
    step: int,
    items: torch.Tensor,
) -> torch.Tensor:
    return Bridge().loss(config, Batch(noisy, clean, step, items), STUDENT, {STUDENT: network})


def test_a_batch_is_the_mean_of_its_items(recipe: TrainConfig) -> None:
    network, (noisy, clean) = moved(recipe), mixtures(5)
    items = torch.tensor([3, 0, 7, 8, 1])
    with torch.no_grad():
        whole = batch_loss(recipe, network, noisy, clean, 4, items)
        single = [batch_loss(recipe, network, noisy[[i]], clean[[i]], 4, items[[i]]) for i in range(5)]
        other = batch_loss(recipe, network, noisy, clean, 5, items)
    assert whole.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-4)
    assert other.item() != pytest.approx(whole.item(), rel=1e-4)  # times and noise of another step


def test_without_noise_the_untrained_network_loses_what_its_input_does(recipe: TrainConfig) -> None:
    """At t = 1 it returns the noisy spectrum; the waveform term alone is then minus the log10 of its SNR."""
    config = replace(recipe, time=TimeConfig(end_mass=1.0), loss=LossConfig(magnitude=0.0, complex=0.0))
    noisy, clean = mixtures(3)
    loss = batch_loss(config, OSpatialNet(config.model.network), noisy, clean, 0, torch.arange(3))
    expected = -torch.log10(clean.square().sum(1) / (noisy - clean).square().sum(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-2)


def test_times_have_the_stated_point_mass(recipe: TrainConfig) -> None:
    config = replace(recipe, time=TimeConfig(end_mass=0.5, final_end_mass=0.8, final_part=0.15), steps=1000)
    silence, items = torch.zeros(4000, 1), torch.arange(4000)
    for step, mass in ((0, 0.5), (849, 0.5), (850, 0.8)):
        times = draw_time(config, Batch(silence, silence, step, items))
        assert (times == 1).float().mean().item() == pytest.approx(mass, abs=0.03)
        rest = times[times < 1]
        assert rest.min() >= 1e-4 and rest.mean().item() == pytest.approx(0.5, abs=0.04)


def test_a_louder_bridge_is_heard_before_its_end(recipe: TrainConfig) -> None:
    network, (noisy, clean) = moved(recipe), mixtures(4)
    loud = replace(recipe, model=replace(recipe.model, schedule=VE(c=2.0)))
    for mass, same in ((1.0, True), (0.0, False)):
        time = TimeConfig(end_mass=mass, final_end_mass=mass)
        pair = [
            batch_loss(replace(config, time=time), network, noisy, clean, 0, torch.arange(4)).item()
            for config in (recipe, loud)
        ]
        assert (pair[0] == pytest.approx(pair[1], rel=1e-5)) == same
