"""A network at rest: what its kernels make of its weights is made once, when it is loaded to enhance."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from sbm_cli.nn.blocks import CrossBandBlock
from sbm_cli.nn.mamba import Mamba

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def prepare(network: Network) -> Network:
    """Return the network for inference alone, the weights of its blocks turned and packed as their kernels read them.

    Do not change the weights afterwards, nor move them to another device: the blocks would go on with what they packed.
    Forward hooks inside of the blocks are not called. An unprepared network is plain modules.
    """
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, CrossBandBlock | Mamba):
            module.prepare()
    return network
