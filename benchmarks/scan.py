"""Measure the selective scan: state updates a second, forward and with backward, against the PyTorch loop.

    python benchmarks/scan.py [--threads 1,2] [--seconds 2] [--cuda]

A state update is one (frame, band, channel, state). Softplus, gate and skip are included. The best of many runs counts:
others only ever make a run slower.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sbm_cli.nn.kernels import available, kernel, use

RANK = 4  # of what the steps are projected from
SHAPES = {  # batch, time, band, channel, state
    "one second of a file": (1, 62, 32, 128, 16),
    "a training batch": (8, 190, 32, 128, 16),
}


CUDA_SHAPES = {
    "bands": (64, 188, 32, 128, 16),
    "full band": (64, 188, 1, 192, 16),
    "a large batch": (256, 188, 32, 128, 16),
}


def make(shape: tuple[int, int, int, int, int]) -> list[Tensor]:
    """Return u, dt, A, B, C, D, z; u and z, B and C are slices of wider tensors, as in the network."""
    batch, time_, band, channel, state = shape
    rows = (batch, time_, band)
    u, z = torch.randn(*rows, 2 * channel).chunk(2, -1)
    B, C = torch.randn(*rows, 2 * state).chunk(2, -1)
    A = -torch.arange(1.0, state + 1).repeat(channel, 1)
    return [u, torch.randn(*rows, channel) - 4, A, B, C, torch.ones(channel), z]


def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Run the scan by the implementation in use."""
    y, after = kernel("selective_scan", tensors[0])(*tensors)
    return y, after


def best(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of a call within some seconds, the first call left out."""
    call()
    end, shortest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end or shortest == float("inf"):
        start = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def measure(shape: tuple[int, int, int, int, int], seconds: float) -> tuple[float, float, float]:
    """Return the seconds of the compiled forward, of forward and backward, and of the reference's forward."""
    from sbm_cli.compiled.vector import LOG2E
    from sbm_cli.nn.kernels.cpu import mamba as cpu
    from sbm_cli.nn.kernels.cpu.tensors import array_of, rows_of

    u, dt, A, B, C, D, z = tensors = make(shape)
    with torch.no_grad(), use("reference"):
        plain = best(lambda: scan(*tensors), seconds)
    batch, _, band, channel, state = shape
    low, weight, bias = dt[..., :RANK], torch.randn(RANK, channel), torch.full((channel,), -4.0)
    rates, before = A.t() * LOG2E, torch.zeros(batch, band, state, channel)
    rows, arrays = [rows_of(x) for x in (u, low, B, C, z)], [array_of(x) for x in (weight, bias, rates, D)]
    gradients = [torch.empty_like(x) for x in (u, low, z, B, C)]

    def forward(train: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        return cpu.scan(u.shape, u.dtype, rows, arrays, before, train)

    def both() -> None:
        y, h, kept = forward(train=True)
        cpu.scan_gradients((u, low, weight, bias, rates, B, C, D, z), kept, y, h, gradients)

    return best(forward, seconds), best(both, seconds), plain


def on_cuda(seconds: float) -> None:
    """Print the table of a GPU: every implementation that is there, on float32 and on bfloat16 inputs."""
    names = [name for name in ("reference", "mamba_ssm", "triton") if not available()[name]]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{'shape':>34} {'type':>9} {'scan':>10} {'forward':>11} {'with backward':>14}")
    for label, shape in CUDA_SHAPES.items():
        with torch.device("cuda"):
            u, dt, A, B, C, D, z = make(shape)
        for dtype in (torch.float32, torch.bfloat16):
            (x, gate), (b, c) = (torch.cat(pair, -1).to(dtype).chunk(2, -1) for pair in ((u, z), (B, C)))
            leaves = [part.detach().requires_grad_() for part in (x, dt.to(dtype), A, b, c, D, gate)]
            grad = torch.randn_like(u, dtype=dtype)

            def forward(leaves: list[Tensor] = leaves) -> None:
                with torch.no_grad():
                    scan(*leaves)
                torch.cuda.synchronize()

            def both(leaves: list[Tensor] = leaves, grad: Tensor = grad) -> None:
                torch.autograd.grad(scan(*leaves)[0], leaves, grad)
                torch.cuda.synchronize()

            for name in names:
                if name == "reference" and shape[0] > 64:  # its graph would fill the memory
                    continue
                with use(name):
                    times = best(forward, seconds), best(both, seconds)
                speeds = [f"{torch.Size(shape).numel() / t / 1e9:.0f} G/s" for t in times]
                kind = str(dtype).removeprefix("torch.")
                where = f"{label} {'x'.join(map(str, shape))}"
                print(f"{where:>34} {kind:>9} {name:>10} {speeds[0]:>11} {speeds[1]:>14}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="thread counts, comma-separated (default: 1,2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each number (default: 2)")
    parser.add_argument("--cuda", action="store_true", help="measure on the GPU instead")
    options = parser.parse_args()
    if options.cuda:
        on_cuda(options.seconds)
        return
    print(f"{'shape':>42} {'threads':>7} {'forward':>12} {'with backward':>14} {'reference':>12} {'faster':>7}")
    for name, shape in SHAPES.items():
        updates = torch.Size(shape).numel()
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            forward, both, plain = measure(shape, options.seconds)
            speeds = [f"{updates / seconds / 1e9:.2f} G/s" for seconds in (forward, both, plain)]
            label = f"{name} {'x'.join(map(str, shape))}"
            print(
                f"{label:>42} {threads:>7} {speeds[0]:>12} {speeds[1]:>14} {speeds[2]:>12} {plain / forward:>6.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
