"""The selective scan as Triton kernels for CUDA, forward and backward, in float32.

Half-precision inputs are loaded as they are and results written in their type, so autocast materialises no casts. A
program walks through time with the state of BLOCK channels in registers; sums over channels and sequences are left as
partial results and added in a fixed order: no atomics, the same numbers every time.

What bounds the scan on an H200 with 16 states, in updates (frame, band, channel, state), counted:

                exponentials, 16 a clock   bytes in bfloat16, 4.3 TB/s   instructions of the loop, 128 a clock
    forward     1: 4.2 T/s                 1.0: 4.2 T/s                  16: 2.1 T/s
    backward    2: 2.1 T/s                 1.9: 2.3 T/s                  37: 0.9 T/s

Measured: 1.0 T/s forward, 0.25 T/s backward in float32 (docs/benchmarks.md): a program waits for its own last result.

The bytes of training are u, dt, z, y and their gradients, the states kept, and the partial sums of B and C; the
instructions those of Triton 3.7 (3.6, for half precision, 47 backward: it computes softplus four times over).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from sbm_cli.nn.kernels.dispatch import differentiates
from sbm_cli.nn.kernels.triton.tensors import empty, load_row, strided

# Triton gives a thread four states and BLOCK / 8 / WARPS channels: fewer exchanges between threads than with any other
# shape. One warp has no barriers; a program of all channels no partial sums of B and C.
BLOCK, WARPS = 32, 1
SEGMENT = 4  # frames between kept states; backward holds those of one in registers, and spills at 8 (docs/log.md)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(x):
    """Return log(1 + exp(x)) to full relative precision, as 2 atanh(e / (2 + e)) with e = exp(-|x|), and its slope."""
    e = tl.exp(-tl.abs(x))
    t = e / (2 + e)
    q = t * t  # at most 1/9
    series = q * (1 / 13) + 1 / 11
    series = series * q + 1 / 9
    series = series * q + 1 / 7
    series = series * q + 1 / 5
    series = series * q + 1 / 3
    series = series * q + 1
    return tl.maximum(x, 0.0) + 2 * t * series, tl.where(x > 0, 1.0, e) / (1 + e)


@triton.jit(do_not_specialize=["time"])
def scan_forward(
    u, u0, u1: tl.constexpr, u2, dt, dt0, dt1: tl.constexpr, dt2, z, z0, z1: tl.constexpr, z2,
    B, B0, B1: tl.constexpr, B2, C, C0, C1: tl.constexpr, C2, A, D, before, y, after, kept,
    time, bands: tl.constexpr, CHANNELS: tl.constexpr, STATE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    SEGMENT: tl.constexpr,
):  # fmt: skip
    """x0, x1, x2: strides of batch, time and band; constants where they save registers.

    kept: h before every segment; nothing is kept if SEGMENT is 0.
    """
    blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    batch, band = row // bands, row % bands
    c, n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    c_in, n_in = c < CHANNELS, n < STATE
    tile, tile_in = c[:, None] * STATE + n[None, :], c_in[:, None] & n_in[None, :]
    u += batch * u0 + band * u2
    dt += batch * dt0 + band * dt2
    z += batch * z0 + band * z2
    B += batch * B0 + band * B2
    C += batch * C0 + band * C2
    y += (batch * time * bands + band) * CHANNELS
    before += row * CHANNELS * STATE
    after += row * CHANNELS * STATE
    rate = load_row(A, tile, tile_in) * LOG2E
    skip = load_row(D, c, c_in)
    h = load_row(before, tile, tile_in)
    if SEGMENT:
        kept += row * ((time + SEGMENT - 1) // SEGMENT) * CHANNELS * STATE
    for k in range(time):
        if SEGMENT:
            if k % SEGMENT == 0:
                tl.store(kept + tile, h, tile_in)
                kept += CHANNELS * STATE
        u_k, z_k = load_row(u, c, c_in), load_row(z, c, c_in)
        step, _ = _softplus(load_row(dt, c, c_in))
        h = tl.exp2(step[:, None] * rate) * h + (step * u_k)[:, None] * load_row(B, n, n_in)[None, :]
        total = tl.sum(h * load_row(C, n, n_in)[None, :], 1) + skip * u_k
        tl.store(y + c, total * z_k * tl.sigmoid(z_k), c_in)
        u += u1
        dt += dt1
        z += z1
        B += B1
        C += C1
        y += bands * CHANNELS
    tl.store(after + tile, h, tile_in)


@triton.jit(do_not_specialize=["time", "rows"])
def scan_backward(
    u, u0, u1: tl.constexpr, u2, dt, dt0, dt1: tl.constexpr, dt2, z, z0, z1: tl.constexpr, z2,
    B, B0, B1: tl.constexpr, B2, C, C0, C1: tl.constexpr, C2, gy, gy0, gy1: tl.constexpr, gy2,
    A, D, kept, gafter, gu, gdt, gz, gB, gC, gA, gD, gbefore,
    time, bands: tl.constexpr, rows, CHANNELS: tl.constexpr, STATE: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """Segment by segment from the last: recompute its states into registers, then walk it backwards.

    gB, gC: a part for every block of channels; gA, gD: one for every row, a (batch, band). Frames beyond the last take
    steps of 0.
    """
    blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    block = tl.program_id(0) % blocks
    row = (tl.program_id(0) // blocks).to(tl.int64)
    batch, band = row // bands, row % bands
    c, n = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    c_in, n_in = c < CHANNELS, n < STATE
    tile, tile_in = c[:, None] * STATE + n[None, :], c_in[:, None] & n_in[None, :]
    u += batch * u0 + band * u2
    dt += batch * dt0 + band * dt2
    z += batch * z0 + band * z2
    B += batch * B0 + band * B2
    C += batch * C0 + band * C2
    gy += batch * gy0 + band * gy2
    first = batch * time * bands + band
    part = first + block.to(tl.int64) * rows * time
    segments = (time + SEGMENT - 1) // SEGMENT
    kept += row * segments * CHANNELS * STATE
    rate = load_row(A, tile, tile_in) * LOG2E
    skip = load_row(D, c, c_in)
    gh = load_row(gafter, row * CHANNELS * STATE + tile, tile_in)
    grate = tl.zeros([BLOCK, WIDTH], tl.float32)
    gskip = tl.zeros([BLOCK], tl.float32)
    for i in range(segments):
        segment = (segments - 1 - i).to(tl.int64)
        h = load_row(kept, segment * CHANNELS * STATE + tile, tile_in)
        states = (h,)
        for j in tl.static_range(SEGMENT):
            k = segment * SEGMENT + j
            here = k < time
            step, _ = _softplus(load_row(dt, k * dt1 + c, c_in & here, float("-inf")))
            drive = step * load_row(u, k * u1 + c, c_in & here)
            h = tl.exp2(step[:, None] * rate) * h + drive[:, None] * load_row(B, k * B1 + n, n_in & here)[None, :]
            states = states + (h,)
        for j in tl.static_range(SEGMENT - 1, -1, -1):
            k = segment * SEGMENT + j
            inside, n_inside = c_in & (k < time), n_in & (k < time)
            u_k, z_k = load_row(u, k * u1 + c, inside), load_row(z, k * z1 + c, inside)
            step, slope = _softplus(load_row(dt, k * dt1 + c, inside, float("-inf")))
            B_k, C_k = load_row(B, k * B1 + n, n_inside), load_row(C, k * C1 + n, n_inside)
            g = load_row(gy, k * gy1 + c, inside)
            at, part_at = (first + k * bands) * CHANNELS + c, (part + k * bands) * STATE + n
            gate = tl.sigmoid(z_k)
            total = tl.sum(states[j + 1] * C_k[None, :], 1) + skip * u_k
            tl.store(gz + at, g * total * gate * (1 + z_k * (1 - gate)), inside)
            g *= z_k * gate
            gskip += g * u_k
            gh += g[:, None] * C_k[None, :]
            tl.store(gC + part_at, tl.sum(g[:, None] * states[j + 1], 0), n_inside)
            tl.store(gB + part_at, tl.sum((step * u_k)[:, None] * gh, 0), n_inside)
            gdrive = tl.sum(gh * B_k[None, :], 1)
            gh *= tl.exp2(step[:, None] * rate)
            gdecay = gh * states[j]  # of step * A
            grate += gdecay * step[:, None]
            gstep = gdrive * u_k + LN2 * tl.sum(gdecay * rate, 1)
            tl.store(gu + at, gdrive * step + skip * g, inside)
            tl.store(gdt + at, gstep * slope, inside)
    tl.store(gA + row * CHANNELS * STATE + tile, grate, tile_in)
    tl.store(gbefore + row * CHANNELS * STATE + tile, gh, tile_in)
    tl.store(gD + row * CHANNELS + c, gskip, c_in)


def _sizes(A: Tensor) -> dict[str, int]:
    channel, state = A.shape
    width = triton.next_power_of_2(state)
    return {"CHANNELS": channel, "STATE": state, "BLOCK": BLOCK, "WIDTH": width, "num_warps": WARPS}


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D, z, before, train = inputs
        batch, time, band, channel = u.shape
        rows = batch * band
        segment = SEGMENT if train else 0
        kept = empty(rows, triton.cdiv(time, SEGMENT), *A.shape, like=u) if train else before
        y, after = torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(before)
        with torch.cuda.device_of(u):
            scan_forward[(rows * triton.cdiv(channel, BLOCK),)](
                *strided(u, dt, z, B, C), A, D, before, y, after, kept, time, band, SEGMENT=segment, **_sizes(A)
            )
        ctx.save_for_backward(u, dt, A, B, C, D, z, kept)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gafter: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, D, z, kept = ctx.saved_tensors
        batch, time, band, channel = u.shape
        rows, blocks = batch * band, triton.cdiv(channel, BLOCK)
        gu, gdt, gz = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, dt, z))
        gB, gC = (empty(blocks, *B.shape, like=u) for _ in range(2))
        gA, gbefore, gD = (empty(rows, *shape, like=u) for shape in (A.shape, A.shape, D.shape))
        with torch.cuda.device_of(u):
            scan_backward[(rows * blocks,)](
                *strided(u, dt, z, B, C, gy), A, D, kept, gafter.contiguous(), gu, gdt, gz, gB, gC, gA, gD, gbefore,
                time, band, rows, SEGMENT=SEGMENT, **_sizes(A),
            )  # fmt: skip
        gbefore = gbefore.view(gafter.shape)
        return gu, gdt, gA.sum(0), gB.sum(0).to(B.dtype), gC.sum(0).to(C.dtype), gD.sum(0), gz, gbefore, None


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the scan on a CUDA device (as `reference.selective_scan`), in any mixture of float types."""
    if carry is None:
        carry = empty(u.shape[0], *u.shape[2:], A.shape[1], like=u).zero_()
    train = differentiates(u, dt, A, B, C, D, z, carry)
    A, D, carry = (x.float().contiguous() for x in (A, D, carry))
    return _Scan.apply(u, dt, A, B, C, D, z, carry, train)
