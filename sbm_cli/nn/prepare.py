"""Prepare a network for inference: its kernels pack the weights once, when it is loaded."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.mamba import Mamba

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def prepare(network: Network) -> Network:
    """Return the network for inference only, with the weights of its blocks packed as the kernels read them.

    Do not change the weights or move them to another device afterwards: the blocks would still use the packed ones.
    Forward hooks inside the blocks are not called.
    """
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, CrossBandBlock | Mamba):
            module.prepare()
    return network
