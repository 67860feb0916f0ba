"""Filters by fast Fourier transform, speeds and the power of speech, for waveforms [items, samples] on any device."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from sbm_cli.data.corpus import FRAME
from sbm_cli.data.manifest import RATE
from sbm_cli.data.room_responses import LEAD, early_part


def reverberate(dry: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """Return dry speech in rooms and the target (direct sound and 6 ms), shaped like `dry` and at lag 0 to it.

    response: aligned and scaled (see room_responses.py), [items, samples].
    """
    n = dry.shape[-1]
    size = fast_length(n + response.shape[-1])
    spectrum = torch.fft.rfft(dry, size)
    wet, target = (torch.fft.irfft(spectrum * torch.fft.rfft(x, size), size) for x in (response, early_part(response)))
    return wet[:, LEAD : LEAD + n], target[:, LEAD : LEAD + n]


def through_room(noise: Tensor, response: Tensor) -> Tensor:
    """Convolve noise with responses cyclically: it was there before the segment began."""
    n = noise.shape[-1]
    return filtered(noise, torch.fft.rfft(response, n), n)


def shelved(audio: Tensor, low_db: Tensor, high_db: Tensor) -> Tensor:
    """Raise or lower both ends of the spectrum by dB [items]: shelves with half-way points at 300 Hz and 3 kHz."""
    size = fast_length(audio.shape[-1])
    f = frequencies(size, audio)
    low, high = 1 / (1 + (f / 300) ** 2), 1 - 1 / (1 + (f / 3000) ** 2)
    gain = db_ratio(low * low_db[:, None] + high * high_db[:, None])
    return filtered(audio, gain, size)


def band_limited(waveforms: Tensor, low_hz: Tensor, high_hz: Tensor) -> Tensor:
    """Cut away what lies below low_hz (0: nothing) and above high_hz, [items], with slopes 100 and 400 Hz wide."""
    size = fast_length(waveforms.shape[-1] + 480)  # 30 ms for the rims of the filter
    f = frequencies(size, waveforms)
    rise = torch.where(low_hz[..., None] > 0, ((f - low_hz[..., None] + 50) / 100).clip(0, 1), 1.0)
    gain = torch.sin(math.pi / 2 * rise * ((high_hz[..., None] + 200 - f) / 400).clip(0, 1)) ** 2
    return filtered(waveforms, gain, size)


def played(waveforms: Tensor, speed: Tensor, backwards: Tensor, samples: int) -> Tensor:
    """Return the first `samples` of waveforms played at speeds [items], the chosen ones backwards.

    Linear between two samples, which is good enough for noise: what folds over is noise too.
    """
    place = torch.arange(samples, device=speed.device) * speed[:, None]
    place = torch.where(backwards[:, None], place[:, -1:] - place, place).clamp(0, waveforms.shape[-1] - 1)
    first = place.long().clamp_max(waveforms.shape[-1] - 2)
    return waveforms.gather(1, first).lerp(waveforms.gather(1, first + 1), place - first)


def filtered(waveforms: Tensor, gain: Tensor, size: int) -> Tensor:
    """Multiply the spectrum of a transform of `size` samples by a gain."""
    product: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms, size) * gain, size)
    return product[..., : waveforms.shape[-1]]


def active_power(waveforms: Tensor) -> Tensor:
    """Return the mean power [items] of the active 20-ms frames: those within 30 dB of the 95th percentile of frames.

    Silence gives 0.
    """
    power = waveforms[:, : waveforms.shape[-1] // FRAME * FRAME].unflatten(1, (-1, FRAME)).square().mean(-1)
    ordered = power.sort(-1).values
    loud = ordered[:, int(0.95 * (power.shape[1] - 1)), None]
    active = power >= 1e-3 * torch.where(loud > 0, loud, ordered[:, -1:])
    return (power * active).sum(-1) / active.sum(-1)


def db_ratio(level_db: Tensor) -> Tensor:
    """Return the amplitude ratio of levels in dB."""
    return torch.exp(level_db * (math.log(10) / 20))


def frequencies(size: int, like: Tensor) -> Tensor:
    """Return the frequencies in Hz of a transform of `size` samples."""
    return torch.linspace(0, RATE / 2, size // 2 + 1, device=like.device)


@functools.cache
def fast_length(n: int) -> int:
    """Return the first even number from n on without a prime factor above 5: fast on every device."""
    size = n + n % 2
    while math.gcd(size, 30**20) < size:  # 2, 3 and 5 to powers that no size here exceeds
        size += 2
    return size
