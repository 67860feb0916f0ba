"""One gain for the channels of a recording, so that what is heard between them stays where it is."""

from __future__ import annotations

import numpy as np

from sbm_cli.arrays import Array

_TINY = 1e-30  # power of a bin without sound
# Channels are linked if they are 12 dB below the loudest one or less, and not at all from 20 dB on.
_TOGETHER, _APART = 10**-1.2, 10**-2.0


def shares(level: Array) -> Array:
    """Return how far each channel is linked, from 0 to 1, [channels, frames], by the level of each, a power.

    A source that is far louder in one channel is heard there, whatever the gain of the other, where it would only
    decide over the sound that the softer channel has of its own.
    """
    loudest = level.max(0) if isinstance(level, np.ndarray) else level.amax(0)
    return ((level / (loudest + _TINY) - _APART) / (_TOGETHER - _APART)).clip(0, 1)


def linked(clean: Array, noisy: Array, share: Array) -> Array:
    """Return the noisy spectra [channels, ...] under the complex gain of each bin that comes nearest to clean.

    That is the least-squares fit: the projection of the estimates onto what was recorded. share: of `shares`.
    """
    return linked_ratio(noisy.conj() * clean, noisy.real**2 + noisy.imag**2, share) * noisy


def linked_ratio(part: Array, whole: Array, share: Array) -> Array:
    """Return part / whole [channels, ...]: by their share that of the sums over the channels, else of each alone."""
    together, alone = part.sum(0) / (whole.sum(0) + _TINY), part / (whole + _TINY)
    return share * together + (1 - share) * alone
