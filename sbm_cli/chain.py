"""The chain at the model's rate, block by block: STFT, level, compression, the network, and all the way back."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sbm_cli.bridge.sampler import sample
from sbm_cli.dsp.level import Level, frame_power

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer
    from sbm_cli.nn import network as nn
    from sbm_cli.options import Options

HIGH_BAND = Level(attack=0.02, release=0.02, floor_db=-120.0)  # smooths the gain of what the model does not see
SILENCE = 1e-12  # frame power (-120 dBFS) below which there is nothing to enhance and the output is zero


@dataclass
class Carry:
    """State of recordings side by side between two blocks, None at their beginning.

    channels: of each recording; they share a level. seed: of each one's noise.
    """

    channels: list[int]
    seed: InitVar[int]
    noise: list[np.random.Generator] = field(init=False)
    analysis: Tensor | None = None
    level: Tensor | None = None
    network: dict[int, nn.Carry] = field(default_factory=dict)  # of every step
    # Of the frames that the look-ahead holds back: state and noisy of every step, the gain [recordings, frames], and
    # the spectrum.
    states: dict[int, Tensor] = field(default_factory=dict)
    gain: Tensor | None = None
    spectrum: Tensor | None = None
    high: Tensor | None = None
    synthesis: Tensor | None = None

    def __post_init__(self, seed: int) -> None:
        self.noise = [np.random.default_rng(seed) for _ in self.channels]


def enhance_block(enhancer: Enhancer, samples: Tensor, options: Options, high: bool, carry: Carry) -> Tensor:
    """Return the samples [channels, hops * hop] that this block [channels, n] at the model's rate completes.

    The channels are those of one recording after the other, as the carry has it.
    high: return three times as many rows: the enhanced sound, the sound as the model heard it, and the gain of what
    lies above, all of them equally late. Resampled together they stay so.
    """
    config = enhancer.config
    spectrum, carry.analysis = config.stft.analyze(samples, carry.analysis)
    if not spectrum.shape[2]:
        return samples[:, :0].repeat(3 if high else 1, 1)
    power = config.level.power(spectrum, config.rate / config.stft.n_fft)
    if len(power) > len(carry.channels):
        power = torch.stack([channels.mean(0) for channels in power.split(carry.channels)])
    frame_seconds, lookahead = config.stft.hop / config.rate, frames_late(enhancer, options)
    level, carry.level = config.level.track(power, frame_seconds, carry.level)
    gain = level.sqrt()
    noisy = config.compression.compress(spectrum / _of_channels(gain, carry))
    estimate = _estimate(enhancer, noisy, options, carry)
    gain, carry.gain = _late(torch.where(power > SILENCE, gain, 0.0), lookahead, carry.gain)
    clean = config.compression.expand(estimate) * _of_channels(gain, carry)
    if high:
        spectrum, carry.spectrum = _late(spectrum, lookahead, carry.spectrum)
        top = config.stft.bins // 2  # the uppermost octave
        powers = torch.cat([frame_power(clean[:, top:]), frame_power(spectrum[:, top:])])
        powers, carry.high = HIGH_BAND.track(powers, frame_seconds, carry.high)
        lowered, heard = powers.chunk(2)
        ones, _ = config.stft.analyze(samples.new_ones(1, config.stft.window), samples.new_zeros(1, 0))
        # One gain a frame, in the shape of its window: overlap-add draws a smooth line through them.
        clean = torch.cat([clean, spectrum, ones * (lowered / heard).sqrt().clamp(max=1)[:, None]])
    clean, carry.synthesis = config.stft.synthesize(clean, carry.synthesis)
    return clean


def frames_late(enhancer: Enhancer, options: Options) -> int:
    """Return by how many frames the output comes late: by the look-ahead of every step."""
    return enhancer.config.network.lookahead * options.steps


def _of_channels(gain: Tensor, carry: Carry) -> Tensor:
    """Return the gain of each recording, [recordings, frames], for each of its channels, [channels, 1, frames]."""
    rows = [row for row, count in enumerate(carry.channels) for _ in range(count)]
    return gain[rows, None] if len(carry.channels) > 1 else gain[:, None]


def _late(x: Tensor, frames: int, held: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return x [..., frames] so many frames late, as the network's output is, and what is held back."""
    x = torch.cat([x.new_zeros(*x.shape[:-1], frames) if held is None else held, x], -1)
    split = x.shape[-1] - frames
    return x[..., :split], x[..., split:]


def _estimate(enhancer: Enhancer, noisy: Tensor, options: Options, carry: Carry) -> Tensor:
    """Return the estimate of clean, shaped like the compressed spectrum `noisy` [channels, freq, frames].

    Each step has a carry of its own: it sees the frames of its own time, in their order, however they are cut.
    """
    left = 1 - options.dereverb
    network: Callable[..., tuple[Tensor, nn.Carry]] = enhancer.folded(left) if left else enhancer.network
    if options.steps > 1:
        network = partial(enhancer.timed_network, room=noisy.real.new_tensor([left]) if left else None)
    draws = _draws(noisy, options.steps, carry) if options.sampler == "sde" else iter(())

    numbers, waits = itertools.count(), itertools.count()

    def step(state: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        number = next(numbers)
        estimate: Tensor
        # Entering it takes as long as a small operator: not where it would change nothing.
        kind, half = noisy.device.type, options.dtype == "bfloat16"
        cast = half or torch.is_autocast_enabled(kind)
        with torch.autocast(kind, torch.bfloat16, enabled=half) if cast else contextlib.nullcontext():
            estimate, carry.network[number] = network(state, noisy, t[:1], carry.network.get(number))
        return estimate

    def wait(*states: Tensor) -> tuple[Tensor, Tensor]:
        number, frames = next(waits), enhancer.config.network.lookahead
        (state, noisy), carry.states[number] = _late(torch.stack(states), frames, carry.states.get(number))
        return state, noisy

    schedule, draw = enhancer.config.schedule, lambda _: next(draws)
    return sample(step, schedule, noisy, options.steps, options.sampler, draw, wait=wait)


def _draws(noisy: Tensor, steps: int, carry: Carry) -> Iterator[Tensor]:
    """Yield noise for every step but the last; drawn frame after frame, so that it does not depend on the blocks."""
    _, bins, frames = noisy.shape
    draws = [
        generator.standard_normal((frames, steps - 1, channels, bins, 2), np.float32)
        for generator, channels in zip(carry.noise, carry.channels, strict=True)
    ]
    parts = np.concatenate(draws, axis=2) * np.float32(0.5**0.5)
    yield from torch.view_as_complex(torch.from_numpy(parts)).to(noisy.device).permute(1, 2, 3, 0)
