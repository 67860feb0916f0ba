"""The estimate of a network that looks ahead stands where its input did."""

from __future__ import annotations

from dataclasses import replace

import torch

from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.objectives.examples import predict


def test_lookahead_shifts_the_estimate_back(recipe: TrainConfig) -> None:
    model = replace(recipe.model, network=replace(recipe.model.network, lookahead=2))
    y, _ = model.to_network(0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)))
    estimate = predict(replace(recipe, model=model), OSpatialNet(model.network), y, y, torch.ones(1))
    torch.testing.assert_close(estimate, y)  # untrained: what came in, in its place
