"""Check, time and train on a GPU that has nothing but PyTorch (with Triton) and NumPy. docs/gpu.md says how to.

    export PYTHONPATH=.
    python benchmarks/gpu.py check
    python benchmarks/gpu.py time [--recipe FILE.json] [--pack DIR] [--minutes 7] [--out DIR]
    python benchmarks/gpu.py train --recipe FILE.json [--pack DIR] --minutes 9 --out DIR [--resume DIR | --from MODEL]
        [--fill] [--set key=value]

`--device cpu --quick` runs the same on any machine, on small sizes. check and time make audio of their own without
--pack, train takes what the recipe names. A checkpoint leaves `train` in parts of at most 16 MB, with the logs:
`--resume` takes a folder of them. `--fill` makes the schedule of a training that ends in one call. `time --out` writes
the kernels of a training step there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import Mixer
from sbm_cli.data.pack import open_pack
from sbm_cli.data.random import normals, uniforms
from sbm_cli.data.room_responses import ResponseBank, RoomResponse, simulate_room
from sbm_cli.data.sources import Source, open_sources
from sbm_cli.model import ModelConfig
from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet, OSpatialNetConfig
from sbm_cli.nn.kernels import reference
from sbm_cli.training.config import TrainConfig, load_recipe
from sbm_cli.training.loop import Progress
from sbm_cli.training.loop import train as run_training
from sbm_cli.training.objective import batch_loss
from sbm_cli.training.optimizer import Optimizer
from sbm_cli.training.state import LAST

PRECISIONS = ("float32", "tf32", "bfloat16")
FILE_SECONDS = 10
PART = 16_000_000  # bytes; 16 MiB come back in one file, 64 MiB in all
SMALL = OSpatialNetConfig(channels=16, blocks=1, d_state=8, cross_groups=2, squeeze=2, head=4, embedding=4)

Row = tuple[str, str, str, str, str]
Check = tuple[str, str, float, float]  # what, case, error, bound


def toy_audio() -> tuple[Corpus, ResponseBank]:
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
        rooms.append(RoomResponse(str(i), 0.3, "hall" if i > 3 else "", start, len(response)))
        start += len(response)
    store = np.concatenate([response * 16384 for response in responses]).astype(np.int16)
    return Corpus(clips, np.concatenate(parts)), ResponseBank(tuple(rooms), store)


def recipe(options: argparse.Namespace) -> TrainConfig:
    if options.recipe:
        return load_recipe(options.recipe, options.set)
    config = TrainConfig(ModelConfig("sbm-tiny", network=SMALL if options.quick else OSpatialNetConfig()))
    return replace(config, mix=replace(config.mix, segment_seconds=0.5)) if options.quick else config


def use_precision(name: str) -> str:
    """Let PyTorch's products have this precision, and return what the recipe calls it."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    return "float32" if name == "tf32" else name


def moved_network(config: TrainConfig) -> OSpatialNet:
    """Return a network away from its start, where branches are zero and errors would not show."""
    torch.manual_seed(0)
    network = OSpatialNet(config.model.network)
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


