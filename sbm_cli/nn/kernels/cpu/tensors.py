"""Tensors as the kernels see them, and the threads that run kernels over them."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbm_cli.compiled.rows import CHUNK, Rows
from sbm_cli.compiled.threads import pool

SERIAL = 1 << 16  # elements below which threads cost more than they gain


def run_kernel(kernel: Any, count: int, scratch: int, *args: Any, serial: bool = False) -> None:
    """Call kernel(first, last, *args, scratch) for ranges of `count` sequences, each thread taking whole chunks."""
    chunks = -(-count // CHUNK)
    threads = 1 if serial or chunks == 1 else min(torch.get_num_threads(), chunks)
    if threads == 1:
        kernel(0, count, *args, np.empty(scratch, np.float32))
        return

    def work(first: int, last: int) -> None:
        kernel(first, last, *args, np.empty(scratch, np.float32))

    parts = min(chunks, 4 * threads)
    edges = [min(count, CHUNK * -(-chunks * i // parts)) for i in range(parts + 1)]
    list(pool(os.getpid(), threads).map(work, edges[:-1], edges[1:]))


def rows_of(x: Tensor) -> Rows:
    """Return a tensor [batch, time, band, channel] in place, if its channels adjoin."""
    x = x.detach()
    if x.stride(-1) != 1:
        x = x.contiguous()
    if x.dtype == torch.bfloat16:
        x = x.view(torch.int16)
    batch, time, band, channel = x.shape
    a, b, c, _ = x.stride()
    extent = (batch - 1) * a + (time - 1) * b + (band - 1) * c + channel
    return Rows(x.as_strided((extent,), (1,)).numpy(), (a, b, c))


def array_of(x: Tensor) -> Any:
    """Return the numbers of a tensor as a flat array: its own memory if they lie in order."""
    x = x.detach()
    return (x if x.is_contiguous() else x.contiguous()).numpy().reshape(-1)


def parts_of(x: Tensor, *sizes: int) -> list[Rows]:
    """Return parts of the last axis of a contiguous tensor, by channels; views of torch take longer."""
    array = array_of(x.view(torch.int16) if x.dtype == torch.bfloat16 else x)
    _, time, band, channel = x.shape
    strides = time * band * channel, band * channel, channel
    return [Rows(array[start:], strides) for start in itertools.accumulate(sizes[:-1], initial=0)]


def sum_of(parts: Tensor) -> Tensor:
    """Return the sum over the first axis, added in the same order on every machine."""
    return torch.from_numpy(np.add.reduce(parts.numpy(), 0))
