"""Mixtures as spectra: their level, and the estimate of a network that looks ahead."""

from __future__ import annotations

from dataclasses import replace

import torch

from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.spectra import predict


def mixtures(items: int) -> tuple[torch.Tensor, torch.Tensor]:
    clean = 0.1 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(0))
    return clean + 0.05 * torch.randn(items, 4000, generator=torch.Generator().manual_seed(1)), clean


def test_warm_levels_lie_around_the_segment_s(recipe: TrainConfig) -> None:
    noisy, clean = mixtures(2)
    y, cold = recipe.model.to_network(noisy)
    _, same = recipe.model.to_network(noisy, torch.zeros(2))
    _, warm = recipe.model.to_network(noisy, torch.tensor([4.0, 0.0]))
    assert torch.equal(cold, same) and torch.equal(cold[1], warm[1])
    power = recipe.model.stft.forward(noisy)[0].abs().square().mean(0)
    assert warm[0, 0] < 4 * power.mean() and warm[0, 0] > 3.5 * power.mean()  # it falls slowly
    assert y.shape == (2, 257, cold.shape[1])


def test_lookahead_shifts_the_estimate_back(recipe: TrainConfig) -> None:
    model = replace(recipe.model, network=replace(recipe.model.network, lookahead=2))
    config = replace(recipe, model=model)
    noisy, clean = mixtures(1)
    y, _ = model.to_network(noisy)
    estimate = predict(config, OSpatialNet(model.network), y, y, torch.ones(1))
    torch.testing.assert_close(estimate, y)  # untrained: what came in, in its place
