"""Adapter to the CUDA kernel of mamba-ssm, which starts from zero state and takes [batch, channel, time].

The package can be imported without the kernel (a plain `pip install` has not built it since 2.3.2), so `missing` checks
the compiled module itself.
"""

import importlib

import torch
from torch import Tensor
from torch.nn import functional as F

INTERFACE = "mamba_ssm.ops.selective_scan_interface"
CURE = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation"


def missing() -> str:
    """Return "" if the kernel can be called, otherwise what is wrong and the cure."""
    try:
        interface = importlib.import_module(INTERFACE)
    except ImportError as error:
        if error.name == "selective_scan_cuda":  # releases before 2.3 always import it
            return f"mamba-ssm is installed without its Mamba-1 kernel: {CURE}"
        if error.name == "mamba_ssm":
            return f"mamba-ssm is not installed: {CURE}"
        return f"mamba-ssm cannot be imported ({error}): {CURE}"
    if getattr(interface, "selective_scan_cuda", None) is None:
        return f"mamba-ssm is installed without its Mamba-1 kernel: {CURE}"
    return ""


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run mamba-ssm's kernel (shapes as in `reference.selective_scan`).

    The recurrence is linear in its state, so the contribution of a carry is added separately and exactly. The returned
    carry is detached: the kernel has no gradient through its last state.
    """
    batch, _, band, channel = u.shape
    kernel = importlib.import_module(INTERFACE).selective_scan_fn
    y, last = kernel(
        *(_to_kernel(x) for x in (u, dt)),
        A.float(),
        *(_to_kernel(x) for x in (B, C)),
        D=D.float(),
        z=_to_kernel(z) if carry is None else None,
        delta_softplus=True,
        return_last_state=True,
    )
    y = y.unflatten(0, (batch, band)).permute(0, 3, 1, 2)
    last = last.detach().unflatten(0, (batch, band))
    if carry is None:
        return y, last
    # y_k += <C_k, exp(A sum_{j <= k} s_j) h_0>, state by state to avoid a tensor of [..., channel, state]
    elapsed = F.softplus(dt.float()).cumsum(1)
    decays = A.float()
    for n in range(A.shape[1]):
        y = y + C[..., n : n + 1] * torch.exp(elapsed * decays[:, n]) * carry[:, None, ..., n]
    with torch.no_grad():
        last = last + torch.exp(elapsed[:, -1, ..., None] * decays) * carry
    return (y * F.silu(z)).to(u.dtype), last


def _to_kernel(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 1)  # [batch * band, channel, time]


OPERATIONS = {"selective_scan": selective_scan}
