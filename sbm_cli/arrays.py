"""What arithmetic that needs no PyTorch takes and returns: arrays of NumPy, or tensors."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", Tensor, NDArray[Any])
else:
    Array = TypeVar("Array")


def functions(x: Array) -> Any:
    """Return the module with the functions of an array, such as `exp` and `where`: NumPy or torch."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    import torch

    return torch


def zeros(like: Array, *shape: int) -> Array:
    """Return zeros of the type of an array, and on its device."""
    return np.zeros(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(shape)
