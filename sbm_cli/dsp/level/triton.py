"""The level of a signal as a Triton kernel for CUDA: one launch for all frames, where PyTorch takes five for each.

It has no gradient: nothing is differentiated by the level.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,import-untyped"
# (kernels carry no annotations: Triton types them)

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["frames"])
def follow(power, before, levels, frames, rise, fall):
    """Each program handles one group."""
    row = tl.program_id(0).to(tl.int64)
    level = tl.load(before + row)
    for k in range(frames):
        step = tl.load(power + row * frames + k) - level
        level += tl.maximum(rise * step, fall * step)
        tl.store(levels + row * frames + k, level)


def levels_of(power: Tensor, before: Tensor, rise: float, fall: float) -> Tensor:
    """Return the level of every frame, shaped like power [groups, frames]; before: of the frame before, [groups]."""
    power = power.contiguous()
    levels = torch.empty_like(power)
    with torch.cuda.device_of(power):
        follow[(len(power),)](power, before.contiguous(), levels, power.shape[1], rise, fall)
    return levels
