"""What every metric is: a name, what its score means, what it needs, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

RATE = 16_000  # Hz, at which all of them are defined


@dataclass(frozen=True)
class Metric:
    """A score; higher is better unless the unit says otherwise.

    compute: called with the estimate, with the clean reference if `needs_clean`, and with the noisy input if
    `needs_noisy` (then the reference is needed too), each [samples] at 16 kHz. It returns the score, or several by
    name: metrics that share a function share its run.
    needs_sound: a silent estimate has no score. extra: of sbm-cli, brings `packages`; "" where nothing is missing.
    missing_weights: says how to get weights that no package brings; "" where they are there.
    """

    name: str
    label: str
    unit: str
    compute: Callable[..., float | Mapping[str, float]]
    needs_clean: bool = False
    needs_noisy: bool = False
    needs_sound: bool = False
    extra: str = ""
    packages: tuple[str, ...] = ()
    missing_weights: Callable[[], str] = str
