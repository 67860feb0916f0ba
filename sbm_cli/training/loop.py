"""The training loop, the same for one CPU process, several of them, one GPU and many (see `launch`).

What a step sees depends on (seed, step, item) alone: neither the number of processes nor the size of a forward pass nor
a stop in between changes it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sbm_cli.atomic import remove_parts
from sbm_cli.data.sources import Bars, Sources, batches, open_sources
from sbm_cli.errors import ConfigError, TrainingError
from sbm_cli.hardware import chosen_device
from sbm_cli.model import Model
from sbm_cli.training.config import TrainConfig
from sbm_cli.training.launch import Worker, chosen_processes, launch, on_stop
from sbm_cli.training.logs import Logs, read_scores
from sbm_cli.training.objectives.objective import AVERAGE, STUDENT, Batch, Learner
from sbm_cli.training.optimizer import Optimizer, learning_rate
from sbm_cli.training.state import (
    BEGIN_WITH,
    BEST,
    LAST,
    check,
    check_start,
    locked,
    restore,
    write_checkpoint,
    write_model,
)
from sbm_cli.training.validation import Score, validate


@dataclass(frozen=True)
class Progress:
    """What the loop reports of the steps since its last report; `valid` has scores where it validated.

    loss, grad_norm: means; speed: audio seconds per second; waiting: fraction of the time spent waiting for mixtures;
    skipped: steps without a finite loss and gradient; remaining: seconds; others: mean losses of the other learners.
    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    rate: float
    speed: float
    waiting: float
    skipped: int
    remaining: float
    valid: Mapping[str, Score] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)


