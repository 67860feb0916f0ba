"""What the functions on spectra take and return: arrays of NumPy or tensors of PyTorch, which may not be installed."""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", Tensor, NDArray[Any])
else:
    Array = TypeVar("Array")
