"""The Triton kernels against the float64 reference: in Triton's interpreter, or compiled where there is a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sbm_cli.dsp.level import Level
from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.nn.mamba import Mamba
from tests.nn.kernels.conftest import band_conv, causal_conv1d, selective_scan

HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported, which the tests below do

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # NumPy computes
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
Run = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


ON_CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")])
INTERPRETED = pytest.mark.skipif(HAS_CUDA, reason="the GPU runs the kernels compiled")


@pytest.fixture(params=[pytest.param("cpu", marks=INTERPRETED), ON_CUDA])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def draw(*sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.randn(size, generator=generator) for size in sizes]


def scan_inputs(batch: int, time: int, band: int, channel: int, state: int, steps: float = 1.0) -> list[Tensor]:
    """Return [uz, dt, A, xBC, D, carry], where u and z, B and C are slices; `steps` scales dt before softplus."""
    rows = batch, time, band
    uz, dt, A, xBC, D, carry = draw(
        (*rows, 2 * channel), (*rows, channel), (channel, state), (*rows, 3 + 2 * state), (channel,),
        (batch, band, channel, state),
    )  # fmt: skip
    return [uz, steps * dt - 2, -A.exp(), xBC, D, carry]


def run_scan(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    uz, dt, A, xBC, D, carry = inputs
    state = A.shape[1]
    (u, z), (_, B, C) = uz.chunk(2, -1), xBC.split([3, state, state], -1)
    return selective_scan(u, dt, A, B, C, D, z, carry)


def conv_inputs(batch: int, time: int, band: int, channel: int, taps: int) -> list[Tensor]:
    return draw((batch, time, band, 2 * channel), (channel, 1, taps), (channel,), (batch, band, channel, taps - 1))


def run_conv(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return causal_conv1d(inputs[0].chunk(2, -1)[1], *inputs[1:])


def in_pieces(run: Run, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Run with the inputs that have a time axis cut at frames 1 and 5, the carry handed on."""
    *rest, carry = inputs
    time, pieces = inputs[0].shape[1], []
    for start, end in ((0, 1), (1, 5), (5, time)):
        y, carry = run([*(x[:, start:end] if x.dim() == 4 else x for x in rest), carry])
        pieces.append(y)
    return torch.cat(pieces, 1), carry


