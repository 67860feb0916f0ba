"""Several processes that share each batch: gradients summed, stops agreed on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn


@contextlib.contextmanager
def on_stop(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` when the process is interrupted or told to end, instead of ending it."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def share_gradients(network: nn.Module, loss: float, size: int) -> float:
    """Sum gradients and loss over the processes, in one message."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if size == 1:
        return loss
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None] + [torch.tensor([loss])])
    dist.all_reduce(flat)
    position = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[position : position + p.numel()].view_as(p))
        position += p.numel()
    return float(flat[-1])


def agree(flag: bool, size: int) -> bool:
    """Return process 0's flag: clocks differ, and all must stop at the same step."""
    if size == 1:
        return flag
    shared = torch.tensor([float(flag)])
    dist.broadcast(shared, 0)
    return bool(shared)
