"""Exponential moving average of the weights: what is validated and released."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(average: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the network's state; short at first, so that the random start is soon forgotten.

    step counts from 0; the decay grows as (1 + step) / (10 + step) up to `decay` (as TensorFlow's moving average does).
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)
