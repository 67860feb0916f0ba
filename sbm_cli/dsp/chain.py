"""The chain from a block of noisy sound to clean sound: STFT, level and network, and back, whatever computes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sbm_cli.arrays import functions, zeros
from sbm_cli.dsp.level import HIGH_BAND, SILENCE, Level, frame_power
from sbm_cli.dsp.link import linked, linked_ratio, shares
from sbm_cli.dsp.offset import limit_offset, most_offset

if TYPE_CHECKING:
    from sbm_cli.model import Model
    from sbm_cli.options import Options


class Chain:
    """Recordings side by side at the model's rate, block by block; arrays are all of NumPy, or all tensors.

    channels: of each recording; they share a level, and two of them a gain unless the options say otherwise. high:
    whether a high band is wanted.
    What passes from one block to the next is None at the beginning.
    """

    constant: Any  # spectrum [freq] of a constant under the window of a frame

    def __init__(self, model: Model, channels: Sequence[int], options: Options, high: bool) -> None:
        self.config, self.options, self.high = model.config, options, high
        ends, wanted = itertools.accumulate(channels), options.link_channels
        self.recordings = [slice(end - count, end) for end, count in zip(ends, channels, strict=True)]
        share_gain = [count > 1 and (count == 2 if wanted is None else wanted) for count in channels]
        self.links = list(itertools.compress(self.recordings, share_gain))
        self.late = model.frames_late(options.sampler, options.steps)  # frames, of the network's output
        owners = [row for row, count in enumerate(channels) for _ in range(count)]
        self.owners: Any = owners if len(owners) > 1 else slice(None)  # rows of the level for the channels
        self.analysis: Any = None
        self.level: Any = None
        self.gains: Any = None  # levels on both sides of the high band's gain
        self.synthesis: Any = None
        self.late_level: Any = None  # of the frames that the look-ahead holds back,
        self.spectrum: Any = None  # and theirs

    def __call__(self, samples: Any) -> Any:
        """Return the samples [1, channels, hops * hop] that this block [channels, n] completes.

        Where a high band is wanted, three times as much: the enhanced sound, the sound as the model heard it, and the
        gain of the high band, all equally late. Resampled together they stay aligned.
        """
        spectrum, self.analysis = self.config.stft.analyze(samples, self.analysis)
        if not spectrum.shape[2]:
            return zeros(samples, 3 if self.high else 1, len(samples), 0)
        samples, self.synthesis = self.config.stft.synthesize(self.enhanced(spectrum), self.synthesis)
        return samples.reshape(-1, len(spectrum), samples.shape[1])

    def clean(self, noisy: Any, level: Any, late_level: Any) -> Any:
        """Return the clean spectrum, late, shaped like noisy [channels, freq, frames]; levels: [channels, frames]."""
        raise NotImplementedError

    def limited(self, spectrum: Any) -> Any:
        """Return a spectrum with a limited offset."""
        return limit_offset(spectrum, self.constant, self.config.bin_hz, most_offset(self.config.level.low_hz))

    def tracked(self, level: Level, power: Any, last: Any) -> tuple[Any, Any]:
        """Return the level of every frame, [groups, frames], and of the last one; last: that before the first."""
        return level.track(power, self.config.stft.hop / self.config.rate, last)

    def enhanced(self, spectrum: Any) -> Any:
        """Return the spectra to synthesize, [1 or 3 times channels, freq, frames], from that of a block."""
        noisy, recordings, x = self.limited(spectrum), len(self.recordings), functions(spectrum)
        power = channels = self.config.power(noisy)
        if len(channels) > recordings:
            power = x.stack([sum(part) / len(part) for part in (channels[rows] for rows in self.recordings)])
        if self.links:
            power = x.concatenate([power, channels])
        level, self.level = self.tracked(self.config.level, power, self.level)
        sounding = x.where(power > SILENCE, level, 0.0)
        late, self.late_level = delayed(sounding, self.late, self.late_level)
        clean = self.clean(noisy, level[self.owners], late[self.owners])
        if not (self.high or self.links):
            return clean
        spectrum, self.spectrum = delayed(spectrum, self.late, self.spectrum)
        share = [shares(late[recordings:][rows]) for rows in self.links]
        for rows, own in zip(self.links, share, strict=True):
            clean[rows] = linked(clean[rows], self.limited(spectrum[rows]), own[:, None])
        if not self.high:
            return clean
        top = self.config.stft.bins // 2  # the uppermost octave
        powers = x.concatenate([frame_power(spectra[:, top:]) for spectra in (clean, spectrum)])
        powers, self.gains = self.tracked(HIGH_BAND, powers, self.gains)
        lowered, heard = powers[: len(clean)], powers[len(clean) :]
        ratio = lowered / heard
        for rows, own in zip(self.links, share, strict=True):
            ratio[rows] = linked_ratio(lowered[rows], heard[rows], own)
        # One gain per frame, shaped like its window: overlap-add interpolates smoothly.
        gains = x.sqrt(ratio).clip(max=1)[..., None] * self.constant
        return x.concatenate([clean, spectrum, gains.swapaxes(1, 2)])


def delayed(x: Any, frames: int, held: Any) -> tuple[Any, Any]:
    """Return x [rows, ..., frames] later by so many frames, like the output of the network, and what is held back."""
    if held is None:  # in the order of x in memory, frames second; one more, for an empty axis has no place there
        held = functions(x).moveaxis(zeros(x, len(x), frames + 1, *x.shape[1:-1]), 1, -1)[..., :frames]
    x = functions(x).concatenate([held, x], -1)
    split = x.shape[-1] - frames
    return x[..., :split], x[..., split:]