def operations(
    generator: torch.Generator,
) -> list[tuple[str, Callable[..., object], Callable[..., object], list[Tensor]]]:
    """Return (name, function, its reference, float64 arguments) of everything that has kernels of its own."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def scan_leaves(batch: int, time: int, band: int, channel: int, state: int) -> list[Tensor]:
        rows = (batch, time, band)
        A = -torch.arange(1.0, state + 1).repeat(channel, 1).double()
        parts = [normal(*rows, channel), normal(*rows, channel) - 2, A, normal(*rows, state), normal(*rows, state)]
        return [*parts, normal(channel), normal(*rows, channel), normal(batch, band, channel, state)]

    conv_leaves = [normal(2, 31, 5, 24), normal(24, 1, 4), normal(24), normal(2, 5, 24, 3)]
    linear_leaves = [
        normal(2, 9, 32, 16),
        normal(8, 16),
        normal(8),
        normal(8, 32, 32) / 6,
        normal(32, 8),
        normal(16, 8),
    ]
    return [
        ("selective_scan", kernels.selective_scan, reference.selective_scan, scan_leaves(2, 61, 5, 32, 16)),
        ("selective_scan, odd", kernels.selective_scan, reference.selective_scan, scan_leaves(1, 17, 1, 19, 8)),
        ("causal_conv1d", kernels.causal_conv1d, reference.causal_conv1d, conv_leaves),
        (
            "band_conv",
            partial(kernels.band_conv, groups=4),
            partial(reference.band_conv, groups=4),
            [normal(2, 9, 33, 32), normal(32), normal(32), normal(32, 8, 5), normal(32)],
        ),
        ("band_linear", kernels.band_linear, reference.band_linear, [*linear_leaves, normal(16)]),
    ]


def first_of(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    return lambda *parts: function(*parts)[0]


def check_operations(device: torch.device) -> Iterator[Check]:
    names = [name for name, missing in kernels.available().items() if not missing]
    usable = {"cuda": ("reference", "triton", "mamba_ssm"), "cpu": ("reference", "cpu")}[device.type]
    for what, function, plain, leaves in operations(torch.Generator().manual_seed(0)):
        expected = with_gradients(plain, leaves)
        for name in (name for name in names if name in usable):
            if name == "mamba_ssm" and "scan" not in what:
                continue
            on_device = [leaf.float().to(device) for leaf in leaves]
            with kernels.use(name):
                if name == "mamba_ssm":  # it gives no gradient through the carry: without one
                    found = with_gradients(first_of(function), on_device[:-1])
                    wanted = with_gradients(first_of(plain), leaves[:-1])
                else:
                    found, wanted = with_gradients(function, on_device), expected
            yield what, name, relative(found, wanted), 1e-4


def check_network(config: TrainConfig, device: torch.device, noisy: Tensor, clean: Tensor) -> Iterator[Check]:
    """Compare loss and gradients with those of the CPU in float32."""

    def found(where: torch.device, precision: str) -> list[Tensor]:
        name = use_precision(precision)
        chosen = replace(config, loop=replace(config.loop, precision=name))
        network = moved_network(config).to(where)
        items = torch.arange(len(noisy), device=where)
        loss = batch_loss(chosen, network, noisy.to(where), clean.to(where), 0, items)
        loss.backward()
        flat = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        return [loss, torch.cat(flat)]

    expected = [x.detach() for x in found(torch.device("cpu"), "float32")]
    bounds = {"float32": 5e-3, "tf32": 5e-2, "bfloat16": 0.2}
    for precision in PRECISIONS:
        for part, a, b in zip(("loss", "gradient"), found(device, precision), expected, strict=True):
            yield f"network, {part}", precision, relative([a], [b]), bounds[precision]


def check_flow(config: TrainConfig, mixer: Mixer) -> Check:
    """See that a training step never waits for the GPU: PyTorch raises an error where it would."""
    step = Step(config, mixer, 4)
    step.run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run()
    except RuntimeError as error:
        print(f"a step waits for the GPU: {error}")
        return "waits of a step", "", 1.0, 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "waits of a step", "", 0.0, 1.0


def checks(options: argparse.Namespace) -> Iterator[Check]:
    device, config = torch.device(options.device), recipe(options)
    audio = open_pack(options.pack) if options.pack else toy_audio()
    items, mix = torch.tensor([0, 5, 2**32 - 1]), replace(config.mix, p_second_talker=0.3)
    use_precision("float32")
    yield from check_operations(device)
    for draw in (uniforms, normals):
        error = relative([draw(7, 3, items.to(device), 1, 999)], [draw(7, 3, items, 1, 999)])
        yield f"random.{draw.__name__}", "", error, 1e-6
    host, made = (
        Mixer(*audio, mix, device=where).batch(1, 2, range(8 if options.quick else 64)) for where in ("cpu", device)
    )
    for name, a, b in zip(("noisy", "clean"), made, host, strict=True):
        yield "mixtures", name, float((a.cpu() - b).abs().max()), 1e-4
    if device.type == "cuda":
        yield check_flow(config, Mixer(*audio, mix, device=device))
    yield from check_network(config, device, *(x[:4] for x in host))


def check(options: argparse.Namespace) -> None:
    wrong = False
    for what, case, error, bound in checks(options):
        wrong |= not error < bound
        print(f"{what:<24}{case:<12}{error:>10.1e}  < {bound:.0e}  {'ok' if error < bound else 'WRONG'}", flush=True)
    if wrong:
        sys.exit(1)


# ---- time


def mark(device: torch.device) -> torch.cuda.Event | float:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(first: torch.cuda.Event | float, second: torch.cuda.Event | float) -> float:
    return first.elapsed_time(second) if isinstance(first, torch.cuda.Event) else 1e3 * (second - first)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(calls: Sequence[Callable[[], object]], device: torch.device, seconds: float) -> list[float]:
    """Return the median milliseconds of each call; all take turns, two to warm up and three at least."""
    for call in (*calls, *calls):
        call()
    wait(device)
    turns, end = [], time.perf_counter() + seconds
    while len(turns) < 3 or time.perf_counter() < end:
        turns.append([mark(device)])
        for call in calls:
            call()
            turns[-1].append(mark(device))
    wait(device)
    columns = list(zip(*turns, strict=True))
    return [statistics.median(map(milliseconds, a, b)) for a, b in zip(columns[:-1], columns[1:], strict=True)]


def busy_milliseconds(call: Callable[[], object], device: torch.device, table: Path | None = None) -> float:
    """Return for how long the device computed during a call, by its own clock; table: where its kernels are listed."""
    if device.type != "cuda":
        return float("nan")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    if table is not None:
        listed = profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=90)
        table.write_text(listed)
    events = [event for event in profile.key_averages() if str(event.device_type).endswith("CUDA")]
    return sum(event.self_device_time_total for event in events if not event.is_user_annotation) / 1e3


def time_scan(device: torch.device, quick: bool, seconds: float) -> list[Row]:
    """Time forward and backward of the scan; bytes are those of its tensors, each read or written once."""
    rows = []
    for shape in [(2, 40, 4, 16, 8)] if quick else [(64, 188, 32, 128, 16), (64, 188, 1, 192, 16)]:
        batch, frames, bands, channels, state = shape
        u, dt, z = (torch.randn(*shape[:4], device=device) for _ in range(3))
        B, C = (torch.randn(*shape[:3], state, device=device) for _ in range(2))
        A = -torch.arange(1.0, state + 1, device=device).repeat(channels, 1)
        leaves = [x.requires_grad_() for x in (u, dt - 3, A, B, C, torch.ones(channels, device=device), z)]
        bytes_moved = 4 * (4 * u.numel() + 2 * B.numel())
        for name in ("cpu",) if device.type == "cpu" else ("triton", "mamba_ssm", "reference"):
            if kernels.available()[name]:
                continue

            def forward(leaves: list[Tensor] = leaves) -> None:
                with torch.no_grad():
                    kernels.selective_scan(*leaves)

            def both(leaves: list[Tensor] = leaves) -> None:
                torch.autograd.grad(kernels.selective_scan(*leaves)[0].sum(), leaves)

            with kernels.use(name):
                times = timed([forward] if name == "reference" else [forward, both], device, seconds)
            for what, took, passes in zip(("forward", "forward, backward"), times, (1, 3), strict=False):
                speed = f"{torch.Size(shape).numel() / took / 1e6:.0f} G updates/s"
                rate = f"{passes * bytes_moved / took / 1e6:.0f} GB/s"
                rows.append((f"scan, {name}", f"{'x'.join(map(str, shape))} {what}", f"{took:.2f}", speed, rate))
    return rows


class Step:
    """One training step in parts that can be timed."""

    def __init__(self, config: TrainConfig, mixer: Source, batch: int) -> None:
        self.config, self.mixer, self.batch = replace(config, batch=batch), mixer, batch
        self.network = moved_network(config).to(mixer.device)
        self.optimizer = Optimizer(self.network, config.optimizer, False)
        self.items = torch.arange(batch, device=mixer.device)
        self.mix()

    def mix(self) -> None:
        self.noisy, self.clean = self.mixer.batch(0, 1, range(self.batch))

    @torch.no_grad()
    def spectra(self) -> None:
        self.config.model.to_network(self.noisy)

    def forward(self) -> None:
        self.loss = batch_loss(self.config, self.network, self.noisy, self.clean, 1, self.items)

    def backward(self) -> None:
        self.loss.backward()

    def update(self) -> None:
        self.optimizer.step(1, 100)

    def run(self) -> None:
        for part in (self.mix, self.forward, self.backward, self.update):
            part()


def time_training(
    config: TrainConfig, mixer: Source, batch: int, precision: str, seconds: float, out: Path | None = None
) -> Row:
    name = use_precision(precision)
    step = Step(replace(config, loop=replace(config.loop, precision=name)), mixer, batch)
    parts = [step.mix, step.forward, step.backward, step.update]
    times = timed(parts, mixer.device, seconds)
    (spectra,) = timed([step.spectra], mixer.device, 0.0)
    whole = sum(times)
    table = None if out is None else out / f"kernels-{precision}-{batch}.txt"
    idle = 1 - busy_milliseconds(step.run, mixer.device, table) / whole
    shares = zip(
        ("mix", "spectra", "forward", "backward", "update"),
        (times[0], spectra, times[1] - spectra, *times[2:]),
        strict=True,
    )
    text = " ".join(f"{name} {100 * part / whole:.0f}" for name, part in shares) + f" %, idle {100 * idle:.0f} %"
    speed = f"{batch * config.mix.segment_seconds / whole * 1e3:.0f} x real time"
    return ("training step", f"{precision}, batch {batch}", f"{whole:.1f}", speed, text)


@torch.no_grad()
def time_inference(config: TrainConfig, batch: int, precision: str, device: torch.device, seconds: float) -> list[Row]:
    """Time one-step enhancement of whole files side by side, as launched and as a replayed graph."""
    half = use_precision(precision) == "bfloat16"
    model, network = config.model, moved_network(config).to(device).eval().fold()
    noisy, one = 0.1 * torch.randn(batch, FILE_SECONDS * model.rate, device=device), torch.ones(1, device=device)

    def enhance() -> None:
        y, level = model.to_network(noisy)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            estimate = network(y, y, one)[0]
        estimate = model.compression.expand(estimate) * level.sqrt()[:, None]
        model.stft.inverse(estimate, noisy.shape[-1])

    calls = {"": enhance}
    if device.type == "cuda":
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                enhance()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            enhance()
        calls["as a graph"] = graph.replay
    rows = []
    for how, call in calls.items():
        (took,) = timed([call], device, seconds)
        rtf = took / 1e3 / (batch * FILE_SECONDS)
        rows.append(
            (
                "enhance 10-s files",
                f"{batch} at once, {precision} {how}".strip(),
                f"{took:.1f}",
                f"RTF {rtf:.1e}",
                f"{1 / rtf:.0f} x real time",
            )
        )
    return rows


def time_all(options: argparse.Namespace) -> None:
    begun, device, config = time.monotonic(), torch.device(options.device), recipe(options)
    audio = open_pack(options.pack) if options.pack else toy_audio()
    mixer, seconds = Mixer(*audio, config.mix, device=device), 0.1 if options.quick else 0.5
    steps = [(64, "bfloat16"), (32, "bfloat16"), (128, "bfloat16"), (64, "tf32"), (64, "float32"), (256, "bfloat16")]
    steps = [(1, "float32"), (2, "float32")] if options.quick else steps
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    jobs: list[Callable[[], list[Row]]] = [lambda: time_scan(device, options.quick, seconds)]
    jobs += [partial(lambda b, p: [time_training(config, mixer, b, p, seconds, options.out)], b, p) for b, p in steps]
    jobs += [
        partial(time_inference, config, b, p, device, seconds)
        for b in ((1, 2) if options.quick else (1, 8, 64))
        for p in PRECISIONS[:: 1 if options.quick else 2]
    ]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {config.model.name}, scan {kernels.chosen(torch.empty(1, device=device))}"
    )
    print(f"{'what':<20} {'case':<42} {'ms':>9} {'speed':>20}  of the time")
    for job in jobs:
        if time.monotonic() - begun > 60 * options.minutes:
            print("the rest is left out: no time")
            break
        try:
            rows = job()
        except RuntimeError as error:  # no memory left, most of all: the other rows are worth their time
            rows = [("failed", str(error).strip().splitlines()[0], "", "", "")]
        for what, case, took, speed, note in rows:
            print(f"{what:<20} {case:<42} {took:>9} {speed:>20}  {note}", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


# ---- train


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{LAST}.*"))


def publish(run: Path, out: Path) -> None:
    """Copy what is worth fetching: the checkpoint in parts, the logs and the best model."""
    data = (run / LAST).read_bytes()
    for number, start in enumerate(range(0, len(data), PART)):
        (out / f"{LAST}.{number:02d}").write_bytes(data[start : start + PART])
    best = (run / "best").glob("*.*") if len(data) < 3 * PART else ()  # it must all come back at once
    for path in (*run.glob("*.csv"), *best):
        shutil.copy(path, out)


def train(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    config = recipe(options)
    config = replace(config, checkpoint_minutes=2.0)
    if options.pack:
        config = replace(config, data=replace(config.data, pack=str(options.pack)))
    options.out.mkdir(parents=True, exist_ok=True)
    saved = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        if options.resume:
            data = b"".join(path.read_bytes() for path in parts_of(options.resume))
            (run / LAST).write_bytes(data)
            for path in options.resume.glob("*.csv"):
                shutil.copy(path, run)

        def report(progress: Progress) -> None:
            nonlocal saved
            scores = "".join(f"  {name} {score.si_sdr:.2f} dB" for name, score in progress.valid.items())
            print(
                f"{time.monotonic() - begun:5.0f} s  step {progress.step}  loss {progress.loss:.4f}  "
                f"{progress.speed:.0f} x real time  waiting {100 * progress.waiting:.0f} %{scores}",
                flush=True,
            )
            if (run / LAST).exists() and (run / LAST).stat().st_mtime > saved:
                saved = (run / LAST).stat().st_mtime
                publish(run, options.out)

        sources = open_sources(config.data, config.mix, torch.device(options.device))
        if options.device == "cuda" or options.fill:
            row = time_training(config, sources.train, config.batch, config.loop.precision, 2.0)
            print(*row, sep="  ", flush=True)
        minutes = options.minutes - (time.monotonic() - begun) / 60
        if options.fill:
            config = replace(config, steps=int(0.97 * 6e4 * minutes / float(row[2])))
        start, device = options.start, options.device
        run_training(config, run, bool(options.resume), minutes, 1, report, start, device, sources)
        publish(run, options.out)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in sorted(options.out.iterdir()))
    print(f"{options.out}: {sizes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "time", "train"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that the script runs")
    parser.add_argument("--recipe", type=Path, help="JSON; sbm-tiny's network without it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the recipe (in JSON)")
    parser.add_argument("--pack", type=Path, help="folder of shards")
    parser.add_argument("--minutes", type=float, default=7.0, help="to begin nothing new after, or to train for")
    parser.add_argument("--out", type=Path, help="folder for the checkpoint and the logs, or for lists of kernels")
    parser.add_argument("--resume", type=Path, help="folder that an earlier `train` left")
    parser.add_argument("--from", dest="start", type=Path, help="model file to begin with")
    parser.add_argument("--fill", action="store_true", help="let the recipe have as many steps as fit the minutes")
    options = parser.parse_args()
    if options.what == "train" and not (options.out and options.recipe):
        parser.error("train needs --recipe and --out")
    {"check": check, "time": time_all, "train": train}[options.what](options)


if __name__ == "__main__":
    main()
