"""Every test finds out anew what is installed, and is warned anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sbm_cli.nn.kernels import dispatch


def forget() -> None:
    for cache in (dispatch._missing, dispatch._module, dispatch._warn):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget()
    yield
    forget()
