"""The chain in PyTorch: with any number of steps, any backbone and on any device."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sbm_cli.audio.samples import Samples
from sbm_cli.bridge.sampler import FrameNoise, sample
from sbm_cli.dsp.chain import Chain, delayed
from sbm_cli.dsp.stft import window_tensors
from sbm_cli.model import Model
from sbm_cli.nn import network as nn
from sbm_cli.options import Options
from sbm_cli.stream import windows

_PROCESS = os.getpid()  # that imported this module, to notice a fork


class TorchChain(Chain):
    """The chain by PyTorch."""

    def __init__(self, model: Model, channels: Sequence[int], options: Options, high: bool, threads: int) -> None:
        super().__init__(model, channels, options, high)
        self._model, self._threads = model, threads
        self.constant = window_tensors(model.config.stft, torch.device(model.device))[2]
        self._noise = FrameNoise(model.config.schedule, options.sampler, options.steps, channels, options.seed)
        self._windows: windows.Carry | None = None
        self.carries: dict[int, nn.Carry] = {}  # of every step of a causal network
        self._states: dict[int, Tensor] = {}  # and noisy, of every step, while the look-ahead holds its estimate back

    def __call__(self, samples: Samples) -> Samples:
        with torch.inference_mode(), threads(self._threads):
            return super().__call__(torch.from_numpy(samples).to(self._model.device)).cpu().numpy()

    def clean(self, noisy: Tensor, level: Tensor, late_level: Tensor) -> Tensor:
        return self.config.expand(self._estimate(self.config.compress(noisy, level)), late_level)

    def _estimate(self, noisy: Tensor) -> Tensor:
        """Return the estimate of clean, shaped like the compressed spectrum `noisy` [channels, freq, frames].

        Each step of a causal network has its own carry: it sees all frames of its own time in order, however they are
        cut into blocks.
        """
        parts = torch.from_numpy(self._noise.draw(noisy.shape[2], noisy.shape[1])).unbind(-1)
        noise = torch.complex(*parts).to(noisy.device).permute(1, 2, 3, 0)  # [draw, channel, freq, frame]
        if self.config.network.causal:
            return self._walk(noisy, *noise)
        frames = torch.stack([noisy, *noise])
        estimate, self._windows = windows.enhance_windows(lambda seen: self._walk(*seen), frames, self._windows)
        return estimate

    def _walk(self, noisy: Tensor, *noise: Tensor) -> Tensor:
        """Return the estimate after all steps of the sampler, with the noise of those that draw some."""
        config, options, left = self.config, self.options, 1 - self.options.dereverb
        several = options.steps > 1 or config.schedule.end_std  # the folded network takes the noisy signal alone
        network = self._model.network if several else self._model.folded(left)
        told = {"room": noisy.real.new_tensor([left])} if left else {}
        numbers, waits, draws = itertools.count(), itertools.count(), iter(noise)
        carries = self.carries if config.network.causal else {}

        def step(state: Tensor, noisy: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
            self._model.before_call()
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
            number, lookahead = next(waits), config.network.lookahead
            late, self._states[number] = delayed(torch.stack(tensors), lookahead, self._states.get(number))
            return tuple(late)

        return sample(step, config.schedule, noisy, options.steps, options.sampler, lambda _: next(draws), wait=wait)


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
