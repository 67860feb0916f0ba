"""A small network whose weights have left their starting point."""

from __future__ import annotations

import pytest
import torch

from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig


def perturbed(config: OSpatialNetConfig) -> OSpatialNet:
    """Return a network far from its start, where every branch matters."""
    torch.manual_seed(0)
    network = OSpatialNet(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.fixture(params=[0, 2], ids=["no look-ahead", "look-ahead 2"])
def network(request: pytest.FixtureRequest) -> OSpatialNet:
    return perturbed(
        OSpatialNetConfig(bins=33, channels=8, blocks=2, d_state=4, cross_groups=2, head=4, lookahead=request.param)
    )
