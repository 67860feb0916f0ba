"""The marginal of the bridge: check values, invariants, end points (theory 1.1, 1.2)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.bridge.sampler import draw_noise
from sbm_cli.bridge.schedule import VE, VP, Brownian, Flow, GMax, Schedule, mean, sample_state

SCHEDULES: list[Schedule] = [VE(), VP(), GMax(), Brownian()]

# t, clean weight, noisy weight, std: from the formulas in float64, rounded to the digits shown.
TABLE: list[tuple[Schedule, float, float, float, float]] = [
    (VE(), 0.0001, 1.0000, 0.0000, 0.0063),
    (VE(), 0.03, 0.9898, 0.0102, 0.1106),
    (VE(), 0.25, 0.8937, 0.1063, 0.3385),
    (VE(), 0.5, 0.7222, 0.2778, 0.4918),
    (VE(), 0.75, 0.4458, 0.5542, 0.5458),
    (VE(), 0.9, 0.2042, 0.7958, 0.4426),
    (VP(), 0.25, 0.7308, 0.0043, 0.3739),
    (VP(), 0.5, 0.2858, 0.0216, 0.5247),
    (VP(), 0.75, 0.0592, 0.1118, 0.5433),
    (VP(), 0.9, 0.0148, 0.3866, 0.5050),
    (GMax(), 0.25, 0.9373, 0.0627, 0.7667),
    (GMax(), 0.5, 0.7498, 0.2502, 1.3701),
    (GMax(), 0.75, 0.4373, 0.5627, 1.5691),
    (GMax(), 0.9, 0.1899, 0.8101, 1.2406),
    (Brownian(0.8), 0.25, 0.75, 0.25, 0.3464),
    (Brownian(0.8), 0.5, 0.5, 0.5, 0.4),
    (Flow(), 0.25, 0.75, 0.25, 0.0),
    (Flow(0.5), 0.9, 0.1, 0.9, 0.45),
]
COARSE_TABLE: list[tuple[Schedule, float, float, float, float]] = [
    (VE(), 0.1, 0.963, 0.037, 0.206),
    (VE(), 0.99, 0.022, 0.978, 0.162),
]


def name(schedule: object) -> str:
    return type(schedule).__name__


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("schedule", "t", "clean_weight", "noisy_weight", "std"), TABLE + COARSE_TABLE)
def test_check_values(
    schedule: Schedule, t: float, clean_weight: float, noisy_weight: float, std: float, dtype: torch.dtype
) -> None:
    tolerance = 5.1e-4 if (schedule, t, clean_weight, noisy_weight, std) in COARSE_TABLE else 5.1e-5
    found = [float(w) for w in schedule.marginal(torch.tensor([t], dtype=dtype))]
    assert found == pytest.approx([clean_weight, noisy_weight, std], abs=tolerance)


def test_ve_totals_and_its_largest_std() -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert float(VE().var(torch.ones((), dtype=torch.float64))) == pytest.approx(1.2056, abs=5e-5)
    std = VE().marginal(t)[2]
    assert float(std.max()) == pytest.approx(0.549, abs=5e-4)
    assert float(t[std.argmax()]) == pytest.approx(0.709, abs=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (33,), (4, 5)])
def test_both_ends_are_exact(schedule: Schedule, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    one, zero = torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    for found, expected in zip(schedule.marginal(one), (zero, one, zero), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(schedule.marginal(zero), (one, zero, zero), strict=True):
        assert torch.equal(found, expected)


@given(t=st.floats(0, 1))
def test_weights_without_drift_sum_to_one(t: float) -> None:
    for schedule in (VE(), GMax()):
        clean_weight, noisy_weight, _ = schedule.marginal(torch.tensor([t], dtype=torch.float64))
        assert float(clean_weight + noisy_weight) == pytest.approx(1, abs=1e-12)


def test_weights_of_vp_do_not_sum_to_one() -> None:
    clean_weight, noisy_weight, _ = VP().marginal(torch.tensor([0.5]))
    assert float(clean_weight + noisy_weight) < 0.5


@given(
    t=st.floats(1e-6, 1),
    k=st.floats(1.1, 10),
    c=st.floats(1e-3, 10),
    beta1=st.floats(0.1, 20),
)
def test_marginal_is_finite_and_ordered_for_any_constants(t: float, k: float, c: float, beta1: float) -> None:
    times = torch.tensor([t, 0.5 * t], dtype=torch.float32)
    for schedule in (VE(k, c), VP(0.01, beta1, c), GMax(0.01, beta1)):
        clean_weight, noisy_weight, std = schedule.marginal(times)
        assert all(bool(((w >= 0) & w.isfinite()).all()) for w in (clean_weight, noisy_weight, std))
        assert clean_weight[0] <= clean_weight[1]
        assert noisy_weight[0] >= noisy_weight[1]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_gradient_through_the_time_is_finite_at_the_end(schedule: Schedule) -> None:
    t = torch.tensor([0.3, 1.0], requires_grad=True)
    (schedule.marginal(t)[0].sum() + schedule.marginal(t)[1].sum()).backward()
    assert t.grad is not None
    assert bool(t.grad.isfinite().all())


@pytest.mark.parametrize("wrong", [lambda: VE(k=1), lambda: VE(c=0), lambda: VP(c=-1), lambda: VP(5, 2)])
def test_schedules_refuse_constants_without_a_bridge(wrong: object) -> None:
    with pytest.raises(ValueError, match="needs"):
        wrong()  # type: ignore[operator]
    with pytest.raises(ValueError, match="GMax needs"):
        GMax(-1, 2)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_state_at_the_end_is_the_noisy_tensor_whatever_the_noise(schedule: Schedule) -> None:
    clean, noisy, noise = torch.randn(3, 2, 5, 4, dtype=torch.complex64).unbind()
    assert torch.equal(sample_state(schedule, clean, noisy, torch.ones(2), 1e6 * noise), noisy)


def test_state_uses_each_batch_items_own_time() -> None:
    clean, noisy, noise = torch.randn(3, 2, 5, 4, dtype=torch.complex64).unbind()
    t = torch.tensor([0.2, 0.8])
    state = sample_state(VE(), clean, noisy, t, noise)
    for item in range(2):
        clean_weight, noisy_weight, std = VE().marginal(t[item])
        torch.testing.assert_close(
            state[item], clean_weight * clean[item] + noisy_weight * noisy[item] + std * noise[item]
        )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_state_has_the_marginals_mean_and_power(schedule: Schedule) -> None:
    generator = torch.Generator().manual_seed(1)
    clean = torch.full((1, 200_000), 1 + 2j)
    noisy = torch.full((1, 200_000), -3 + 0.5j)
    t = torch.tensor([0.6])
    state = sample_state(schedule, clean, noisy, t, draw_noise(clean, generator))
    centred = state - mean(schedule, clean, noisy, t)
    std = float(schedule.marginal(t)[2])
    assert abs(complex(centred.mean())) < 0.01 * std
    assert float(centred.abs().square().mean().sqrt()) == pytest.approx(std, rel=0.01)
    # Circular: half of the power in each part. Two channels of plain randn would show twice as much.
    assert float(centred.real.square().mean()) == pytest.approx(std**2 / 2, rel=0.02)
    assert float(centred.imag.square().mean()) == pytest.approx(std**2 / 2, rel=0.02)
    assert abs(float((centred.real * centred.imag).mean())) < 0.01 * std**2


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_flow_runs_straight_from_clean_to_its_prior(sigma: float) -> None:
    clean, noisy, noise = torch.randn(3, 4, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    states = [sample_state(Flow(sigma), clean, noisy, torch.full((4,), t), noise) for t in (0.0, 0.25, 0.5, 1.0)]
    assert torch.equal(states[0], clean)
    torch.testing.assert_close(states[3], noisy + sigma * noise)
    torch.testing.assert_close((states[1] - states[0]) / 0.25, (states[3] - states[2]) / 0.5)  # one velocity


@pytest.mark.parametrize(("schedule", "wrong"), [(Brownian, {"rho": 0.0}), (Flow, {"sigma": -1.0})])
def test_paths_out_of_range_are_refused(schedule: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{schedule.__name__} needs "):
        schedule(**wrong)
