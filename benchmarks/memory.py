"""Peak resident memory by length: python benchmarks/memory.py [--model PATH] [--hours 10] [--only m4a] > table.md

The model (1 minute and 1 hour of 16 kHz mono), and a network of a few thousand parameters (1 minute and --hours of
48 kHz stereo, from a sparse file of silence), each file in a process of its own. The status is 1 if a long file needs
over 10 % more than the short one. The long silence takes about 10 GB less disc than it looks: source and output (FLAC)
are nearly empty; its time is nearly all resampling. Last, an m4a of as long is only read, and its time is the
processor's.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from sbm_cli import Enhancer
from sbm_cli.audio.io import SoundReader
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.timing.clips import speech_like
from sbm_cli.timing.machine import machine, peak_memory, software

MOST_GROWTH = 1.10
FIXTURE = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)


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


def m4a(path: Path, seconds: float) -> None:
    """Write 48 kHz stereo as AAC, the same second of noise again and again."""
    with av.open(path, "w", format="mp4") as file:
        stream: Any = file.add_stream("aac", rate=48_000, layout="stereo")
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 47 * 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, 0
        packets = [bytes(packet) for packet in stream.encode(frame)]
        for number in range(round(seconds * 48_000 / 1024)):
            packet = av.Packet(packets[number % len(packets)])
            packet.pts = packet.dts = 1024 * number
            packet.duration, packet.time_base, packet.stream = 1024, Fraction(1, 48_000), stream
            file.mux(packet)


def read(source: str) -> None:
    """Read a file in this process; say the peak in MiB, the duration and the processor's time."""
    start = time.process_time()
    with SoundReader(source) as reader:
        samples = sum(block.shape[1] for block in reader.blocks(2 * reader.format.rate))
        seconds = samples / reader.format.rate
    print((peak_memory() or 0) / 2**20, seconds, time.process_time() - start)


def work(model: str, source: str) -> None:
    """Enhance a file in this process; say the peak in MiB, the duration and the time."""
    if model == "none":
        read(source)
        return
    enhancer = (
        Enhancer(Model(OSpatialNet(FIXTURE), ModelConfig("fixture", network=FIXTURE)))
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
    parser.add_argument("--only", default="", help="one of speech, silence, m4a")
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
            ("none", m4a, (60, 3600 * arguments.hours)),
        ):
            if arguments.only not in ("", make.__name__):
                continue
            short = 0.0
            for length in seconds:
                make(source, length)
                command = [sys.executable, __file__, "--work", model, str(source)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                peak, duration, took = map(float, done.stdout.split())
                assert abs(duration - length) < 0.03, f"the file has {duration} s, {length} s were meant"
                short = short or peak
                most = max(most, peak / short)
                form = {speech: "16 kHz mono", silence: "48 kHz stereo", m4a: "48 kHz stereo m4a, read"}[make]
                row = f"| {model or 'default'} | {form} | {length / 60:g} | {peak:.0f} | {peak / short:.3f} |"
                print(f"{row} {took:.0f} |", flush=True)
    return int(most > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
