"""The specification: every operation in plain PyTorch, in any float dtype, differentiable.

All other implementations are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.nn.kernels import MambaCarry, MambaWeights
from sbm_cli.nn.kernels.dispatch import kernel


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the gated selective scan: h_k = exp(s_k A) h_{k-1} + s_k u_k B_k, y_k = (<C_k, h_k> + D u_k) silu(z_k).

    u, dt, z: [batch, time, band, channel], s = softplus(dt); A: [channel, state], negative; D: [channel];
    B, C: [batch, time, band, state]; carry: h before the first frame, [batch, band, channel, state], zeros if absent.
    Slices of wider tensors are read in place. Returns y, shaped like u, and h after the last frame.
    Differentiable in everything; only with "mamba_ssm" the returned carry has no gradient. Half precision is computed
    in float32.

    Source: Gu & Dao 2023 (arXiv 2312.00752), Algorithm 2; `selective_scan_ref` of state-spaces/mamba.
    """
    dtype, out = _computed_in(u), u.dtype
    u, dt, A, B, C, D, z = (x.to(dtype) for x in (u, dt, A, B, C, D, z))
    step = F.softplus(dt)
    drive = step * u
    state = u.new_zeros(u.shape[0], *u.shape[2:], A.shape[1]) if carry is None else carry.to(dtype)
    outputs = []
    for k in range(u.shape[1]):
        # h_k = exp(dt_k A) h_{k-1} + dt_k u_k B_k;  y_k = <C_k, h_k>
        decay = torch.exp(step[:, k, ..., None] * A)
        state = torch.addcmul(decay * state, drive[:, k, ..., None], B[:, k, :, None])
        outputs.append((state * C[:, k, :, None]).sum(-1))
    scanned = torch.stack(outputs, 1) if outputs else torch.zeros_like(u)
    return ((scanned + D * u) * F.silu(z)).to(out), state


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve every channel over its own past and apply SiLU.

    x: [batch, time, band, channel]; weight: [channel, 1, K], the last tap meets the present frame; bias: [channel];
    carry: the K - 1 inputs before the first frame, [batch, band, channel, K - 1], zeros if absent.
    Returns y, shaped like x, and the last K - 1 inputs. Differentiable in everything. Half precision is computed in
    float32.
    """
    dtype, out = _computed_in(x), x.dtype
    x, weight, total = (part.to(dtype) for part in (x, weight, bias))
    past = weight.shape[-1] - 1
    before = x.new_zeros(x.shape[0], past, *x.shape[2:]) if carry is None else carry.to(dtype).permute(0, 3, 1, 2)
    padded = torch.cat([before, x], 1)
    taps = weight[:, 0]  # [channel, K]
    for j in range(past + 1):
        total = total + taps[:, j] * padded[:, j : j + x.shape[1]]
    return F.silu(total).to(out), padded[:, x.shape[1] :].permute(0, 2, 3, 1)


def mamba(x: Tensor, weights: MambaWeights, carry: MambaCarry | None = None) -> tuple[Tensor, MambaCarry]:
    """Run a Mamba block: projection, convolution, scan, projection; here with the implementation in use of each.

    x: [batch, time, band, channels]. Returns the output, shaped like x, in autocast's type if there is one, and the
    carry after the last frame.
    """
    in_proj, conv, x_proj, dt_proj, A, D, out_proj = weights
    state, rank = A.shape[1], dt_proj[0].shape[1]
    conv_carry, scan_carry = carry if carry is not None else (None, None)
    u, z = F.linear(x, in_proj).chunk(2, -1)
    u, conv_carry = kernel("causal_conv1d", u)(u, *conv, conv_carry)
    low, B, C = F.linear(u, x_proj).split([rank, state, state], -1)
    y, scan_carry = kernel("selective_scan", u)(u, F.linear(low, *dt_proj), A, B, C, D, z, scan_carry)
    return F.linear(y, out_proj), (conv_carry, scan_carry)


def band_conv(x: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return x + silu(conv(norm(x))): a LayerNorm over the channels, a convolution along the bands, residual.

    x: [batch, time, band, channel]; gain, offset: [channel], of the LayerNorm; weight: [channel, channel // groups,
    kernel] and bias: [channel] as in nn.Conv1d, padded with zeros to the same length.
    """
    kernel, normed = weight.shape[-1], F.layer_norm(x, x.shape[-1:], gain, offset)
    rows = normed.flatten(0, 1).transpose(1, 2)  # [batch * time, channel, band]
    if kernel % 2 == 0:  # PyTorch warns about "same" there
        rows = F.pad(rows, ((kernel - 1) // 2, kernel // 2))
    padding = (kernel - 1) // 2 if kernel % 2 else 0
    return x + F.silu(F.conv1d(rows, weight, bias, padding=padding, groups=groups)).transpose(1, 2).reshape(x.shape)


def band_linear(
    x: Tensor, squeeze: Tensor, squeeze_bias: Tensor, weight: Tensor, bias: Tensor, expand: Tensor, expand_bias: Tensor
) -> Tensor:
    """Return x + silu(expand(W silu(squeeze(norm(x))))), norm a LayerNorm without gain and offset, W along the bands.

    x: [batch, time, band, channel]; squeeze: [squeezed, channel]; weight: [squeezed, band, band], from and to; bias:
    [band, squeezed]; expand: [channel, squeezed]; their biases as in nn.Linear.
    """
    narrow = F.silu(F.linear(F.layer_norm(x, x.shape[-1:]), squeeze, squeeze_bias))
    mixed = torch.einsum("btfc,cfg->btgc", narrow, weight) + bias
    return x + F.silu(F.linear(mixed, expand, expand_bias))


def _computed_in(x: Tensor) -> torch.dtype:
    """Return float64 for float64, and float32 for all lower precisions."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


OPERATIONS: dict[str, Callable[..., Any]] = {
    "selective_scan": selective_scan,
    "causal_conv1d": causal_conv1d,
    "mamba": mamba,
    "band_conv": band_conv,
    "band_linear": band_linear,
}
