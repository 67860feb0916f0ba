"""The training loop: data prediction at bridge times, on one or several processes that share each batch.

What a step sees depends on (seed, step, item) alone: neither the number of processes nor a stop in between changes it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException, spawn

from sbm_cli.bridge.schedule import sample_state
from sbm_cli.checkpoint import ModelConfig
from sbm_cli.dsp.level import frame_power
from sbm_cli.errors import ConfigError, TrainingError
from sbm_cli.nn.network import Network
from sbm_cli.training.config import OptimizerConfig, TimeConfig, TrainConfig
from sbm_cli.training.data import open_corpus
from sbm_cli.training.ema import update_ema
from sbm_cli.training.losses import enhancement_loss
from sbm_cli.training.mixing import Mixer
from sbm_cli.training.processes import agree, on_stop, share_gradients
from sbm_cli.training.rooms import open_rooms
from sbm_cli.training.state import LAST, check, restore, write_checkpoint

ROOM_SEED = 1  # the rooms of `evaluation.sets` have others


@dataclass(frozen=True)
class Progress:
    """What the loop reports: step, mean loss since the last report, audio seconds per second, seconds left."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    speed: float
    remaining: float


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, constant, half a cosine down over the last part."""
    start = steps * (1 - config.decay)
    rate = config.rate * min(1.0, (step + 1) / max(1, config.warmup))
    if step < start:
        return rate
    part = (step - start) / max(1.0, steps - start)
    return config.final_rate + (rate - config.final_rate) * 0.5 * (1 + math.cos(math.pi * part))


def draw_time(config: TimeConfig, step: int, steps: int, generator: torch.Generator) -> Tensor:
    """Return a bridge time [1]: 1 with the point mass's probability, else uniform on [t_min, 1]."""
    mass = config.final_end_mass if step >= steps * (1 - config.final_part) else config.end_mass
    at_end, t = torch.rand(2, generator=generator).tolist()
    return torch.ones(1) if at_end < mass else torch.full((1,), config.t_min + (1 - config.t_min) * t)


def prepare(model: ModelConfig, waveform: Tensor, level: Tensor) -> Tensor:
    """Return the levelled, compressed spectrum [batch, freq, frames] of a waveform [batch, samples]."""
    return model.compression.compress(model.stft.forward(waveform) / level.sqrt()[:, None])


def item_loss(config: TrainConfig, network: Network, noisy: Tensor, clean: Tensor, step: int, item: int) -> Tensor:
    """Return the loss of one mixture, noisy and clean [1, samples], with its time and noise drawn by (step, item)."""
    model = config.model
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence((config.seed, step, item, 1)).generate_state(1, np.uint64)[0] >> 1)
    )
    power = frame_power(model.stft.forward(noisy))
    carry = None
    if torch.rand((), generator=generator) < config.warm_level:
        carry = power.mean(1) * 10 ** (torch.rand(1, generator=generator) * 1.2 - 0.6)  # +-6 dB
    level, _ = model.level.track(power, model.stft.hop / model.rate, carry)
    y, x0 = prepare(model, noisy, level), prepare(model, clean, level)
    t = draw_time(config.time, step, config.steps, generator)
    noise = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    late = network.config.lookahead
    state = sample_state(model.schedule, x0, y, t, noise)
    if late:
        state, y = (torch.nn.functional.pad(x, (0, late)) for x in (state, y))
    estimate = network(state, y, t)[0][..., late:]
    return enhancement_loss(config.loss, model.stft, model.compression, estimate, x0, level, clean)


