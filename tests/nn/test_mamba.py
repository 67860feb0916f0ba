"""The Mamba block has the parameters of mamba-ssm's, so that weights move both ways."""

import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sbm_cli.nn import kernels
from sbm_cli.nn.kernels.cpu.mamba import convolve
from sbm_cli.nn.kernels.cpu.tensors import SERIAL, array_of, rows_of
from sbm_cli.nn.mamba import Mamba


def test_parameters_are_those_of_mamba_ssm() -> None:
    """Names and shapes as in state-spaces/mamba e9594ce, `Mamba(d_model=32, d_state=16, d_conv=4, expand=2)`."""
    assert {name: tuple(p.shape) for name, p in Mamba(32).state_dict().items()} == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 2 * 16, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_starts_with_published_step_sizes_and_decays() -> None:
    torch.manual_seed(0)
    mamba = Mamba(64)
    dt = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert 1e-3 * 0.99 <= dt.min() and dt.max() <= 0.1 * 1.01
    torch.testing.assert_close(mamba.A_log[0].exp(), torch.arange(1.0, 17.0))


def run(mamba: Mamba, x: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Return the output, the carry, and the gradients of everything that went in."""
    leaves = [part.detach().requires_grad_() for part in (x, *carry)]
    y, after = mamba(leaves[0], (leaves[1], leaves[2]))
    results = (y, *after)
    draw = torch.Generator().manual_seed(2)
    weights = [torch.randn(part.shape, generator=draw).to(part.dtype) for part in results]
    total = sum((part * weight).sum() for part, weight in zip(results, weights, strict=True))
    return (*results, *torch.autograd.grad(total, [*leaves, *mamba.parameters()]))


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 35), st.integers(1, 6)),
    st.sampled_from([(8, 4), (16, 16), (24, 8), (96, 4), (10, 5)]),
    st.sampled_from([1.0, 20.0]),
)
@settings(max_examples=25, deadline=None)
@example((1, 33, 5), (96, 16), 1.0)
def test_compiled_block_agrees_with_float64(shape: tuple[int, int, int], sizes: tuple[int, int], steps: float) -> None:
    channels, state = sizes
    torch.manual_seed(1)
    mamba = Mamba(channels, state)
    mamba.dt_proj.weight.data *= steps
    x = torch.randn(*shape, channels)
    carry = (
        torch.randn(shape[0], shape[2], mamba.inner, 3),
        torch.randn(shape[0], shape[2], mamba.inner, state),
    )
    actual = run(mamba, x, carry)
    wanted = run(mamba.double(), x.double(), (carry[0].double(), carry[1].double()))
    for ours, reference in zip(actual, wanted, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == reference.shape
        assert (ours - reference).abs().max() <= 2e-5 * reference.abs().max().clamp_min(1e-6)


def test_a_block_without_its_carry_starts_at_rest() -> None:
    mamba, x = Mamba(16, 4), torch.randn(2, 5, 3, 16)
    rest = torch.zeros(2, 3, 32, 3), torch.zeros(2, 3, 32, 4)
    for fresh, started in zip(mamba(x)[1], mamba(x, rest)[1], strict=True):
        assert torch.equal(fresh, started)
    mamba(x)[0].sum().backward()  # no gradient comes through the carry
    assert all(parameter.grad is not None for parameter in mamba.parameters())


@given(cuts=st.lists(st.integers(0, 40), min_size=1, max_size=3).map(sorted))
@example(cuts=[0, 16, 17])
def test_split_with_carry_is_exact(cuts: list[int]) -> None:
    torch.manual_seed(1)
    mamba, x = Mamba(16, 4), torch.randn(1, 40, 3, 16)
    with torch.no_grad():
        whole, last = mamba(x)
        pieces, carry = [], None
        for start, end in zip([0, *cuts], [*cuts, 40], strict=True):
            y, carry = mamba(x[:, start:end], carry)
            pieces.append(y)
    assert carry is not None
    for ours, wanted in zip((torch.cat(pieces, 1), *carry), (whole, *last), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)  # torch's products of few rows round apart


@pytest.mark.parametrize("what", ["x", "conv", "scan", *(name for name, _ in Mamba(16, 4).named_parameters())])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_comes_out_so(what: str, value: float) -> None:
    """One bad number anywhere spoils exactly what it spoils in the reference."""
    torch.manual_seed(1)
    mamba, x = Mamba(16, 4), torch.randn(1, 20, 2, 16)
    carry = torch.randn(1, 2, 32, 3), torch.randn(1, 2, 32, 4)
    places = {"x": x, "conv": carry[0], "scan": carry[1], **dict(mamba.named_parameters())}
    with torch.no_grad():
        places[what].view(-1)[3] = value
        found = mamba(x, carry)
        with kernels.use("reference"):
            wanted = mamba(x, carry)
    for ours, reference in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        assert torch.equal(ours.isfinite(), reference.isfinite())


def test_any_strides_are_read() -> None:
    torch.manual_seed(1)
    mamba, x = Mamba(16, 4), torch.randn(2, 20, 4, 16)
    carry = torch.randn(2, 4, 32, 3), torch.randn(2, 4, 32, 4)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1), (carry[0].mT.contiguous().mT, carry[1].mT.contiguous().mT)
    y, after = mamba(turned[0][:, 3:], turned[1])
    wanted, rest = mamba(x[:, 3:].contiguous(), carry)
    for ours, other in zip((y, *after), (wanted, *rest), strict=True):
        torch.testing.assert_close(ours, other)


def wide() -> tuple[Mamba, Tensor, tuple[Tensor, Tensor]]:
    """Return a block and inputs of a size that several threads take part in."""
    torch.manual_seed(1)
    mamba, x = Mamba(64, 8), torch.randn(2, 40, 13, 64)
    assert 2 * x.numel() >= SERIAL
    return mamba, x, (torch.randn(2, 13, 128, 3), torch.randn(2, 13, 128, 8))


def test_results_do_not_depend_on_threads() -> None:
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            seen.append(run(*wide()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(seen[2], seen[3], strict=True))  # the same every time
    for other in seen[1:]:
        for ours, alone in zip(other, seen[0], strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)  # torch's own products may round apart


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kernels_work_after_a_fork() -> None:
    (mamba, x, carry), before = wide(), torch.get_num_threads()
    assert mamba.conv1d.bias is not None
    taps, bias = mamba.conv1d.weight[:, 0].t(), mamba.conv1d.bias
    rows, carried = torch.cat([x, x], -1), carry[0].mT

    def convolved() -> NDArray[np.float32]:
        y = convolve(rows.shape, rows.dtype, rows_of(rows), (array_of(taps), array_of(bias)), carried)
        found: NDArray[np.float32] = y.numpy()
        return found

    try:
        torch.set_num_threads(2)
        expected = convolved()
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that waits for threads of its parent would wait for ever
            # compared outside torch: its own OpenMP threads do not survive a fork
            os._exit(not np.array_equal(convolved(), expected))
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_extreme_steps_stay_finite() -> None:
    torch.manual_seed(1)
    mamba, x = Mamba(16), torch.randn(1, 40, 3, 16)
    mamba.dt_proj.weight.data *= 1e6
    carry = torch.randn(1, 3, 32, 3), torch.randn(1, 3, 32, 16)
    assert all(part.isfinite().all() for part in run(mamba, x, carry))


def test_products_in_bfloat16_change_little_and_convolution_and_scan_stay_in_float32() -> None:
    torch.manual_seed(1)
    mamba, x = Mamba(32), torch.randn(2, 37, 5, 32)
    carry = torch.randn(2, 5, 64, 3), torch.randn(2, 5, 64, 16)
    exact = run(mamba, x, carry)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(mamba, x, carry)
    assert rounded[0].dtype == torch.bfloat16 and all(part.dtype == torch.float32 for part in rounded[1:])
    for ours, reference in zip(rounded, exact, strict=True):
        assert not torch.equal(ours.float(), reference)
        assert (ours - reference).norm() <= 0.015 * reference.norm()


def test_in_autocast_to_float16_everything_stays_in_float32() -> None:
    torch.manual_seed(1)
    mamba, x = Mamba(16), torch.randn(1, 9, 2, 16)
    expected = mamba(x)[0]
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(mamba(x)[0], expected)


def test_what_is_not_finite_stays_so_in_bfloat16() -> None:
    mamba, x = Mamba(8, 4), torch.randn(1, 3, 1, 8)
    for value in (float("nan"), float("inf"), 3e38, torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)):
        x[0, 1, 0, 3] = value
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = mamba(x)
        assert y[0, 0].isfinite().all() and not y[0, 1].isfinite().any()
