"""Short-time Fourier transform of files and streams, with one implementation: a file is a stream of one block.

Both ends are padded with zeros; a stream could not reflect its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sbm_cli.arrays import Array, functions, zeros

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Stft:
    """Analysis and synthesis with one window.

    n_fft, window, hop: in samples; hop divides window, window <= n_fft.
    shape: "sqrt-hann" (both ways) or "hann" (the synthesis window then compensates for its square).
    Spectra are normalised by the energy of the window: white noise of RMS r has a mean power of r**2 in every bin.
    """

    n_fft: int = 512
    window: int = 512
    hop: int = 256
    shape: str = "sqrt-hann"

    def __post_init__(self) -> None:
        if not 0 < self.hop < self.window <= self.n_fft or self.window % self.hop:
            sizes = f"hop {self.hop}, window {self.window}, n_fft {self.n_fft}"
            raise ValueError(f"need hop < window <= n_fft and hop dividing window, got {sizes}")
        if self.n_fft > 2**15 or self.window > 64 * self.hop:
            sizes = f"n_fft {self.n_fft}, window {self.window}, hop {self.hop}"
            raise ValueError(f"n_fft must be at most {2**15} and window at most 64 hops, got {sizes}")
        if self.shape not in ("sqrt-hann", "hann"):
            raise ValueError(f"window shape must be sqrt-hann or hann, got {self.shape!r}")

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def overlap(self) -> int:
        """Samples that a window shares with the next one; also the zeros before the first sample."""
        return self.window - self.hop

    def frames(self, samples: int) -> int:
        """Return the number of frames that cover every sample with all its windows."""
        return math.ceil((samples + self.overlap) / self.hop) if samples else 0

    def analyze(self, samples: Array, carry: Array | None = None) -> tuple[Array, Array]:
        """Return the spectrum of all complete frames, and the samples still needed.

        samples: [batch, samples]. carry: from the last call, None at the start.
        Returns a spectrum [batch, freq, frames] and a carry [batch, fewer than window].
        """
        before = zeros(samples, len(samples), self.overlap) if carry is None else carry
        samples = functions(samples).concatenate([before, samples], 1)
        count = max(0, (samples.shape[1] - self.window) // self.hop + 1)
        carry = samples[:, count * self.hop :]
        if not count:
            return zeros(samples, len(samples), self.bins, 0) * 1j, carry
        if isinstance(samples, np.ndarray):
            row, sample = samples.strides
            frames = as_strided(samples, (len(samples), count, self.window), (row, self.hop * sample, sample))
            # Without `norm` NumPy computes in double precision, which takes five times as long.
            spectra = np.fft.rfft(frames * windows(self)[3], self.n_fft, norm="forward")
            return spectra.astype(np.complex64, copy=False).swapaxes(1, 2), carry
        import torch

        frames = samples.unfold(-1, self.window, self.hop) * window_tensors(self, samples.device)[0]
        return torch.fft.rfft(frames, self.n_fft).transpose(1, 2), carry

    def synthesize(self, spectrum: Array, carry: Array | None = None) -> tuple[Array, Array]:
        """Return hop finished samples per frame, and the sum of windows that continues.

        spectrum: [batch, freq, frames], one frame at least. carry: [batch, overlap], None at the start.
        The first `overlap` samples of a stream are the zeros before its beginning.
        """
        x, (batch, _, count) = functions(spectrum), spectrum.shape
        frames = x.fft.irfft(spectrum.swapaxes(1, 2), self.n_fft)[..., : self.window]
        if isinstance(frames, np.ndarray):
            frames = frames.astype(np.float32, copy=False) * windows(self)[1]
        else:
            frames = frames * window_tensors(self, frames.device)[1]
        hops = frames.reshape(batch, count, -1, self.hop)
        carry = zeros(frames, batch, self.overlap) if carry is None else carry
        total = x.concatenate([carry.reshape(batch, -1, self.hop), x.zeros_like(hops[:, :, 0])], 1)
        for part in range(hops.shape[2]):
            total[:, part : part + count] += hops[:, :, part]
        return total[:, :count].reshape(batch, -1), total[:, count:].reshape(batch, -1)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the spectrum [batch, freq, frames] of whole waveforms [batch, samples]."""
        from torch.nn import functional as F

        count = self.frames(samples.shape[-1])
        padding = count * self.hop - samples.shape[-1]
        return self.analyze(F.pad(samples, (0, padding)))[0]

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """Return the waveforms [batch, samples] of a spectrum [batch, freq, frames]."""
        return self.synthesize(spectrum)[0][:, self.overlap : self.overlap + samples]


@lru_cache  # copying to a GPU at every call would block on it
def window_tensors(stft: Stft, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the windows, and the spectrum of a constant, as tensors."""
    import torch

    with torch.inference_mode(False):  # later calls may need gradients
        analysis, synthesis, constant = (torch.from_numpy(window).to(device) for window in windows(stft)[:3])
    return analysis, synthesis, constant


@lru_cache
def windows(stft: Stft) -> tuple[NDArray[Any], ...]:
    """Return the windows [window] of analysis and synthesis, the spectrum [freq] of a constant, n_fft * analysis."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(stft.window) / stft.window)
    if stft.shape == "sqrt-hann":
        window = np.sqrt(window)
    scale = np.sqrt(np.square(window).sum())
    # Every sample is covered by window // hop windows; their squares sum to this, the same for every hop.
    cover = np.tile(np.square(window).reshape(-1, stft.hop).sum(0), stft.window // stft.hop)
    constant = np.fft.rfft(window / scale, stft.n_fft).astype(np.complex64)
    analysis, synthesis = (window / scale).astype(np.float32), (window / cover * scale).astype(np.float32)
    return analysis, synthesis, constant, analysis * np.float32(stft.n_fft)