def outcome(run: Run, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the results and the gradients of all inputs for random gradients of the results."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    results = run(leaves)
    weights = draw(*(tuple(x.shape) for x in results))
    total = sum((x * w.to(x.device).bfloat16().to(x.dtype)).sum() for x, w in zip(results, weights, strict=True))
    assert isinstance(total, Tensor)
    return [x.detach().cpu() for x in (*results, *torch.autograd.grad(total, leaves))]


def assert_agrees(run: Run, inputs: Sequence[Tensor], device: str, roundings: int = 1) -> None:
    with kernels.use("reference"):
        expected = outcome(run, [x.double() for x in inputs])
    with kernels.use("triton"):
        found = outcome(run, [x.to(device) for x in inputs])
    tolerance = TOLERANCE[inputs[0].dtype] * roundings
    for i, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        assert actual.shape == wanted.shape
        error = (actual.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f"result {i}: relative error {error:.1e}"


SHAPES = [(1, 37, 1, 40, 16), (3, 1, 1, 5, 4), (1, 8, 5, 33, 7), (2, 17, 1, 16, 6)]  # batch, time, band, channel, state


@pytest.mark.parametrize("shape", SHAPES)
def test_scan_agrees_with_reference(shape: tuple[int, int, int, int, int], device: str) -> None:
    assert_agrees(run_scan, scan_inputs(*shape), device)


@pytest.mark.parametrize("steps", [50.0, 1e4])
def test_scan_takes_extreme_steps(steps: float, device: str) -> None:
    assert_agrees(run_scan, scan_inputs(1, 11, 1, 9, 4, steps), device)


@pytest.mark.parametrize(
    "shape", [(1, 1, 2, 16, 4), (2, 3, 1, 5, 4), (1, 37, 1, 70, 4), (1, 2, 3, 8, 2), (1, 9, 2, 24, 3)]
)
def test_convolution_agrees_with_reference(shape: tuple[int, int, int, int, int], device: str) -> None:
    inputs = conv_inputs(*shape)
    inputs[0] *= 30  # SiLU from its dead to its linear end
    assert_agrees(run_conv, inputs, device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_and_written_as_such(dtype: torch.dtype, device: str) -> None:
    inputs = [x if i in (2, 4, 5) else x.to(dtype) for i, x in enumerate(scan_inputs(1, 11, 1, 33, 16))]
    assert_agrees(run_scan, inputs, device)
    wide, *rest = conv_inputs(1, 5, 1, 16, 4)
    assert_agrees(run_conv, [wide.to(dtype), *rest], device)
    with kernels.use("triton"):
        assert run_scan([x.to(device) for x in inputs])[0].dtype == dtype


def test_pieces_are_the_whole(device: str) -> None:
    for run, inputs in ((run_scan, scan_inputs(1, 9, 1, 8, 4)), (run_conv, conv_inputs(1, 9, 1, 8, 4))):
        assert_agrees(lambda leaves, run=run: in_pieces(run, leaves), inputs, device)  # type: ignore[misc]
        there = [x.to(device) for x in inputs]
        with kernels.use("triton"):
            assert all(torch.equal(a, b) for a, b in zip(in_pieces(run, there), run(there), strict=True))


def test_any_strides_are_read(device: str) -> None:
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        uz, dt, A, xBC, D, carry = inputs
        turned = uz.mT.contiguous().mT, dt[:, :1].expand_as(dt), A.mT.contiguous().mT
        later = xBC.transpose(0, 1).contiguous().transpose(0, 1)
        return run_scan([*(x[:, 2:] for x in turned[:2]), turned[2], later[:, 2:], D, carry.mT.contiguous().mT])

    assert_agrees(run, scan_inputs(2, 7, 1, 8, 4), device)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_comes_out_so(value: float, device: str) -> None:
    for where in range(6):
        inputs = [x.to(device) for x in scan_inputs(1, 4, 1, 6, 3)]
        inputs[where].view(-1)[3] = -value  # A is negative
        with kernels.use("reference"):
            expected = run_scan(inputs)
        with kernels.use("triton"):
            found = run_scan(inputs)
        assert all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("device", [ON_CUDA])
def test_results_are_the_same_every_time(device: str) -> None:
    inputs = [x.to(device) for x in scan_inputs(8, 100, 32, 128, 16)]
    with kernels.use("triton"):
        first, second = (outcome(run_scan, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_autocast_reaches_the_kernels_and_gradients_stay_float32(device: str) -> None:
    torch.manual_seed(0)
    block, (x,) = Mamba(8, 4).to(device), draw((1, 5, 1, 8))
    results = []
    for enabled in (False, True):
        with kernels.use("triton"), torch.autocast(device, torch.bfloat16, enabled=enabled):
            y, _ = block(x.to(device))
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), list(block.parameters()))])
    for exact, rounded in zip(*results, strict=True):
        assert rounded is results[1][0] or rounded.dtype == torch.float32
        assert (exact - rounded).abs().max() <= 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("shape", "channels", "groups", "kernel"),
    [((1, 3, 5), 24, 3, 5), ((2, 5, 7), 16, 2, 4), ((1, 5, 33), 64, 8, 5), ((1, 1, 1), 12, 3, 1)],
)
def test_band_convolution_agrees_with_reference(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    channels: int,
    groups: int,
    kernel: int,
    device: str,
) -> None:
    monkeypatch.setattr("sbm_cli.nn.kernels.triton.band_conv.PARTS", 2)
    for dtype in (torch.float32, torch.float16):  # the interpreter multiplies no matrices of bfloat16
        vector = (channels,)
        sizes = (*shape, channels), vector, vector, (channels, channels // groups, kernel), vector
        inputs = [x.to(dtype) for x in draw(*sizes)]
        # The norm, the convolution and their gradients are rounded one after the other.
        assert_agrees(lambda leaves: (band_conv(*leaves, groups),), inputs, device, roundings=4)


def test_the_level_is_followed_as_by_numpy(device: str) -> None:
    from sbm_cli.dsp.level.triton import levels_of

    power = draw((3, 61))[0].exp().square()
    expected, _ = Level().track(power[:, 1:], 0.016, power[:, 0])
    rise, fall = (1 - math.exp(-0.016 / seconds) for seconds in (0.075, 10.0))
    found = levels_of(power.to(device)[:, 1:], power.to(device)[:, 0], rise, fall)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", [ON_CUDA])
def test_the_network_on_the_gpu_is_that_on_the_cpu(device: str) -> None:
    torch.manual_seed(0)
    network = OSpatialNet(OSpatialNetConfig())
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    y, t = torch.view_as_complex(draw((2, 257, 20, 2))[0]), torch.ones(1)

    def run(where: str, half: bool = False) -> list[Tensor]:
        moved = network.to(where)
        with torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(where, torch.bfloat16, enabled=half):
            estimate = torch.view_as_real(moved(y.to(where), y.to(where), t.to(where))[0])
        gradients = torch.autograd.grad(estimate.square().mean(), list(moved.parameters()))
        return [x.detach().cpu() for x in (estimate, *gradients)]

    def distance(found: Tensor, wanted: Tensor) -> float:
        return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))

    expected = run("cpu")
    assert max(distance(*pair) for pair in zip(run(device), expected, strict=True)) <= 1e-3
    assert distance(run(device, half=True)[0], expected[0]) <= 0.03  # -30 dB