LOGGED = ("loss", "grad_norm", "rate", "speed", "waiting", "skipped")


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the next step, and scores of each set before the first step and at the end, if known."""

    step: int
    interrupted: bool
    before: Mapping[str, Score]
    after: Mapping[str, Score]


def train(
    config: TrainConfig,
    output: Path,
    resume: bool = False,
    max_minutes: float | None = None,
    processes: int | None = None,
    report: Callable[[Progress], None] | None = None,
    start: Path | None = None,
    device: str = "auto",
    sources: Sources | None = None,
    bars: Bars | None = None,
) -> Outcome:
    """Train a model and leave `{name}.safetensors` (the moving average) with its JSON in `output`, the best in `best`.

    Where nothing is validated, the last counts as the best.

    resume: go on from `output/last.pt`, on a CPU bit for bit as if there had been no stop.
    max_minutes: stop after that time with a checkpoint.
    processes: share each batch between so many; None takes one per core, or one GPU.
    report: called by process 0, and sent to it, so a function of a module if there are several.
    start: begin with the weights of this model file instead of random ones.
    device: "auto" (CUDA if there is one), "cpu" or "cuda".
    sources: mixtures to take instead of the recipe's, by one process.
    bars: of process 0 while it opens the recipe's, sent to it like `report`.

    Raises ConfigError if `output` holds a checkpoint and resume is not set, or the checkpoint is of another model, or
    another training writes into it;
    TrainingError if loss or gradient stay infinite; DependencyError for a GPU that is not there;
    KeyboardInterrupt if it was interrupted, after a checkpoint.
    """
    check_output(config, output, resume, start)
    device = chosen_device(device)
    processes = chosen_processes(processes or (None if sources is None else 1), device, config.batch)
    made = not output.exists()
    try:
        with locked(output):
            check_output(config, output, resume, start)  # another may have ended since
            for folder in (output, output / BEST):
                remove_parts(folder)  # which a killed one had half written
            outcome = launch(_run, device, processes, config, output, max_minutes, report, start, sources, bars)
    except BaseException:
        with suppress(OSError):  # not empty: the training had begun
            if made:
                output.rmdir()
        raise
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome


def check_output(config: TrainConfig, output: Path, resume: bool, start: Path | None) -> None:
    """Raise the ConfigErrors of `train` about its folder and the model that it begins with."""
    last = output / LAST
    if last.exists() and not resume:
        raise ConfigError(
            f"{output}: holds a training already", "Use --resume to continue it, or choose another --output."
        )
    if last.exists():
        check(last, config)
    elif start is not None:
        check_start(start, config)
    elif config.objective.wants_start:
        raise ConfigError(f"{config.model.name} begins with a trained model", BEGIN_WITH)


def _run(
    worker: Worker,
    config: TrainConfig,
    output: Path,
    max_minutes: float | None,
    report: Callable[[Progress], None] | None,
    start: Path | None,
    sources: Sources | None,
    bars: Bars | None,
) -> Outcome:
    with worker.first():  # decodes and simulates; the others find it done
        sources = sources or open_sources(config.data, config.mix, worker.device, None if worker.rank else bars)
    stop = threading.Event()
    with closing(_Training(worker, config, output, start, sources)) as training, on_stop(stop.set):
        return training.run(stop, math.inf if max_minutes is None else 60 * max_minutes, report)


class _Training:
    """What one process holds of a training; process 0 alone validates, logs and saves."""

    def __init__(self, worker: Worker, config: TrainConfig, output: Path, start: Path | None, sources: Sources) -> None:
        self.worker, self.config, self.output, self.sources = worker, config, output, sources
        if worker.size > config.batch:
            raise ConfigError(
                f"{worker.size} processes cannot share a batch of {config.batch}",
                "Raise batch, or start fewer processes.",
            )
        if worker.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if config.loop.tf32 else "highest")
        torch.manual_seed(config.seed)
        network = config.model.network.build()
        last = output / LAST
        tuned = start is not None and not last.exists()
        if start is not None and tuned:
            network.inherit(Model.load(start).network)
        scaled = config.loop.precision == "float16"
        self.learners = {STUDENT: Learner(network, config.optimizer), **config.objective.learners(config, network)}
        self.networks = {name: learner.network.to(worker.device) for name, learner in self.learners.items()}
        self.optimizers, self.frozen = dict[str, Optimizer](), dict[str, nn.Module]()
        for name, learner in self.learners.items():
            if learner.optimizer is None:
                self.frozen[name] = self.networks[name].requires_grad_(False)
            else:
                self.optimizers[name] = Optimizer(self.networks[name], learner.optimizer, scaled)
        self.optimizer = self.optimizers[STUDENT]
        self.step, self.best = restore(last, config, self.optimizers, self.frozen) if last.exists() else (0, math.inf)
        self.average = self.optimizer.averaged()
        if config.objective.wants_average:
            self.networks[AVERAGE] = self.average
        # In its last step: loss, gradient norm, whether both are finite, and how many steps in a row they were not.
        self.found = {name: torch.tensor([0.0, 0.0, 1.0, 0.0], device=worker.device) for name in self.optimizers}
        self.items = range(worker.rank, config.batch, worker.size)
        self.numbers = torch.tensor(self.items, device=worker.device)
        self.together = config.loop.micro_batch or (1 if worker.device.type == "cpu" else len(self.items))
        self.logs = Logs(output, self.step) if worker.rank == 0 else None
        if tuned:
            self.validate()
        elif last.exists() and worker.rank == 0:
            write_model(output, config, self.optimizer)

    def close(self) -> None:
        if self.logs is not None:
            self.logs.close()

    def run(self, stop: threading.Event, seconds: float, report: Callable[[Progress], None] | None) -> Outcome:
        """Train up to the recipe's last step, for so many seconds, or until told to stop."""
        config, loop = self.config, self.config.loop
        begun = saved = time.monotonic()
        window, scores, over = self._window(), dict[str, Score](), False
        steps, worker = range(self.step, config.steps), self.worker
        mixtures = batches(self.sources.train, config.seed, steps, self.items, worker.device, worker.size)
        while self.step < config.steps and not over:
            asked = time.monotonic()
            noisy, clean = next(mixtures)
            waited = time.monotonic() - asked
            window.add(self.learn(noisy, clean), waited)
            now = time.monotonic()
            over = self.worker.agree(stop.is_set() or now - begun > seconds)
            end = over or self.step == config.steps
            validating = loop.validate_every > 0 and (end or self.step % loop.validate_every == 0)
            if end or validating or self.step % loop.report_every == 0:
                progress = window.read(config, self.step)
                if validating and not stop.is_set():
                    scores = self.validate()
                    progress = replace(progress, valid=scores)
                if self.logs is not None:
                    others = {f"{name}_loss": loss for name, loss in progress.others.items()}
                    self.logs.train(self.step, {name: getattr(progress, name) for name in LOGGED} | others)
                    if report is not None:
                        report(progress)
                window = self._window()
            if self.logs is not None and self.step == config.steps and self.best == math.inf:
                write_model(self.output / BEST, config, self.optimizer)
            if self.logs is not None and (end or now - saved > 60 * config.checkpoint_minutes):
                write_checkpoint(self.output, config, self.optimizers, self.step, self.best, self.frozen)
                saved = now
        return Outcome(self.step, over and stop.is_set(), read_scores(self.output, 0), scores)

    def learn(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Make a step of every learner whose turn it is with this process's mixtures, [items, samples] each.

        Returns [loss, gradient norm, whether all are finite, losses of the other learners, how many steps in a row were
        not finite].
        """
        for learner in self.optimizers:
            if self.step % self.learners[learner].every == 0:
                self.found[learner] = self._learn(learner, noisy, clean)
        found = torch.stack(list(self.found.values()))
        self.step += 1
        return torch.stack([*found[0, :2], found[:, 2].min(), *found[1:, 0], found[:, 3].max()])

    def _window(self) -> _Window:
        return _Window([name for name in self.optimizers if name != STUDENT], self.worker.device)

    def _learn(self, learner: str, noisy: Tensor, clean: Tensor) -> Tensor:
        config, optimizer = self.config, self.optimizers[learner]
        weights = list(self.networks[learner].parameters())
        for a, b, items in zip(*(tensor.split(self.together) for tensor in (noisy, clean, self.numbers)), strict=True):
            loss = config.objective.loss(config, Batch(a, b, self.step, items), learner, self.networks)
            loss = loss * (len(items) / config.batch)  # by constants: the sum does not depend on how items are spread
            (loss * optimizer.scale).backward(inputs=weights)
            optimizer.loss += loss.detach()
        self.worker.add_up(optimizer.sums)
        return optimizer.step(self.step, config.steps)

    def validate(self) -> dict[str, Score]:
        """Score the moving average on every set, log it, and keep it if it is the best."""
        if self.logs is None:
            return {}
        found = {
            name: validate(self.config, self.average, source, self.worker.device, self.together)
            for name, source in self.sources.valid.items()
        }
        for name, validation in found.items():
            self.logs.valid(self.step, name, validation, self.config.model)
        loss = sum(validation.score.loss for validation in found.values())
        if found and loss < self.best:
            self.best = loss
            write_model(self.output / BEST, self.config, self.optimizer)
        return {name: validation.score for name, validation in found.items()}


class _Window:
    """The steps between two reports, added up on the device."""

    def __init__(self, others: Sequence[str], device: torch.device) -> None:
        self._others = others
        # loss, gradient norm and number of the finite steps, losses of the other learners
        self._sums = torch.zeros(3 + len(others), device=device)
        self._in_row = torch.zeros((), device=device)
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()

    def add(self, found: Tensor, waited: float) -> None:
        """Count a step: what `_Training.learn` found, and the seconds that it waited for mixtures."""
        self._sums += torch.where(found[2] > 0, found[:-1], 0.0)
        self._in_row = found[-1]
        self._steps += 1
        self._waited += waited

    def read(self, config: TrainConfig, step: int) -> Progress:
        """Return what was counted up to a step; this waits for a GPU.

        Raises TrainingError if too many steps in a row were not finite.
        """
        loss, norm, finite, *others, in_row = torch.cat([self._sums, self._in_row[None]]).tolist()
        if in_row >= config.loop.skip_limit:
            raise TrainingError(
                f"step {step}: loss or gradient were not finite for {in_row:.0f} steps in a row",
                "Look for damaged recordings, or lower optimizer.rate; the last checkpoint is intact.",
            )
        elapsed = time.monotonic() - self._since
        return Progress(
            step,
            config.steps,
            loss / finite if finite else math.nan,
            norm / finite if finite else math.nan,
            learning_rate(config.optimizer, step - 1, config.steps),
            self._steps * config.batch * config.mix.segment_seconds / elapsed,
            self._waited / elapsed,
            self._steps - round(finite),
            (config.steps - step) * elapsed / self._steps,
            others={name: x / finite if finite else math.nan for name, x in zip(self._others, others, strict=True)},
        )
