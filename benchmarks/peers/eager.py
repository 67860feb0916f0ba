"""A Mamba block as published for machines without its CUDA kernels: what everything that is faster is compared with.

After `selective_scan_ref` and `Mamba.forward` of state-spaces/mamba (Apache-2.0), written anew: the whole file at once,
channels before time, all the decays and inputs of the states in memory, then one frame after another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.nn.kernels import MambaCarry, MambaWeights


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gated scan and the last state [sequence, channel, state].

    u, dt, z: [sequence, channel, time]; A: [channel, state]; B, C: [sequence, state, time].
    """
    step = F.softplus(dt)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", step, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", step, B, u)
    outputs = []
    for k in range(u.shape[2]):
        state = decay[:, :, k] * state + drive[:, :, k]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, k]))
    return (torch.stack(outputs, 2) + u * D[:, None]) * F.silu(z), state


def mamba(x: Tensor, weights: MambaWeights, carry: MambaCarry | None = None) -> tuple[Tensor, MambaCarry]:
    """Take the place of `sbm_cli.nn.kernels.reference.mamba`."""
    in_proj, conv, x_proj, dt_proj, A, D, out_proj = weights
    batch, time, band, channels = x.shape
    (inner, state), (_, rank), past = A.shape, dt_proj[0].shape, conv[0].shape[2] - 1
    before, h = carry or (x.new_zeros(batch, band, inner, past), x.new_zeros(batch, band, inner, state))
    sequences = x.permute(0, 2, 1, 3).reshape(-1, time, channels)
    u, z = F.linear(sequences, in_proj).transpose(1, 2).chunk(2, 1)
    u = torch.cat([before.flatten(0, 1), u], 2)
    after = u[..., time:].view(before.shape)
    u = F.silu(F.conv1d(u, *conv, groups=inner))
    low, B, C = F.linear(u.transpose(1, 2), x_proj).split([rank, state, state], -1)
    steps = F.linear(low, *dt_proj).transpose(1, 2)
    y, last = selective_scan(u, steps, A, B.transpose(1, 2), C.transpose(1, 2), D, z, h.flatten(0, 1))
    out = F.linear(y.transpose(1, 2), out_proj).view(batch, band, time, channels).permute(0, 2, 1, 3)
    return out, (after, last.view(h.shape))
