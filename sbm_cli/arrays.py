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
    if isinstance(x, np.ndarray | np.generic):
        return np
    import torch

    return torch
