"""One gain for the channels of a recording, so that what is heard between them stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

from sbm_cli.dsp.arrays import Array

_TINY = 1e-30  # power of a bin without sound


def links(channels: Sequence[int], wanted: bool | None) -> list[slice]:
    """Return the rows of the recordings whose channels are linked, of so many channels each; None: those of two."""
    found, end = [], 0
    for count in channels:
        start, end = end, end + count
        if count > 1 and (count == 2 if wanted is None else wanted):
            found.append(slice(start, end))
    return found


def linked(clean: Array, noisy: Array) -> Array:
    """Return the noisy spectra [channels, freq, frames] under the complex gain of each bin that comes nearest to clean.

    That is the least-squares fit over the channels: the projection of the estimates onto what was recorded.
    """
    power = (noisy.real**2 + noisy.imag**2).sum(0)
    together: Array = (noisy.conj() * clean).sum(0) / (power + _TINY) * noisy
    return together
