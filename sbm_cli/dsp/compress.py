"""Power-law compression of spectra, X -> factor * |X|**exponent * exp(i phase), and its inverse (as SGMSE+ does).

Spectra are arrays of NumPy or tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from sbm_cli.arrays import Array
from sbm_cli.config import check_ranges


@dataclass(frozen=True)
class Compression:
    """exponent: in [0.01, 1]. factor: acts as one parameter together with the noise scale c of the bridge."""

    exponent: float = 0.5
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, exponent="[0.01, 1]", factor="[0.001, 1000]")  # expanding uses the power 1 / exponent

    def compress(self, spectrum: Array) -> Array:
        """Return the compressed spectrum; zero stays zero. Gradients are infinite at zero."""
        # The bound lies 60 dB below anything audible and keeps 0 * 0**(negative) from becoming NaN.
        return spectrum * (self.factor * abs(spectrum).clip(min=1e-12) ** (self.exponent - 1))

    def expand(self, compressed: Array) -> Array:
        """Return the spectrum of a compressed one; differentiable everywhere, with a zero gradient of |X| at zero."""
        gain = abs(compressed) ** (1 / self.exponent - 1) * self.factor ** (-1 / self.exponent)
        return compressed * gain
