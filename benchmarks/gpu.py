"""Check, time and train on a GPU that has nothing but PyTorch (with Triton) and NumPy. docs/gpu.md says how to.

    export PYTHONPATH=.
    python benchmarks/gpu.py check
    python benchmarks/gpu.py time [--recipe FILE.json] [--pack DIR] [--minutes 7] [--out DIR]
    python benchmarks/gpu.py train --recipe FILE.json [--pack DIR] --minutes 9 --out DIR [--resume DIR | --from MODEL]
        [--fill] [--set key=value]

`--device cpu --quick` runs the same on any machine, on small sizes. check and time make audio of their own without
--pack, train takes what the recipe names. A checkpoint leaves `train` in parts of at most 16 MB, with the logs:
`--resume` takes a folder of them. `--fill` makes the schedule of a training that ends in one call. `time --out` writes
the kernels of a training step there. Scans alone are timed by scan.py.
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

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import Mixer
from sbm_cli.data.pack import open_pack
from sbm_cli.data.room_responses import ResponseBank, RoomResponse, simulate_room
from sbm_cli.data.sources import Source, open_sources
from sbm_cli.model import ModelConfig
from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.training.config import TrainConfig, load_recipe
from sbm_cli.training.loop import Progress
from sbm_cli.training.loop import train as run_training
from sbm_cli.training.objectives.examples import autocast
from sbm_cli.training.objectives.objective import STUDENT, Batch
from sbm_cli.training.optimizer import Optimizer
from sbm_cli.training.state import LAST

FILE_SECONDS = 10
PART = 16_000_000  # bytes; 16 MiB come back in one file, 64 MiB in all
SMALL = OSpatialNetConfig(channels=16, blocks=1, d_state=8, cross_groups=2, squeeze=2, head=4, embedding=4)

Row = tuple[str, str, str, str, str]


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


def with_precision(config: TrainConfig, name: str) -> TrainConfig:
    """Let PyTorch's products have this precision, and return the recipe with it."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    return replace(config, loop=replace(config.loop, precision="float32" if name == "tf32" else name))


def moved_network(config: TrainConfig) -> OSpatialNet:
    """Return a network away from its start, where branches are zero and errors would not show."""
    torch.manual_seed(0)
    network = OSpatialNet(config.model.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return network


class Step:
    """A training step in parts."""

    def __init__(self, config: TrainConfig, device: torch.device, noisy: Tensor, clean: Tensor) -> None:
        self.config, self.noisy, self.clean = replace(config, batch=len(noisy)), noisy, clean
        network = moved_network(config)
        learners = config.objective.learners(config, network)
        self.networks = {STUDENT: network.to(device)} | {name: x.network.to(device) for name, x in learners.items()}
        self.optimizer = Optimizer(network, config.optimizer)
        self.others = {
            name: (Optimizer(self.networks[name], x.optimizer), x.every) for name, x in learners.items() if x.optimizer
        }
        self.items = torch.arange(len(noisy), device=device)

    @torch.no_grad()
    def spectra(self) -> None:
        self.config.model.to_network(self.noisy)

    def forward(self, learner: str = STUDENT) -> None:
        batch = Batch(self.noisy, self.clean, self.config.steps - 1, self.items)
        self.loss = self.config.objective.loss(self.config, batch, learner, self.networks)

    def backward(self, learner: str = STUDENT) -> None:
        self.loss.backward(inputs=list(self.networks[learner].parameters()))

    def update(self) -> None:
        self.optimizer.step(1, 100)

    def move_others(self) -> None:
        for name, (optimizer, _) in self.others.items():
            self.forward(name)
            self.backward(name)
            optimizer.step(1, 100)


# ---- check


def check(options: argparse.Namespace) -> None:
    """Compare loss and gradient with those of the CPU in float32, for every scan and precision that there is."""
    config, device = recipe(options), torch.device(options.device)
    audio = open_pack(options.pack) if options.pack else toy_audio()
    noisy, clean = Mixer(*audio, config.mix).batch(1, 2, range(4))

    def found(where: torch.device, precision: str) -> list[Tensor]:
        step = Step(with_precision(config, precision), where, noisy.to(where), clean.to(where))
        step.forward()
        step.backward()
        return [x.detach().cpu().double() for x in (step.loss, step.optimizer.gradient)]

    expected, wrong = found(torch.device("cpu"), "float32"), False
    names = ("triton", "mamba_ssm") if device.type == "cuda" else ("cpu", "reference")
    for name in (name for name in names if not kernels.available()[name]):
        for precision, bound in (("float32", 5e-3), ("tf32", 5e-2), ("bfloat16", 0.2)):
            with kernels.use(name):
                pairs = zip(("loss", "gradient"), found(device, precision), expected, strict=True)
                errors = {part: float((a - b).norm() / b.norm()) for part, a, b in pairs}
            for part, error in errors.items():
                verdict = "ok" if error < bound else "WRONG"  # so it is, too, if it is no number
                wrong |= verdict != "ok"
                print(f"{part:<10}{name:<10}{precision:<10}{error:>10.1e}  < {bound:.0e}  {verdict}", flush=True)
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


def time_training(
    config: TrainConfig, mixer: Source, batch: int, precision: str, seconds: float, out: Path | None = None
) -> Row:
    mix = partial(mixer.batch, 0, 1, range(batch))
    step = Step(with_precision(config, precision), mixer.device, *mix())
    parts: list[Callable[[], object]] = [mix, step.forward, step.backward, step.update, step.move_others]
    times = timed(parts, mixer.device, seconds)
    times[-1] /= max((every for _, every in step.others.values()), default=1)
    (spectra,) = timed([step.spectra], mixer.device, 0.0)
    whole = sum(times)
    table = None if out is None else out / f"kernels-{precision}-{batch}.txt"
    idle = 1 - busy_milliseconds(lambda: [part() for part in parts], mixer.device, table) / whole
    stages = zip(
        ("mix", "spectra", "forward", "backward", "update", "other learners"),
        (times[0], spectra, times[1] - spectra, *times[2:]),
        strict=True,
    )
    text = " ".join(f"{name} {100 * part / whole:.0f}" for name, part in stages) + f" %, idle {100 * idle:.0f} %"
    speed = f"{batch * config.mix.segment_seconds / whole * 1e3:.0f} x real time"
    return ("training step", f"{precision}, batch {batch}", f"{whole:.1f}", speed, text)


@torch.no_grad()
def time_inference(config: TrainConfig, batch: int, precision: str, device: torch.device, seconds: float) -> list[Row]:
    """Time one-step enhancement of whole files side by side, as launched and as a replayed graph."""
    config = with_precision(config, precision)
    model, network = config.model, moved_network(config).to(device).eval().fold()
    noisy, one = 0.1 * torch.randn(batch, FILE_SECONDS * model.rate, device=device), torch.ones(1, device=device)

    def enhance() -> None:
        y, level = model.to_network(noisy)
        with autocast(config.loop.precision, device):
            estimate = network(y, y, one)[0]
        model.to_waveform(estimate, level, noisy.shape[-1])

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
    jobs: list[Callable[[], list[Row]]] = [
        partial(lambda b, p: [time_training(config, mixer, b, p, seconds, options.out)], b, p) for b, p in steps
    ]
    jobs += [
        partial(time_inference, config, b, p, device, seconds)
        for b in ((1, 2) if options.quick else (1, 8, 64))
        for p in (("float32",) if options.quick else ("float32", "bfloat16"))
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
            config = replace(config, steps=int(0.87 * 6e4 * minutes / float(row[2])))
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
