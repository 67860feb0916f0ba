"""What follows from weights is computed again when they change, and never while they are trained."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from sbm_cli.nn.constant import of_weights


def counted() -> tuple[list[int], Any]:
    calls: list[int] = []

    @of_weights
    def double(weight: Tensor, other: Tensor) -> Tensor:
        calls.append(1)
        return 2 * weight + other

    return calls, double


def test_it_is_computed_once_until_something_changes() -> None:
    calls, double = counted()
    weight, other = torch.ones(3), torch.zeros(3)
    first = double(weight, other)
    with torch.inference_mode():
        assert double(weight, other) is first and len(calls) == 1
    weight += 1  # in place
    assert double(weight, other).tolist() == [4, 4, 4] and len(calls) == 2
    weight.data = torch.zeros(3)  # moved, as by module.to(device)
    assert double(weight, other).tolist() == [0, 0, 0] and len(calls) == 3
    assert double(weight, torch.ones(3)).tolist() == [1, 1, 1]


def test_results_of_inference_mode_can_be_weights_of_the_next() -> None:
    calls, double = counted()
    weight = torch.ones(3)
    with torch.inference_mode():
        once = double(weight, weight)
        assert double(once, weight) is double(once, weight)
    assert len(calls) == 2


def test_weights_in_training_and_activations_are_never_remembered() -> None:
    calls, double = counted()
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        double(weight, weight)
        weight.data += 1
        assert double(weight, weight).tolist() == [6, 6, 6]
    assert len(calls) == 2
    frozen = torch.ones(3)
    double(frozen, frozen)
    frozen.requires_grad_()
    assert double(frozen, frozen).requires_grad
    with torch.inference_mode():
        activation = torch.ones(3)
        double(activation, activation)
        activation += 1
        assert double(activation, activation).tolist() == [6, 6, 6]


def test_it_goes_with_its_weights() -> None:
    calls, double = counted()
    for value in range(50):  # whose memory and numbers are used again
        assert double(torch.full((3,), float(value)), torch.zeros(3))[0] == 2 * value
    gc.collect()
    (known,) = (cell.cell_contents for cell in double.__closure__ if isinstance(cell.cell_contents, dict))
    assert not known and len(calls) == 50
