"""Peak resident memory by length: python benchmarks/memory.py [--model PATH] [--folder DIR] [--hours 10] > table.md

The model (1 minute and 1 hour of 16 kHz mono), and a network of a few thousand parameters (1 minute and --hours of
48 kHz stereo, from a sparse file of silence), each file in a process of its own. The status is 1 if a long file needs
over 10 % more than the short one. The long silence takes about 10 GB less disc than it looks: source and output (FLAC)
are nearly empty; its time is nearly all resampling.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from sbm_cli import Enhancer
from sbm_cli.checkpoint import ModelConfig
from sbm_cli.evaluation.clips import speech_like
from sbm_cli.evaluation.machine import machine, peak_memory, software
from sbm_cli.nn.network import Network, NetworkConfig

MOST_GROWTH = 1.10
FIXTURE = NetworkConfig(channels=8, blocks=1, state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)


def speech(path: Path, seconds: float) -> None:
    """Write noise like speech at 16 kHz, the same minute again and again."""
    minute = speech_like(60, 16_000)
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(round(seconds / 60)):
            file.write(minute)


def silence(path: Path, seconds: float) -> None:
    """Write 48 kHz stereo as RF64 with a hole of zeros in place of its samples."""
    frames = round(seconds * 48_000)
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16", format="RF64") as file:
        file.write(np.zeros((1, 2), np.int16))
    header = bytearray(path.read_bytes()[:-4])
    data = 4 * frames
    # RF64: 'RF64' -1 'WAVE' 'ds64' size, then 64-bit sizes of file and data, and the number of frames.
    assert header[12:16] == b"ds64" and header[-8:-4] == b"data", "libsndfile lays RF64 out otherwise"
    header[20:44] = np.array([len(header) - 8 + data, data, frames], "<u8").tobytes()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data)


def work(model: str, source: str) -> None:
    """Enhance a file in this process; say the peak in MiB, the duration and the time."""
    enhancer = (
        Enhancer(Network(FIXTURE), ModelConfig("fixture", network=FIXTURE))
        if model == "fixture"
        else Enhancer.load(model or None, "cpu")
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path(source).parent) as folder:
        report = enhancer.enhance_file(source, Path(folder) / "out.flac")
    print((peak_memory() or 0) / 2**20, report.seconds, time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="name, file or folder; the default model without it")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one without it")
    parser.add_argument("--hours", type=float, default=10, help="of the silence")
    parser.add_argument("--work", nargs=2, metavar=("MODEL", "SOURCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return 0
    print(f"- machine: {machine()}\n- software: {software()}\n- command: `python {shlex.join(sys.argv)}`\n")
    print("| network | file | minutes | peak MiB | of the short one | time, s |\n|---|---|---|---|---|---|", flush=True)
    most = 0.0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / "in.wav"
        for model, make, seconds in (
            (arguments.model, speech, (60, 3600)),
            ("fixture", silence, (60, 3600 * arguments.hours)),
        ):
            short = 0.0
            for length in seconds:
                make(source, length)
                command = [sys.executable, __file__, "--work", model, str(source)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                peak, duration, took = map(float, done.stdout.split())
                assert duration == length, f"the file has {duration} s, {length} s were meant"
                short = short or peak
                most = max(most, peak / short)
                form = "16 kHz mono" if make is speech else "48 kHz stereo"
                row = f"| {model or 'default'} | {form} | {length / 60:g} | {peak:.0f} | {peak / short:.3f} |"
                print(f"{row} {took:.0f} |", flush=True)
    return int(most > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
