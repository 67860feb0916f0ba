"""The specification: selective scan and causal convolution as plain loops, in any float dtype, differentiable.

`selective_scan` and `causal_conv1d` are what every other implementation is compared with; `selective_scan_eager` is the
same recurrence with in-place operations, without gradient, for machines where Numba cannot be had.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the gated selective state space recurrence step by step (shapes as in `sbm_cli.nn.scan.selective_scan`).

    Source: Gu & Dao 2023 (arXiv 2312.00752), `selective_scan_ref` of state-spaces/mamba with delta_softplus.
    """
    step = F.softplus(dt)
    drive = step * u
    state = u.new_zeros(u.shape[0], *u.shape[2:], A.shape[1]) if carry is None else carry
    outputs = []
    for k in range(u.shape[1]):
        # h_k = exp(dt_k A) h_{k-1} + dt_k u_k B_k;  y_k = <C_k, h_k>
        decay = torch.exp(step[:, k, ..., None] * A)
        state = decay * state + drive[:, k, ..., None] * B[:, k, :, None]
        outputs.append((state * C[:, k, :, None]).sum(-1))
    scanned = torch.stack(outputs, 1) if outputs else torch.zeros_like(u)
    return (scanned + D * u) * F.silu(z), state


@torch.no_grad()
def selective_scan_eager(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the same recurrence with in-place tensor operations: less memory, no gradient."""
    batch, time, band, channel = u.shape
    step = F.softplus(dt)
    drive = step * u
    scanned = D * u
    state = u.new_zeros(batch, band, channel, A.shape[1]) if carry is None else carry.clone()
    work = torch.empty_like(state)
    for k in range(time):
        torch.mul(step[:, k, ..., None], A, out=work).exp_()
        state.mul_(work).addcmul_(drive[:, k, ..., None], B[:, k, :, None])
        scanned[:, k] += torch.matmul(state, C[:, k, ..., None])[..., 0]
    return scanned.mul_(F.silu(z)), state


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve every channel over its past and apply SiLU (shapes as in `sbm_cli.nn.scan.causal_conv1d`)."""
    past = weight.shape[-1] - 1
    before = x.new_zeros(x.shape[0], past, *x.shape[2:]) if carry is None else carry.permute(0, 3, 1, 2)
    padded = torch.cat([before, x], 1)
    taps = weight[:, 0]  # [channel, K]
    total = bias
    for j in range(past + 1):
        total = total + taps[:, j] * padded[:, j : j + x.shape[1]]
    return F.silu(total), padded[:, x.shape[1] :].permute(0, 2, 3, 1)
