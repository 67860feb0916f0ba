"""What the band above the model's does to recordings that have one: kept and attenuated, or left empty.

    python benchmarks/high_band.py SPEECH NOISE [--model NAME] [--snr 0 5 15] [--lines 48]

Folders of clean speech and of noise at 44.1 kHz or more, as files that libsndfile reads. The speech is joined to lines
of about seven seconds, from one folder each, at 48 kHz, with noise at each SNR. Printed: the log-spectral distance to
the clean line from 8 to 20 kHz, in frames of speech and of pauses (40 dB below the loudest), and the level there beside
that of the clean speech. What is 60 dB softer than the speech counts as that.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sbm_cli.audio.samples import Samples
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import Options

RATE, WINDOW = 48_000, 2048
BAND = slice(8000 * WINDOW // RATE, 20_000 * WINDOW // RATE)  # bins
SECONDS, FLOOR_DB, PAUSE_DB = 7, -60, -40
CASES = {"kept": Options(), "empty": Options(keep_high_band=False)}


def recordings(folder: Path) -> list[Path]:
    """Return the sound files of a folder that have a high band."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus"))
    return [path for path in paths if soundfile.info(path).samplerate >= 44_100]


def load(path: Path) -> Samples:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(1), rate, RATE), np.float32)


def lines(paths: list[Path], draw: random.Random) -> Iterator[Samples]:
    """Yield lines of one folder each, of recordings at one level with a pause between them."""
    by_folder: dict[Path, list[Path]] = {}
    for path in draw.sample(paths, len(paths)):
        by_folder.setdefault(path.parent, []).append(path)
    for found in by_folder.values():
        line = np.zeros(RATE // 4, np.float32)
        for path in found:
            speech = load(path)
            fade = np.minimum(1, np.minimum(np.arange(speech.size), np.arange(speech.size)[::-1]) / (RATE // 100))
            scaled = 0.05 * fade * speech / max(1e-4, float(np.sqrt(np.square(speech).mean())))
            line = np.concatenate([line, scaled, np.zeros(round(RATE * draw.uniform(0.15, 0.5)))]).astype(np.float32)
            if line.size > SECONDS * RATE:
                yield line
                break


def power(samples: Samples) -> NDArray[np.float64]:
    """Return the power of Hann windows [frames, bins]."""
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW)[:: WINDOW // 2]
    return np.asarray(np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2)


def compare(estimate: Samples, clean: Samples) -> list[float]:
    """Return distance and level, in speech and in pauses."""
    found, wanted = power(estimate), power(clean)
    frames = wanted.sum(1)
    speech = frames > frames.max() * 10 ** (PAUSE_DB / 10)
    floor, loud = wanted[speech].mean() * 10 ** (FLOOR_DB / 10), wanted[speech, BAND].sum(1).mean()
    apart = 10 * np.log10(np.maximum(found, floor) / np.maximum(wanted, floor))[:, BAND]
    scores = []
    for chosen in (speech, ~speech):
        scores.append(float(np.sqrt(np.square(apart[chosen]).mean(1)).mean()))
        scores.append(float(10 * np.log10(found[chosen, BAND].sum(1).mean() / loud + 1e-12)))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--snr", type=float, nargs="+", default=[0, 5, 15])
    parser.add_argument("--lines", type=int, default=48)
    given = parser.parse_args()
    enhancer, draw = Enhancer.load(given.model, "cpu"), random.Random(1)
    noises, scores = [load(path) for path in recordings(given.noise)], dict[tuple[float, str], list[list[float]]]()
    for number, clean in enumerate(lines(recordings(given.speech), draw)):
        for snr in given.snr if number < given.lines else ():
            noise = np.resize(draw.choice(noises), clean.size)
            gain = np.sqrt(np.square(clean[clean != 0]).mean() / np.square(noise).mean()) * 10 ** (-snr / 20)
            noisy = (clean + gain * noise).astype(np.float32)
            scores.setdefault((snr, "noisy"), []).append(compare(noisy, clean))
            for name, options in CASES.items():
                scores.setdefault((snr, name), []).append(compare(enhancer.enhance(noisy, RATE, options), clean))
    print("| SNR | 8 to 20 kHz | speech: distance, dB | level, dB | pauses: distance, dB | level, dB |")
    print("|---|---|---|---|---|---|")
    for (snr, name), rows in scores.items():
        print(f"| {snr:g} dB | {name} | " + " | ".join(f"{value:.1f}" for value in np.mean(rows, 0)) + " |")


if __name__ == "__main__":
    main()
