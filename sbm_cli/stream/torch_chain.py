"""The chain in PyTorch: with any number of steps, any backbone and on any device."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
import torch
from torch import Tensor

from sbm_cli.audio.samples import Samples
from sbm_cli.bridge.sampler import SAMPLERS, draw_frames, sample
from sbm_cli.dsp.level import HIGH_BAND, SILENCE, frame_power
from sbm_cli.dsp.link import linked, linked_ratio, shares
from sbm_cli.dsp.offset import limit_offset, most_offset
from sbm_cli.dsp.stft import window_tensors
from sbm_cli.model import Model
from sbm_cli.nn import network as nn
from sbm_cli.options import Options
from sbm_cli.stream import windows

_PROCESS = os.getpid()  # that imported this module, to notice a fork


class TorchChain:
    """The chain of `stream.Chain` for recordings of so many channels each; links: of `dsp.link`."""

    def __init__(
        self, model: Model, channels: Sequence[int], links: Sequence[slice], options: Options, high: bool, threads: int
    ) -> None:
        self._model, self._options, self._high, self._threads = model, options, high, threads
        self._carry = Carry(list(channels), options.seed, links)

    def __call__(self, samples: Samples) -> Samples:
        with torch.inference_mode(), threads(self._threads):
            noisy = torch.from_numpy(samples).to(self._model.device)
            clean = _enhance_block(self._model, noisy, self._options, self._high, self._carry)
            parts: Samples = clean.unflatten(0, (-1, len(samples))).cpu().numpy()
        return parts


@dataclass
class Carry:
    """What recordings side by side hand from one block to the next; None at the beginning.

    channels: of each recording; they share a level. seed: for the noise of each recording. links: the rows of channels
    that share a gain.
    """

    channels: list[int]
    seed: InitVar[int]
    links: Sequence[slice] = ()
    noise: list[np.random.Generator] = field(init=False)
    analysis: Tensor | None = None
    level: Tensor | None = None
    network: dict[int, nn.Carry] = field(default_factory=dict)  # of every step
    windows: windows.Carry | None = None
    # Of the frames that the look-ahead holds back: state and noisy of every step, the level of the recordings and, if
    # any are linked, of the channels, [rows, frames], and the spectrum.
    states: dict[int, Tensor] = field(default_factory=dict)
    late_level: Tensor | None = None
    spectrum: Tensor | None = None
    high: Tensor | None = None
    synthesis: Tensor | None = None

    def __post_init__(self, seed: int) -> None:
        self.noise = [np.random.default_rng(seed) for _ in self.channels]


def _enhance_block(model: Model, samples: Tensor, options: Options, high: bool, carry: Carry) -> Tensor:
    """Return the samples [channels, hops * hop] that this block [channels, n] at the model's rate completes.

    The channels are those of one recording after another, as in the carry.
    high: return three times as many rows, as in `stream.Chain`.
    """
    config = model.config
    spectrum, carry.analysis = config.stft.analyze(samples, carry.analysis)
    if not spectrum.shape[2]:
        return samples[:, :0].repeat(3 if high else 1, 1)
    clean = enhance_spectrum(model, spectrum, options, high, carry)
    clean, carry.synthesis = config.stft.synthesize(clean, carry.synthesis)
    return clean


def enhance_spectrum(model: Model, spectrum: Tensor, options: Options, high: bool, carry: Carry) -> Tensor:
    """Return the spectrum [channels, freq, frames] to synthesize from that of a block; see `_enhance_block`."""
    config = model.config
    constant = window_tensors(config.stft, spectrum.device)[2]
    limits = constant, config.bin_hz, most_offset(config.level.low_hz)
    noisy = limit_offset(spectrum, *limits)
    power = config.power(noisy)
    channels, recordings = power, len(carry.channels)
    if len(power) > recordings:
        power = torch.stack([each.mean(0) for each in power.split(carry.channels)])
    if carry.links:
        power = torch.cat([power, channels])
    level, carry.level = config.track(power, carry.level)
    estimate = _estimate(model, config.compress(noisy, _of_channels(level, carry)), options, carry)
    lookahead = model.frames_late(options.sampler, options.steps)
    level, carry.late_level = _late(torch.where(power > SILENCE, level, 0.0), lookahead, carry.late_level)
    clean = config.expand(estimate, _of_channels(level, carry))
    if high or carry.links:
        spectrum, carry.spectrum = _late(spectrum, lookahead, carry.spectrum)
    share = [shares(level[recordings:][rows]) for rows in carry.links]
    for rows, own in zip(carry.links, share, strict=True):
        clean[rows] = linked(clean[rows], limit_offset(spectrum[rows], *limits), own[:, None])
    if high:
        top = config.stft.bins // 2  # the uppermost octave
        powers = torch.stack([frame_power(clean[:, top:]), frame_power(spectrum[:, top:])])
        powers, carry.high = HIGH_BAND.track(powers.flatten(0, 1), config.stft.hop / config.rate, carry.high)
        lowered, heard = powers.chunk(2)
        ratio = lowered / heard
        for rows, own in zip(carry.links, share, strict=True):
            ratio[rows] = linked_ratio(lowered[rows], heard[rows], own)
        # One gain per frame, shaped like its window: overlap-add interpolates smoothly.
        clean = torch.cat([clean, spectrum, constant[:, None] * ratio.sqrt().clamp(max=1)[:, None]])
    return clean


def _of_channels(level: Tensor, carry: Carry) -> Tensor:
    """Return the level of each recording, [recordings, frames], for each of its channels; one level broadcasts."""
    rows = [row for row, count in enumerate(carry.channels) for _ in range(count)]
    return level[rows] if len(level) > 1 else level


def _late(x: Tensor, frames: int, held: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return x [..., frames] delayed by so many frames, like the output of the network, and what is held back."""
    x = torch.cat([x.new_zeros(*x.shape[:-1], frames) if held is None else held, x], -1)
    split = x.shape[-1] - frames
    return x[..., :split], x[..., split:]