def train(
    config: TrainConfig,
    output: Path,
    resume: bool = False,
    max_minutes: float | None = None,
    processes: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Train a model and leave `{name}.safetensors` (the moving average) with its JSON in `output`.

    resume: go on from `output/last.safetensors`, bit for bit as if there had been no stop.
    max_minutes: stop after that time with a checkpoint, as an interrupt does too.
    processes: share each batch between so many, one thread each; None takes one per core.
    report: called by process 0, and sent to it, so a function of a module if there are several.

    Raises ConfigError if `output` holds a checkpoint and resume is not set, or the checkpoint is of another recipe.
    """
    last = output / LAST
    if last.exists() and not resume:
        raise ConfigError(f"{output}: holds a training already", "Use --resume to go on with it, or another --output.")
    if last.exists():
        check(last, config)
    output.mkdir(parents=True, exist_ok=True)
    _open_data(config)  # decoded and simulated once, before the processes start
    processes = min(processes or os.cpu_count() or 1, config.batch)
    if processes == 1:
        _run(0, 1, config, output, max_minutes, report)
        return
    # Activations of a few MB come and go all the time: glibc shall keep their pages, not fault them in again (20 %).
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(16 << 30))
    rendezvous = output / ".rendezvous"
    rendezvous.unlink(missing_ok=True)
    arguments = (processes, f"file://{rendezvous.resolve()}", config, output, max_minutes, report)
    context = spawn(_join, arguments, processes, join=False)
    with on_stop(context.processes[0].terminate):  # process 0 ends the step and tells the others
        try:
            while not context.join():
                pass
        except ProcessRaisedException as error:
            raise TrainingError(str(error).strip().splitlines()[-1]) from error
    rendezvous.unlink(missing_ok=True)


def _join(rank: int, size: int, rendezvous: str, *rest: object) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
    try:
        _run(rank, size, *rest)
    finally:
        dist.destroy_process_group()


def _open_data(config: TrainConfig) -> Mixer:
    data, cache = config.data, Path(config.data.cache)
    manifests, speech, noise, rir = (
        [Path(path) for path in paths] for paths in (data.manifests, data.speech, data.noise, data.rir)
    )
    corpus = open_corpus(cache, manifests, speech, noise, rir)
    return Mixer(corpus, open_rooms(cache, data.rooms, ROOM_SEED, corpus), config.mix)


def _run(rank: int, size: int, *rest: object) -> None:
    stop = threading.Event()
    with on_stop(stop.set):
        _train(rank, size, stop, *rest)  # type: ignore[arg-type]


def _train(
    rank: int,
    size: int,
    stop: threading.Event,
    config: TrainConfig,
    output: Path,
    max_minutes: float | None,
    report: Callable[[Progress], None] | None,
) -> None:
    mixer = _open_data(config)
    torch.manual_seed(config.seed)
    network = Network(config.model.network)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    decayed = {name for name, p in network.named_parameters() if p.ndim > 1 and "A_log" not in name}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in network.named_parameters() if name in decayed]},
        {"params": [p for name, p in network.named_parameters() if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    last = output / LAST
    first = restore(last, network, average, optimizer) if last.exists() else 0
    items = range(rank, config.batch, size)
    start = checkpointed = reported = time.monotonic()
    seconds = config.batch * config.mix.segment_seconds
    losses: list[float] = []
    for step, mixtures in _prefetch(mixer, config.seed, range(first, config.steps), items):
        loss = 0.0
        for item, (noisy, clean) in zip(items, mixtures, strict=True):
            value = item_loss(config, network, noisy, clean, step, item) / config.batch
            value.backward()
            loss += float(value.detach())
        loss = share_gradients(network, loss, size)
        norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip))
        if not math.isfinite(loss + norm):
            raise TrainingError(
                f"step {step}: loss {loss}, gradient norm {norm}",
                "Look for damaged recordings, or lower optimizer.rate; the last checkpoint is as it was.",
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(average, network, config.optimizer.ema, step)
        losses.append(loss)

        now = time.monotonic()
        over = agree(stop.is_set() or (max_minutes is not None and now - start > 60 * max_minutes), size)
        end = over or step + 1 == config.steps
        if rank == 0 and (end or now - checkpointed > 60 * config.checkpoint_minutes):
            write_checkpoint(output, config, network, average, optimizer, step + 1)
            checkpointed = now
        if rank == 0 and (end or len(losses) == 50):
            speed = len(losses) * seconds / (now - reported)
            left = (config.steps - step - 1) * seconds / speed
            _log(output, Progress(step + 1, config.steps, float(np.mean(losses)), norm, speed, left), report)
            losses, reported = [], now
        if end:
            break


def _prefetch(
    mixer: Mixer, seed: int, steps: range, items: range, depth: int = 3
) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
    """Yield (step, mixtures of this process) in order, made by one thread a few steps ahead."""

    def make(step: int) -> list[tuple[Tensor, Tensor]]:
        pairs = (mixer.item(seed, step, item) for item in items)
        return [(torch.from_numpy(noisy)[None], torch.from_numpy(clean)[None]) for noisy, clean in pairs]

    with ThreadPoolExecutor(1) as pool:
        waiting = [(step, pool.submit(make, step)) for step in steps[:depth]]
        for ahead in range(depth, len(steps) + depth):
            if not waiting:
                return
            step, future = waiting.pop(0)
            mixtures = future.result()
            if ahead < len(steps):
                waiting.append((steps[ahead], pool.submit(make, steps[ahead])))
            yield step, mixtures


def _log(output: Path, progress: Progress, report: Callable[[Progress], None] | None) -> None:
    with open(output / "log.jsonl", "a") as file:
        file.write(json.dumps(vars(progress) | {"time": round(time.time())}) + "\n")
    if report is not None:
        report(progress)
