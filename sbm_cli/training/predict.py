"""The network's estimate with the precision and the look-ahead of a training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig


def predict(
    config: TrainConfig,
    network: nn.Module,
    state: Tensor,
    noisy: Tensor,
    t: Tensor,
    room: Tensor | None = None,
    to: Tensor | None = None,
) -> Tensor:
    """Return the estimate of the clean spectrum, shaped like noisy [items, freq, frames]; room, to: as the network."""
    late = config.model.network.lookahead
    if late:
        state, noisy = (F.pad(x, (0, late)) for x in (state, noisy))
    with autocast(config.loop.precision, noisy.device):
        return network(state, noisy, t, None, room, to)[0][..., late:]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 or float16 inside; scans, sums and the loss stay in float32."""
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")