def _estimate(model: Model, noisy: Tensor, options: Options, carry: Carry) -> Tensor:
    """Return the estimate of clean, shaped like the compressed spectrum `noisy` [channels, freq, frames].

    Each step of a causal network has its own carry: it sees all frames of its own time in order, however they are cut
    into blocks.
    """
    config, left = model.config, 1 - options.dereverb
    several = options.steps > 1 or config.schedule.end_std  # the folded network takes the noisy signal alone
    network = model.network if several else model.folded(left)
    told = {"room": noisy.real.new_tensor([left])} if left else {}
    noise: Iterable[Tensor] = ()
    if draws := SAMPLERS[options.sampler].noises(config.schedule, options.steps):
        drawn = torch.from_numpy(draw_frames(carry.noise, carry.channels, noisy.shape[2], draws, noisy.shape[1]))
        noise = torch.view_as_complex(drawn).to(noisy.device).permute(1, 2, 3, 0)  # [draw, channel, freq, frame]

    def walk(noisy: Tensor, *noise: Tensor) -> Tensor:
        numbers, waits, draws = itertools.count(), itertools.count(), iter(noise)
        carries = carry.network if config.network.causal else {}

        def step(state: Tensor, noisy: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
            number = next(numbers)
            also = told if to is None else told | {"to": to[:1]}
            estimate: Tensor
            # Entering autocast takes as long as a small operator: only where it has an effect.
            kind, half = noisy.device.type, options.dtype == "bfloat16"
            cast = half or torch.is_autocast_enabled(kind)
            with torch.autocast(kind, torch.bfloat16, enabled=half) if cast else contextlib.nullcontext():
                estimate, carries[number] = network(state, noisy, t[:1], carries.get(number), **also)
            return estimate

        def wait(*tensors: Tensor) -> tuple[Tensor, ...]:
            number = next(waits)
            late, carry.states[number] = _late(torch.stack(tensors), config.network.lookahead, carry.states.get(number))
            return late.unbind()

        return sample(step, config.schedule, noisy, options.steps, options.sampler, lambda _: next(draws), wait=wait)

    if config.network.causal:
        return walk(noisy, *noise)
    frames = torch.stack([noisy, *noise])
    estimate, carry.windows = windows.enhance_windows(lambda seen: walk(*seen), frames, carry.windows)
    return estimate


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's thread count inside a `with` block and restore it.

    In a forked process it is 1: OpenMP would wait for threads that only the parent has.
    """
    if os.getpid() != _PROCESS:
        count = 1
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
