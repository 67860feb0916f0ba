"""The description of a metric: its name and unit, what it needs, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

RATE = 16_000  # Hz, for which all of them are defined


@dataclass(frozen=True)
class Metric:
    """A score; higher is better unless the unit says otherwise.

    compute: called with the estimate, with the clean reference if `needs_clean`, and with the noisy input if
    `needs_noisy` (which needs the reference too), each [samples] at 16 kHz. Returns the score, or several by name:
    metrics that share a function share its run.
    needs_sound: whether a silent estimate has no score. extra: of sbm-cli that brings `packages`; "" if none is needed.
    missing_weights: returns how to get weights that no package brings; "" if they are present.
    """

    name: str
    label: str
    unit: str
    compute: Callable[..., float | Mapping[str, float]]
    needs_clean: bool = True
    needs_noisy: bool = False
    needs_sound: bool = False
    extra: str = ""
    packages: tuple[str, ...] = ()
    missing_weights: Callable[[], str] = str
