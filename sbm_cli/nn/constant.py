"""What follows from weights alone, computed once while nobody trains them: it costs as much as a short block itself."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def of_weights(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of tensors return what it returned before for the same tensors, as long as they do not change.

    Tensors that require a gradient are never remembered. What is written through `tensor.data` torch does not count,
    and it is not noticed: a network whose weights still move has to require gradients.
    """
    known: dict[tuple[int, ...], tuple[list[tuple[int, int, bool]], list[Any], Result]] = {}

    @functools.wraps(function)
    def remembering(*weights: Tensor) -> Result:
        key = tuple(map(id, weights))
        if (found := known.get(key)) is not None and found[0] == _content(weights):
            return found[2]
        if any(weight.requires_grad or weight.is_inference() for weight in weights):
            return function(*weights)
        with torch.inference_mode(False):  # else the result could not be remembered by the next function
            result = function(*weights)
        # It goes with the first of its weights, before their numbers can be those of others.
        references = [weakref.ref(weight, lambda _: known.pop(key, None)) for weight in weights]
        known[key] = _content(weights), references, result
        return result

    return remembering


def _content(weights: tuple[Tensor, ...]) -> list[tuple[int, int, bool]]:
    """Return what changes with the content of tensors, and whether they are trained."""
    return [(weight.data_ptr(), weight._version, weight.requires_grad) for weight in weights]
