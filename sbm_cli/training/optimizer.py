"""AdamW or Muon, gradient clipping and the moving average, on parameters laid end to end."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sbm_cli.training.config import OptimizerConfig
from sbm_cli.training.muon import orthogonal

ALIGNMENT = 16  # floats: every parameter starts where vector loads and cuBLAS like it
FIRST_SCALE = 2.0**10  # of a float16 loss
SCALE_DOUBLES = 1000  # steps
LEAST = 8  # rows and columns of a matrix for Muon: below that there is little to make orthogonal


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, constant, half a cosine down over the last part."""
    start = steps * (1 - config.decay)
    rate = config.rate * min(1.0, (step + 1) / max(1, config.warmup))
    if step < start:
        return rate
    part = (step - start) / max(1.0, steps - start)
    return config.final_rate + (rate - config.final_rate) * 0.5 * (1 + math.cos(math.pi * part))


def ema_decay(most: float, step: int) -> float:
    """Return the decay of the moving average: short at first, so that the random start is soon forgotten.

    step counts from 0; the decay grows as (1 + step) / (10 + step) up to `most` (as TensorFlow's moving average does).
    """
    return min(most, (1 + step) / (10 + step))


def named_in(network: nn.Module, attribute: str) -> set[str]:
    """Return the parameters that modules of a network name in an attribute: their own, or those of a whole child."""
    named = [
        f"{prefix}.{name}." if prefix else f"{name}."
        for prefix, module in network.named_modules()
        for name in getattr(module, attribute, ())
    ]
    return {name for name, _ in network.named_parameters() if f"{name}.".startswith(tuple(named))}


