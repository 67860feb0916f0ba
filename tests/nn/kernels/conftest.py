"""Every test finds out anew what is installed, and is warned anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor

from sbm_cli.nn.kernels import dispatch, kernel


def selective_scan(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run the scan by the implementation in use."""
    y, after = kernel("selective_scan", u)(u, *others)
    return y, after


def causal_conv1d(x: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run the convolution by the implementation in use."""
    y, after = kernel("causal_conv1d", x)(x, *others)
    return y, after


def band_conv(x: Tensor, *others: Tensor | int) -> Tensor:
    """Run the convolution along the bands by the implementation in use."""
    y: Tensor = kernel("band_conv", x)(x, *others)
    return y


def band_linear(x: Tensor, *others: Tensor) -> Tensor:
    """Run the linear map along the bands by the implementation in use."""
    y: Tensor = kernel("band_linear", x)(x, *others)
    return y


def forget() -> None:
    for cache in (dispatch._missing, dispatch._module, dispatch._warn):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget()
    yield
    forget()
