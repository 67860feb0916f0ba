"""The samplers and every trap of theory section 2."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sbm_cli.bridge.sampler import SAMPLERS, draw_noise, grid, jump_grid, jump_step, ode_step, sample, sde_step
from sbm_cli.bridge.schedule import VE, VP, Brownian, Flow, GMax, Schedule, sample_state

Method = Literal["ode", "sde", "heun", "jump"]
SCHEDULES: list[Schedule] = [VE(), VP(), GMax(), Brownian()]
METHODS: list[Method] = ["ode", "sde", "heun", "jump"]
by_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
by_method = pytest.mark.parametrize("method", METHODS)


class Oracle(nn.Module):
    """Knows the clean tensor and writes down what it was asked."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.states: list[Tensor] = []
        self.times: list[Tensor] = []
        self.targets: list[float] = []

    def forward(self, state: Tensor, noisy: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        self.targets += [] if to is None else [float(to[0])]
        self.states.append(state)
        self.times.append(t)
        return self.clean


def seeded(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    return lambda like: draw_noise(like, generator)


def pair(dtype: torch.dtype = torch.complex64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 6, 5, dtype=dtype, generator=generator)
    return clean, clean + torch.randn(2, 6, 5, dtype=dtype, generator=generator)


@by_schedule
@by_method
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_oracle_reaches_clean_without_noise(schedule: Schedule, method: Method, steps: int) -> None:
    clean, noisy = pair()
    found = sample(Oracle(clean), schedule, noisy, steps, method, torch.zeros_like)
    left = float(schedule.marginal(torch.tensor(1e-4))[1])  # of noisy at t_min, 3.3e-5 for VE
    assert float(((found - clean).abs() / (noisy - clean).abs()).max()) < max(3.5e-5, 1.01 * left)


@by_schedule
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_last_sde_step_adds_no_noise(schedule: Schedule, steps: int) -> None:
    clean, noisy = pair()
    found = sample(Oracle(clean), schedule, noisy, steps, "sde", seeded(torch.Generator().manual_seed(3)))
    last = torch.from_numpy(grid(steps)[-2:])
    carried = float(schedule.marginal(last[:1])[2] * schedule.var(last[1:]) / schedule.var(last[:1]))
    # Only what the last step carries over of the noise before it; with noise of its own std would be 6.3e-3 for VE.
    assert float((found - clean).abs().square().mean().sqrt()) < 1.2 * carried + 5e-5


@by_schedule
@by_method
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_nfe_is_what_the_sampler_says(schedule: Schedule, method: Method, steps: int) -> None:
    clean, noisy = pair()
    network, calls = Oracle(clean), []
    network.register_forward_hook(lambda *_: calls.append(1))
    sample(network, schedule, noisy, steps, method)
    assert len(calls) == SAMPLERS[method].nfe(steps) == (2 * steps - 1 if method == "heun" else steps)


@by_method
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_network_is_told_the_time_of_the_state_it_sees(method: Method, steps: int) -> None:
    clean, noisy = pair()
    network = Oracle(clean)
    sample(network, VE(), noisy, steps, method)
    times = (jump_grid if method == "jump" else grid)(steps).tolist()[:-1]
    if method == "heun":  # at both ends of every step but the last
        times = [times[0], *(t for t in times[1:] for _ in range(2))]
    assert [t.shape for t in network.times] == [(2,)] * len(times)
    assert [float(t[0]) for t in network.times] == pytest.approx(times)
    assert network.times[0].tolist() == [1.0, 1.0]
    assert torch.equal(network.states[0], noisy)


def test_ode_states_lie_on_the_noiseless_bridge_of_their_time() -> None:
    clean, noisy = pair(torch.complex128)
    network = Oracle(clean)
    sample(network, VE(), noisy, 5, "ode")
    for state, t in zip(network.states, network.times, strict=True):
        expected = sample_state(VE(), clean, noisy, t, torch.zeros_like(clean))
        torch.testing.assert_close(state, expected)


def test_one_step_is_the_network_at_the_noisy_end() -> None:
    clean, noisy = pair()
    network = Oracle(clean)
    assert torch.equal(sample(network, VE(), noisy, 1), clean)
    assert torch.equal(network.states[0], noisy)
    assert network.times[0].tolist() == [1.0, 1.0]
    assert network.times[0].dtype == torch.float32


@by_method
def test_one_step_is_deterministic_and_draws_nothing(method: Method) -> None:
    _, noisy = pair()

    def network(state: Tensor, noisy: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        return 0.5 * state + 0.25 * noisy

    generator = torch.Generator().manual_seed(5)
    before, before_global = generator.get_state(), torch.get_rng_state()
    found = sample(network, VE(), noisy, 1, method, seeded(generator))
    assert torch.equal(found, network(noisy, noisy, torch.ones(2)))
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), before_global)


@by_schedule
def test_ode_draws_nothing_and_sde_repeats_with_its_seed(schedule: Schedule) -> None:
    _, noisy = pair()

    def network(state: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return 0.5 * state + 0.25 * noisy

    def run(method: Method, seed: int) -> Tensor:
        return sample(network, schedule, noisy, 4, method, seeded(torch.Generator().manual_seed(seed)))

    assert torch.equal(run("ode", 1), run("ode", 2))
    assert torch.equal(run("sde", 1), run("sde", 1))
    assert not torch.equal(run("sde", 1), run("sde", 2))


@by_schedule
def test_sde_steps_reproduce_mean_and_std_of_the_marginal(schedule: Schedule) -> None:
    generator = torch.Generator().manual_seed(2)
    count = 100_000
    clean, noisy = torch.full((1, count), 1.0 - 1.0j), torch.full((1, count), -0.5 + 2.0j)
    state, times = noisy, torch.from_numpy(grid(5)).float()
    for t_from, t_to in zip(times[:-1].split(1), times[1:].split(1), strict=True):
        state = sde_step(schedule, state, clean, t_from, t_to, draw_noise(noisy, generator))
        clean_weight, noisy_weight, std = (float(w) for w in schedule.marginal(t_to))
        expected = clean_weight * (1 - 1j) + noisy_weight * (-0.5 + 2j)
        assert abs(complex(state.mean()) - expected) < 4 * std / math.sqrt(count) + 1e-6
        assert float((state - expected).abs().square().mean().sqrt()) == pytest.approx(std, rel=0.01)


def published_ode_weights(schedule: Schedule, t_from: Tensor, t_to: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three weights as arXiv 2407.16074, NeMo and sgmse write them, without their epsilon."""
    end = torch.ones_like(t_to)
    alpha_t, alpha_p, alpha_end = schedule.alpha(t_to), schedule.alpha(t_from), schedule.alpha(end)
    var_end = schedule.var(end)
    sigma_t, sigma_p = schedule.var(t_to).sqrt(), schedule.var(t_from).sqrt()
    rest_t, rest_p = (var_end - schedule.var(t_to)).sqrt(), (var_end - schedule.var(t_from)).sqrt()
    previous = alpha_t * sigma_t * rest_t / (alpha_p * sigma_p * rest_p)
    estimate = alpha_t / var_end * (rest_t**2 - rest_p * sigma_t * rest_t / sigma_p)
    prior = alpha_t / (alpha_end * var_end) * (sigma_t**2 - sigma_p * sigma_t * rest_t / rest_p)
    return previous, estimate, prior


@settings(deadline=None)
@given(t_from=st.floats(0.01, 0.99), fraction=st.floats(0.01, 1))
def test_ode_step_equals_the_published_weights(t_from: float, fraction: float) -> None:
    p = torch.tensor([t_from], dtype=torch.float64)
    t = fraction * p
    state, estimate, noisy = torch.tensor([[1.3 - 0.2j], [0.4 + 1j], [-0.7 + 0.1j]], dtype=torch.complex128)
    for schedule in SCHEDULES:
        w_previous, w_estimate, w_prior = published_ode_weights(schedule, p, t)
        published = w_previous * state + w_estimate * estimate + w_prior * noisy
        found = ode_step(schedule, state, estimate, noisy, p, t)
        torch.testing.assert_close(found, published, rtol=1e-9, atol=1e-9)


@by_schedule
def test_first_ode_step_is_the_mean_and_finite(schedule: Schedule) -> None:
    clean, noisy = pair()
    one, half = torch.ones(2), torch.full((2,), 0.5)
    expected = sample_state(schedule, clean, noisy, half, torch.zeros_like(clean))
    torch.testing.assert_close(ode_step(schedule, noisy, clean, noisy, one, half), expected)
    mixed = ode_step(schedule, noisy, clean, noisy, torch.tensor([1.0, 0.9]), half)
    assert bool(torch.view_as_real(mixed).isfinite().all())
    torch.testing.assert_close(mixed[0], expected[0])


@by_schedule
@settings(deadline=None, max_examples=30)
@given(t_from=st.floats(0.05, 1), fraction=st.floats(0.05, 0.95), split=st.floats(0.1, 0.9))
def test_two_ode_steps_with_one_estimate_are_one(
    schedule: Schedule, t_from: float, fraction: float, split: float
) -> None:
    clean, noisy = pair(torch.complex128)
    p = torch.full((2,), t_from, dtype=torch.float64)
    t = fraction * p
    middle = t + split * (p - t)
    state = sample_state(schedule, clean, noisy, p, 0.3 * noisy)
    once = ode_step(schedule, state, clean, noisy, p, t)
    twice = ode_step(schedule, ode_step(schedule, state, clean, noisy, p, middle), clean, noisy, middle, t)
    torch.testing.assert_close(twice, once, rtol=1e-7, atol=1e-7)


def test_a_real_state_and_a_batch_of_vectors_work_too() -> None:
    clean, noisy = torch.zeros(3, 4), torch.ones(3, 4)
    found = sample(Oracle(clean), GMax(), noisy, 3, "sde", seeded(torch.Generator().manual_seed(0)))
    assert found.dtype == torch.float32
    assert float(found.abs().max()) < 2e-4


def test_samplers_are_differentiable_through_the_network() -> None:
    _, noisy = pair()
    gain = torch.tensor(0.5, requires_grad=True)
    for method in METHODS:
        sample(lambda state, noisy, *times: gain * state, VE(), noisy, 3, method).abs().square().sum().backward()
        assert gain.grad is not None
        assert bool(gain.grad.isfinite())


def test_grid_runs_from_one_to_t_min() -> None:
    times = grid(4, 0.2)
    assert times.tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert times[0] == 1
    assert times[-1] == 0.2


def test_jumps_are_denser_towards_clean_and_end_there() -> None:
    """At times of Karras et al. between 1 and 0.03, but for the last: Python's own arithmetic, to compare."""
    expected = [(1 + part * (0.03 ** (1 / 7) - 1)) ** 7 for part in (0, 0.25, 0.5, 0.75)]
    assert jump_grid(4).tolist() == pytest.approx([*expected, 0])
    assert jump_grid(1).tolist() == [1, 0]


def test_a_jump_of_no_length_moves_nothing() -> None:
    """The boundary of a consistency trajectory, whatever the network says."""
    clean, noisy = pair()
    t = torch.tensor([1.0, 0.03])
    assert torch.equal(jump_step(noisy, clean, t, t), noisy)
    assert torch.equal(jump_step(noisy, clean, t, torch.zeros(2)), clean)
    torch.testing.assert_close(jump_step(noisy, clean, t, t / 4), 0.25 * noisy + 0.75 * clean)


@pytest.mark.parametrize("steps", [2, 5])
def test_a_network_that_jumps_is_told_where_to(steps: int) -> None:
    clean, noisy = pair()
    network = Oracle(clean)
    found = sample(network, VE(), noisy, steps, "jump")
    assert torch.equal(found, clean)
    assert network.targets == pytest.approx(jump_grid(steps).tolist()[1:])


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("method", ["ode", "heun"])
def test_a_straight_flow_is_integrated_exactly(sigma: float, method: Method) -> None:
    """However many steps: with the right estimate the velocity is the same everywhere on the path."""
    clean, noisy = pair(torch.complex128)
    network, noise = Oracle(clean), torch.randn_like(clean)
    found = sample(network, Flow(sigma), noisy, 5, method, lambda _: noise)
    for state, t in zip(network.states, network.times, strict=True):
        torch.testing.assert_close(state, sample_state(Flow(sigma), clean, noisy, t, noise))
    torch.testing.assert_close(found, sample_state(Flow(sigma), clean, noisy, torch.tensor(1e-4), noise))


@pytest.mark.parametrize(
    ("schedule", "method", "order"),
    [(VE(), "ode", 1), (Flow(), "ode", 1), (VE(), "heun", 1.4), (Brownian(), "heun", 1.4), (Flow(), "heun", 2)],
)
def test_order_of_convergence(schedule: Schedule, method: Method, order: float) -> None:
    """Of an estimate that moves with time and state: twice the steps, a half or a quarter of the error."""
    _, noisy = pair(torch.complex128)

    def network(state: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return 0.5 * state * torch.cos(3 * t).double()[:, None, None] + 0.1 * noisy

    fine = sample(network, schedule, noisy, 2000, "heun", t_min=0.2)
    errors = [float((sample(network, schedule, noisy, n, method, t_min=0.2) - fine).abs().max()) for n in (20, 40, 80)]
    assert [a / b for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2**order] * 2, rel=0.25)


def test_a_flow_has_no_sde() -> None:
    clean, noisy = pair()
    with pytest.raises(ValueError, match="use the sampler ode or heun"):
        sample(Oracle(clean), Flow(), noisy, 2, "sde")