def matrices(network: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Return the parameters of a network that are matrices, and the shape [count, rows, columns] to see them in.

    A grouped convolution has a matrix for each group, from all that it sees to what it gives. What a module names in
    `no_muon` is left out.
    """
    found, left_out = {}, named_in(network, "no_muon")
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if isinstance(module, _ConvNd):
                shape = (module.groups, parameter.shape[0] // module.groups, parameter[0].numel())
            else:
                shape = (1, 1, 1, *parameter.shape)[-3:]
            if min(shape[1:]) >= LEAST and name not in left_out:
                found[name] = shape
    return found


class Optimizer:
    """The weights of a network in training, their gradient, moments and moving average: one tensor each.

    What has several dimensions decays, but for what a module names in `no_decay`.

    A step is a handful of operators whatever the number of layers, and the gradient crosses processes in one
    message. Nothing here waits for the device: a gradient that is not finite is found and left out there.

    loss: what the items of the step add their losses to; it travels with the gradient in `sums`.
    scale: what a float16 loss is multiplied with before `backward`, against gradients too small for it; 1 otherwise.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, scaled: bool = False) -> None:
        self._network, self._config, self._scaled = network, config, scaled
        shapes = matrices(network) if config.method == "muon" else {}
        undecayed = named_in(network, "no_decay") | {name for name, x in network.named_parameters() if x.ndim < 2}
        named = sorted(network.named_parameters(), key=lambda item: (item[0] not in shapes, item[0] in undecayed))
        self._places: dict[str, int] = {}
        end = orthogonal_end = decayed = 0
        for name, parameter in named:
            self._places[name] = end
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            orthogonal_end = end if name in shapes else orthogonal_end
            decayed = decayed if name in undecayed else end
        device = named[0][1].device
        weights, self.average, *moments = (torch.zeros(end, device=device) for _ in range(4))
        self.sums = torch.zeros(end + 1, device=device)
        self.gradient, self.loss = self.sums[:-1], self.sums[-1]
        self.scale = torch.full((), FIRST_SCALE if scaled else 1.0, device=device)
        self._in_row = torch.zeros((), device=device)
        self._flat = {"model": weights, "ema": self.average, "exp_avg": moments[0], "exp_avg_sq": moments[1]}
        for name, parameter in named:
            view = self._view(weights, name, parameter).copy_(parameter.detach())
            parameter.data, parameter.grad = view, self._view(self.gradient, name, parameter)
        self.average.copy_(weights)

        self._alike: dict[tuple[int, int, int], list[tuple[Tensor, ...]]] = {}  # weight, gradient, momentum by shape
        for name, shape in shapes.items():
            flats = (weights, self.gradient, self._flat["exp_avg"])
            views = tuple(flat[self._places[name] :][: math.prod(shape)].view(shape) for flat in flats)
            self._alike.setdefault(shape, []).append(views)
        parts = (slice(orthogonal_end, decayed), slice(decayed, end))
        stretches = [weights[part] for part in parts]
        groups: list[dict[str, Any]] = [{"params": [stretches[0]]}, {"params": [stretches[1]], "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
        for stretch, part in zip(stretches, parts, strict=True):
            stretch.grad = self.gradient[part]
            count = {"step": torch.zeros((), device=device)}
            self._adamw.state[stretch] = count | {key: self._flat[key][part] for key in ("exp_avg", "exp_avg_sq")}

    @torch.no_grad()
    def step(self, step: int, steps: int) -> Tensor:
        """Move weights and average by the summed gradient, and clear it.

        If loss or gradient are not finite, weights and moments stay as they are. Returns [loss, gradient norm, whether
        they are finite, how many steps in a row were not].
        """
        norm = self.gradient.norm() / self.scale
        good = torch.isfinite(norm + self.loss)
        # What the fused kernel divides the gradient by, and what makes it leave all as it is (GradScaler's means).
        self._adamw.grad_scale = self.scale * (norm / self._config.clip).clamp_min(1)  # type: ignore[attr-defined]
        self._adamw.found_inf = (~good).float()  # type: ignore[attr-defined]
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._config, step, steps)
        self._adamw.step()
        self._step_matrices(good)
        self.average.lerp_(self._flat["model"], 1 - ema_decay(self._config.ema, step))
        if self._scaled:
            self.scale.mul_(torch.where(good, 2 ** (1 / SCALE_DOUBLES), 0.5))
        self._in_row = torch.where(good, 0.0, self._in_row + 1)
        found = torch.stack([self.loss, norm, good.float(), self._in_row])
        self.sums.zero_()
        return found

    def _step_matrices(self, good: Tensor) -> None:
        """Move the matrices along their momentum (Nesterov's) made orthogonal; those of one shape at once."""
        rate = good * self._adamw.param_groups[0]["lr"]
        for views in self._alike.values():
            weights, gradients, momenta = zip(*views, strict=True)
            gradient = torch.where(good, torch.stack(gradients) / self._adamw.grad_scale, 0.0)  # type: ignore[attr-defined]
            momentum = torch.stack(momenta).lerp_(gradient, good * (1 - self._config.momentum))
            steps = orthogonal(gradient.lerp(momentum, self._config.momentum))
            for weight, old, new, move in zip(weights, momenta, momentum, steps, strict=True):
                old.copy_(new)
                weight.mul_(1 - rate * self._config.weight_decay).sub_(rate * move)

    def averaged(self) -> nn.Module:
        """Return the network with the moving average for its weights, whatever it becomes; buffers are shared."""
        memo: dict[int, Any] = {id(buffer): buffer for buffer in self._network.buffers()}
        for name, parameter in self._network.named_parameters():
            memo[id(parameter)] = nn.Parameter(self._view(self.average, name, parameter))
        return copy.deepcopy(self._network, memo)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a continuation needs, by KIND.NAME: "model", "ema", "exp_avg", "exp_avg_sq", "step".

        A float16 training has its "scale" too.
        """
        found = {"scale": self.scale} if self._scaled else {}
        for name, tensor in self._network.state_dict().items():
            if name in self._places:
                found |= {f"{kind}.{name}": self._view(flat, name, tensor) for kind, flat in self._flat.items()}
                found[f"step.{name}"] = self._counts()[0]
            else:  # a buffer, which nothing moves
                found |= {f"{kind}.{name}": tensor for kind in ("model", "ema")}
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave.

        Raises KeyError or RuntimeError if they are of another network.
        """
        for name, tensor in self.tensors().items():
            if name != "scale" or name in tensors:  # older checkpoints have none
                tensor.copy_(tensors[name])
        first, second = self._counts()
        second.copy_(first)

    def _counts(self) -> list[Tensor]:
        return [state["step"] for state in self._adamw.state.values()]

    def _view(self, flat: Tensor, name: str, like: Tensor) -> Tensor:
        return flat[self._places[name] :][: like.numel()].view(like.shape)
