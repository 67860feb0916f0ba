"""Data prediction that must also pass for clean speech before discriminators of its spectrogram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus
from torch.nn.utils.parametrizations import weight_norm

from sbm_cli.config import check_ranges, written
from sbm_cli.data.random import EXCERPT, uniforms
from sbm_cli.dsp.stft import Stft
from sbm_cli.nn.network import Network
from sbm_cli.training.losses import FLOOR
from sbm_cli.training.objectives.examples import autocast, data_loss, draw_estimate
from sbm_cli.training.objectives.objective import STUDENT, Batch, Learner, Objective

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig

DISCRIMINATOR = "discriminator"
LEAST_SECONDS = 0.05  # of an excerpt


@dataclass(frozen=True)
class Adversarial(Objective):
    """The recipe's loss and, against what it blurs, relativistic discriminators with feature matching.

    weight: norm of the adversarial gradient at an item's estimate, as a multiple of that of the recipe's loss there.
    ramp: steps in which the weight rises from 0; until then the discriminators learn more than the student does.
    features: weight of feature matching beside the adversarial loss.
    windows: of the discriminators' spectrograms, in samples; channels: of each.
    seconds: length of the excerpt that they see, at a random place.
    every, rate: the discriminators move in every so many steps, at this rate.

    Sources: discriminators of complex spectrograms with several windows, feature matching and weights by the gradients
    at the estimate, Défossez et al. (arXiv 2210.13438); the relativistic loss, Jolicoeur-Martineau (arXiv 1807.00734),
    here of an estimate beside its own clean speech, place by place. The sizes are ours.
    """

    weight: float = 1.0
    ramp: int = 400
    features: float = 2.0
    windows: tuple[int, ...] = (512, 1024, 2048)
    channels: int = 32
    seconds: float = 2.0
    every: int = 2
    rate: float = 4e-4

    def __post_init__(self) -> None:
        check_ranges(self, weight="[0, inf)", features="[0, inf)", ramp="[0, inf)", every="[1, inf)")
        check_ranges(self, channels="[1, inf)", rate="(0, inf)", seconds=f"[{LEAST_SECONDS}, inf)")
        if not self.windows or any(window % 4 or not 64 <= window <= 2**15 for window in self.windows):
            raise ValueError(f"windows are multiples of 4 from 64 to {2**15} samples, got {written(self.windows)}")

    def learners(self, config: TrainConfig, student: Network) -> Mapping[str, Learner]:
        from sbm_cli.training.config import OptimizerConfig

        optimizer = OptimizerConfig(rate=self.rate, final_rate=min(self.rate, 1e-5), betas=(0.8, 0.99), warmup=20)
        return {DISCRIMINATOR: Learner(Discriminator(self.windows, self.channels), optimizer, self.every)}

    def loss(self, config: TrainConfig, batch: Batch, learner: str, networks: Mapping[str, nn.Module]) -> Tensor:
        with torch.set_grad_enabled(learner == STUDENT):
            spectra, _, estimate = draw_estimate(config, batch, networks[STUDENT])
        scale = spectra.level.mean(1, keepdim=True).sqrt()
        real = self._excerpt(config, batch, batch.clean / scale)

        def judge(waveform: Tensor) -> list[list[Tensor]]:
            with autocast(config.loop.precision, waveform.device):
                return networks[DISCRIMINATOR](waveform)

        def excerpt(spectrum: Tensor) -> Tensor:
            waveform = config.model.to_waveform(spectrum, spectra.level, batch.clean.shape[-1])
            return self._excerpt(config, batch, waveform / scale)

        if learner == DISCRIMINATOR:
            pairs = zip(judge(real), judge(excerpt(estimate)), strict=True)
            return _sum(softplus(b[-1] - a[-1]).mean() for a, b in pairs) / len(self.windows)
        at = estimate.detach().requires_grad_()
        regression = data_loss(config, batch, spectra, at)
        share = self.weight * min(1.0, batch.step / max(1, self.ramp))
        (gradient,) = torch.autograd.grad(regression, at)
        if share:
            with torch.no_grad():
                truth = judge(real)
            passing = _sum(self._passing(a, b) for a, b in zip(truth, judge(excerpt(at)), strict=True))
            (other,) = torch.autograd.grad(passing, at)
            sizes = [x.abs().square().sum((1, 2), keepdim=True).sqrt() for x in (gradient, other)]
            gradient = gradient + share * sizes[0] / sizes[1].clamp_min(1e-12) * other
        # The value of the recipe's loss, with the gradient of the balanced sum.
        along = (torch.view_as_real(estimate) * torch.view_as_real(gradient)).sum()
        return regression.detach() + along - along.detach()

    def _excerpt(self, config: TrainConfig, batch: Batch, waveform: Tensor) -> Tensor:
        length = min(waveform.shape[-1], round(self.seconds * config.model.rate))
        places = uniforms(config.seed, batch.step, batch.items, EXCERPT, 1) * (waveform.shape[-1] - length + 1)
        return waveform.gather(1, places.long() + torch.arange(length, device=waveform.device))

    def _passing(self, truth: list[Tensor], estimate: list[Tensor]) -> Tensor:
        """Return what one discriminator's verdict, and what its layers see, cost the student."""
        pairs = list(zip(truth[:-1], estimate[:-1], strict=True))
        matching = _sum((a - b).abs().mean() / a.abs().mean().clamp_min(1e-6) for a, b in pairs) / len(pairs)
        return softplus(truth[-1] - estimate[-1]).mean() + self.features * matching


class Discriminator(nn.Module):
    """One stack of convolutions for each window; waveforms [items, samples] to the outputs of all layers of each.

    The last output is the verdict, the higher the cleaner, over time and frequency.
    """

    def __init__(self, windows: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.transforms = [Stft(window, window, window // 4, "hann") for window in windows]
        self.stacks = nn.ModuleList(_stack(channels) for _ in windows)

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        found = []
        for transform, stack in zip(self.transforms, self.stacks, strict=True):
            parts = torch.view_as_real(transform.forward(waveform)).permute(0, 3, 2, 1)  # [items, 2, frames, freq]
            energy = parts.square().sum(1, keepdim=True) + FLOOR
            x = torch.cat([parts * energy**-0.35, energy**0.15], 1).contiguous(memory_format=torch.channels_last)
            outputs = []
            for layer in stack:  # type: ignore[attr-defined]
                x = layer(x)
                outputs.append(x)
                x = leaky_relu(x, 0.2)
            found.append([x.float() for x in outputs])
        return found


def _stack(channels: int) -> nn.ModuleList:
    wide = [
        nn.Conv2d(inputs, channels, (3, 9), (1, 2), (dilation, 4), (dilation, 1))
        for inputs, dilation in ((3, 1), (channels, 1), (channels, 2), (channels, 4))
    ]
    return nn.ModuleList(map(weight_norm, [*wide, nn.Conv2d(channels, 1, 3, padding=1)]))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
