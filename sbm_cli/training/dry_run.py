"""What a training would do, found out in seconds: nothing is trained, and nothing stays on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sbm_cli.data.sources import Bars, measured, mixtures_of, open_data
from sbm_cli.hardware import chosen_device
from sbm_cli.model import Model
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.launch import chosen_processes

FEW = 4  # recordings of each source, rooms and mixtures


@dataclass(frozen=True)
class Forecast:
    """device, processes: that would train. seconds: of the recordings by (kind, split), as their headers say."""

    device: str
    processes: int
    parameters: int
    seconds: Mapping[tuple[str, str], list[float]]


def dry_run(
    config: TrainConfig, start: Path | None, device: str, processes: int | None, bars: Bars | None = None
) -> Forecast:
    """Build the network, make a few mixtures, and read the headers of all recordings. Raises what `train` raises.

    The arguments are those of `train`. A pack is read whole.
    """
    device, data = chosen_device(device), config.data
    network = config.model.network.build()
    if start is not None:
        network.inherit(Model.load(start).network)
    network.to(device)
    with TemporaryDirectory(ignore_cleanup_errors=True) as cache:  # Windows keeps what is mapped
        corpus, rooms = open_data(replace(data, cache=cache, rooms=min(data.rooms, FEW)), few=FEW)
        sources = mixtures_of(corpus, rooms, data, config.mix, torch.device(device))
        sources.train.batch(config.seed, 0, range(min(config.batch, FEW)))
    count = sum(weights.numel() for weights in network.parameters())
    return Forecast(device, chosen_processes(processes, device, config.batch), count, measured(data, corpus, bars))
