"""The Mamba block has the parameters of mamba-ssm's, so that weights move both ways."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

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


def test_what_is_not_finite_stays_so_in_bfloat16() -> None:
    mamba, x = Mamba(8, 4), torch.randn(1, 3, 1, 8)
    for value in (float("nan"), float("inf"), 3e38, torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)):
        x[0, 1, 0, 3] = value
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = mamba(x)
        assert y[0, 0].isfinite().all() and not y[0, 1].isfinite().any()