def test_an_old_triton_or_no_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbm_cli.nn.kernels.triton import missing

    assert missing() == ""
    with monkeypatch.context() as patch:
        patch.setattr(triton, "__version__", "3.2.0")
        assert missing().startswith("the Triton scan needs Triton 3.3, found 3.2.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton, "JITFunction", object)  # as if it were not the interpreter
    assert missing() == "the Triton scan needs an NVIDIA GPU"


COMPILE = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit
from sbm_cli.nn.kernels.triton.band_conv import band_conv
from sbm_cli.nn.kernels.triton.conv import causal_conv1d
from sbm_cli.nn.kernels.triton.scan import selective_scan

class Driver:  # of a GPU that is not there
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

def compile_only(kernel, grid):
    def launch(*args, **options):
        compiled = kernel.warmup(*args, grid=grid, **options)
        assert compiled.asm["cubin"] and compiled.metadata.shared <= 227 * 1024
        print(kernel.__name__)
    return launch

driver.set_active(Driver())
jit.KernelInterface.__getitem__ = compile_only

rows, leaf = (2, 20, 4), {"dtype": torch.bfloat16, "requires_grad": True}
u, z = torch.empty(*rows, 256, **leaf).chunk(2, -1)
_, B, C = torch.empty(*rows, 36, **leaf).split([4, 16, 16], -1)
u, _ = causal_conv1d(u, torch.empty(128, 1, 4), torch.empty(128))
y, _ = selective_scan(u, torch.empty(*rows, 128, **leaf), torch.empty(128, 16), B, C, torch.empty(128), z)
y.sum().backward()
norm, x = (torch.ones(64), torch.zeros(64)), torch.empty(*rows, 64, **leaf)
band_conv(x, *norm, torch.empty(64, 8, 5), torch.empty(64), 8).sum().backward()
"""


@INTERPRETED
@pytest.mark.skipif(
    not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists(), reason="this Triton has no ptxas"
)
def test_every_kernel_compiles_for_a_gpu() -> None:
    """What the interpreter takes the compiler may refuse: compile for an H200 where there is none."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    kernels = {"conv_forward", "conv_backward", "scan_forward", "scan_backward", "convolve", "correlate"}
    assert set(done.stdout.split()) == kernels
