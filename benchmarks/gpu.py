"""Check, time and train on a GPU that has nothing but PyTorch (with Triton) and NumPy. docs/gpu.md says how to.

    python benchmarks/gpu.py check
    python benchmarks/gpu.py time [--recipe FILE.json] [--pack DIR] [--minutes 7]
    python benchmarks/gpu.py train --recipe FILE.json --pack DIR --minutes 9 --out DIR [--resume DIR] [--set key=value]

`--device cpu --quick` runs the same on any machine, on small sizes. check and time make audio of their own without
--pack. A checkpoint leaves `train` in parts of at most 15 MiB, with the logs: `--resume` takes a folder of them.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a lent machine has no sbm installed

from sbm_cli.checkpoint import ModelConfig
from sbm_cli.nn import scan
from sbm_cli.nn.band_conv import band_conv, band_conv_reference
from sbm_cli.nn.band_linear import band_linear, band_linear_reference
from sbm_cli.nn.network import Network, NetworkConfig
from sbm_cli.training.config import TrainConfig, load_recipe
from sbm_cli.training.data import RATE, Clip, Corpus
from sbm_cli.training.loop import Progress
from sbm_cli.training.loop import train as run_training
from sbm_cli.training.mixing import Mixer
from sbm_cli.training.objective import batch_loss, prepare
from sbm_cli.training.optimizer import Optimizer
from sbm_cli.training.pack import open_pack
from sbm_cli.training.random import normals, uniforms
from sbm_cli.training.rooms import Room, RoomBank, simulate_room
from sbm_cli.training.state import LAST

PRECISIONS = ("float32", "tf32", "bfloat16")
FILE_SECONDS = 10
PART = 15 << 20  # bytes; 16 MiB come back in one file
SMALL = NetworkConfig(channels=16, blocks=1, state=8, cross_groups=2, squeeze=2, head=4, embedding=4)

Row = tuple[str, str, str, str, str]
Check = tuple[str, str, float, float]  # what, case, error, bound


def toy_audio() -> tuple[Corpus, RoomBank]:
    """Make 20 "utterances" of 5 speakers, 10 noises and 6 rooms: enough for every branch of the mixer."""
    rng = np.random.default_rng(0)
    clips, parts, start = [], [], 0
    for i in range(30):
        n = int(rng.uniform(0.3, 6) * RATE)
        kind, name = ("speech", f"s{i % 5}") if i < 20 else ("noise", f"n{i}")
        bursts = np.sin(2 * np.pi * 2 * np.arange(n) / RATE) > -0.3 if kind == "speech" else 1
        parts.append((rng.standard_normal(n) * 6000 * bursts).clip(-32767, 32767).astype(np.int16))
        clips.append(Clip(str(i), kind, kind + str(i % 2), name, name, "train", None, None, start, n, 1e-5))
        start += n
    responses = [simulate_room(0, i)[0] for i in range(6)]
    rooms, start = [], 0
    for i, response in enumerate(responses):
        rooms.append(Room(str(i), 0.3, "hall" if i > 3 else "", start, len(response)))
        start += len(response)
    store = np.concatenate([response * 16384 for response in responses]).astype(np.int16)
    return Corpus(clips, np.concatenate(parts)), RoomBank(tuple(rooms), store)


def recipe(options: argparse.Namespace) -> TrainConfig:
    if options.recipe:
        return load_recipe(options.recipe, options.set)
    config = TrainConfig(ModelConfig("sbm-tiny", network=SMALL if options.quick else NetworkConfig()))
    return replace(config, mix=replace(config.mix, segment_seconds=0.5)) if options.quick else config


def moved_network(config: TrainConfig) -> Network:
    """Return a network away from its start, where branches are zero and errors would not show."""
    torch.manual_seed(0)
    network = Network(config.model.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return network


# ---- check


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative error, norm over norm; infinite for what is not finite."""
    errors = [
        float((a.detach().cpu().double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(found, expected, strict=True)
    ]
    return max(errors) if np.isfinite(errors).all() else float("inf")


def with_gradients(function: Callable[..., Tensor | tuple[Tensor, ...]], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return what a function gives and the gradients of a fixed projection of it with respect to `leaves`."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    found = function(*leaves)
    outputs = [found] if isinstance(found, Tensor) else [x for x in found if x.requires_grad]
    total = sum((x * torch.linspace(-1, 1, x.numel(), device=x.device).view(x.shape).to(x)).sum() for x in outputs)
    gradients = torch.autograd.grad(total, leaves)
    return [*(x.detach() for x in outputs), *gradients]


def operations(generator: torch.Generator) -> list[tuple[str, Callable[..., object], Callable[..., object], list[Tensor]]]:
    """Return (name, function, its reference, float64 arguments) of everything that has kernels of its own."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def scan_leaves(batch: int, time: int, band: int, channel: int, state: int) -> list[Tensor]:
        rows = (batch, time, band)
        A = -torch.arange(1.0, state + 1).repeat(channel, 1).double()
        parts = [normal(*rows, channel), normal(*rows, channel) - 2, A, normal(*rows, state), normal(*rows, state)]
        return [*parts, normal(channel), normal(*rows, channel), normal(batch, band, channel, state)]

    conv_leaves = [normal(2, 31, 5, 24), normal(24, 1, 4), normal(24), normal(2, 5, 24, 3)]
    linear_leaves = [normal(2, 9, 32, 16), normal(8, 16), normal(8), normal(8, 32, 32) / 6, normal(32, 8), normal(16, 8)]
    return [
        ("selective_scan", scan.selective_scan, scan.reference.selective_scan, scan_leaves(2, 61, 5, 32, 16)),
        ("selective_scan, odd", scan.selective_scan, scan.reference.selective_scan, scan_leaves(1, 17, 1, 19, 8)),
        ("causal_conv1d", scan.causal_conv1d, scan.reference.causal_conv1d, conv_leaves),
        (
            "band_conv",
            partial(band_conv, groups=4),
            partial(band_conv_reference, groups=4),
            [normal(2, 9, 33, 32), normal(32, 8, 5), normal(32)],
        ),
        ("band_linear", band_linear, band_linear_reference, [*linear_leaves, normal(16)]),
    ]


def check_operations(device: torch.device) -> list[Check]:
    checks: list[Check] = []
    names = [name for name, missing in scan.available().items() if not missing and name != "eager"]
    usable = {"cuda": ("reference", "triton", "mamba_ssm"), "cpu": ("reference", "cpu")}[device.type]
    for what, function, reference, leaves in operations(torch.Generator().manual_seed(0)):
        expected = with_gradients(reference, leaves)
        for name in (name for name in names if name in usable):
            if name == "mamba_ssm" and "scan" not in what:
                continue
            on_device = [leaf.float().to(device) for leaf in leaves]
            with scan.use(name):
                if name == "mamba_ssm":  # it gives no gradient through the carry, so compare without
                    found = with_gradients(lambda *parts: function(*parts)[0], on_device[:-1])
                    wanted = with_gradients(lambda *parts: reference(*parts)[0], leaves[:-1])
                else:
                    found, wanted = with_gradients(function, on_device), expected
            checks.append((what, name, relative(found, wanted), 1e-4))
    return checks


def check_network(config: TrainConfig, device: torch.device, noisy: Tensor, clean: Tensor) -> list[Check]:
    """Compare loss and gradients with those of the CPU in float32."""

    def found(where: torch.device, precision: str) -> list[Tensor]:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        name = "float32" if precision == "tf32" else precision
        chosen = replace(config, loop=replace(config.loop, precision=name))
        network = moved_network(config).to(where)
        items = torch.arange(len(noisy), device=where)
        loss = batch_loss(chosen, network, noisy.to(where), clean.to(where), 0, items)
        loss.backward()
        flat = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        return [loss, torch.cat(flat)]

    expected = [x.detach() for x in found(torch.device("cpu"), "float32")]
    bounds = {"float32": 2e-3, "tf32": 2e-2, "bfloat16": 0.2}
    return [
        (f"network, {part}", precision, relative([a], [b]), bounds[precision])
        for precision in PRECISIONS
        for part, a, b in zip(("loss", "gradient"), found(device, precision), expected, strict=True)
    ]


def check(options: argparse.Namespace) -> None:
    device, config = torch.device(options.device), recipe(options)
    audio = open_pack(options.pack) if options.pack else toy_audio()
    items, mix = torch.tensor([0, 5, 2**32 - 1]), replace(config.mix, p_second_talker=0.3)
    checks: list[Check] = []
    for draw in (uniforms, normals):
        checks.append((f"random.{draw.__name__}", "", relative([draw(7, 3, items.to(device), 1, 999)], [draw(7, 3, items, 1, 999)]), 1e-6))
    host, made = (Mixer(*audio, mix, device=where).batch(1, 2, range(8 if options.quick else 64)) for where in ("cpu", device))
    for name, a, b in zip(("noisy", "clean"), made, host, strict=True):
        checks.append(("mixtures", name, float((a.cpu() - b).abs().max()), 1e-4))
    checks += check_operations(device)
    checks += check_network(config, device, *(x[:4] for x in host))
    for what, case, error, bound in checks:
        print(f"{what:<24}{case:<12}{error:>10.1e}  < {bound:.0e}  {'ok' if error < bound else 'WRONG'}", flush=True)
    if not all(error < bound for _, _, error, bound in checks):
        sys.exit(1)


# ---- time


def timed(calls: Sequence[Callable[[], object]], device: torch.device, seconds: float, least: int = 3) -> list[float]:
    """Return the median milliseconds of each call, called in turn for so many seconds; the first two turns are left out."""
    turns: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(turns) < least + 2 or time.perf_counter() < end:
        if device.type == "cuda":
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
            marks[0].record()
            for call, mark in zip(calls, marks[1:], strict=True):
                call()
                mark.record()
            turns.append(marks)  # type: ignore[arg-type]
            if len(turns) == 2:
                torch.cuda.synchronize()
                end = time.perf_counter() + seconds
        else:
            times = [time.perf_counter()]
            for call in calls:
                call()
                times.append(time.perf_counter())
            turns.append([1e3 * (b - a) for a, b in zip(times[:-1], times[1:], strict=True)])
    if device.type == "cuda":
        torch.cuda.synchronize()
        turns = [[a.elapsed_time(b) for a, b in zip(m[:-1], m[1:], strict=True)] for m in turns]  # type: ignore
    return [statistics.median(column) for column in zip(*turns[2:], strict=True)]
