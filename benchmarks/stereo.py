"""What linked channels do to the image of a talker, and what they cost.

    python benchmarks/stereo.py corpus.csv [--model NAME] [--count 24]

Speech and noise of the split `valid`, at 0, 5 and 10 dB on the left, in two scenes:

    panned           the talker is softer on the right by 3, 6 or 12 dB and later by 0 or 0.3 ms
    two microphones  a second talker begins after two seconds; each is 20 dB softer in the other's microphone

The noise of the two sides is different. Printed, with one gain for each channel and with one for both: by how much the
speech in the channels was moved apart (least squares in bands of 500 Hz, mean over bands and scenes, and the worst
scene), SI-SDR and PESQ of each side, and the processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.audio.sdr import si_sdr
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.manifest import RATE
from sbm_cli.enhancer import Enhancer
from sbm_cli.evaluation.metrics import score
from sbm_cli.options import Options

SECONDS, WINDOW, BINS = 6, 512, 16  # of a scene; of a transform; of a band
CASES = {"each": Options(link_channels=False), "both": Options(link_channels=True)}


def later(samples: Samples, count: int) -> Samples:
    return np.concatenate([np.zeros(count, np.float32), samples[: samples.size - count]])


def scenes(cache: Path, manifest: Path, count: int) -> Iterator[tuple[str, Samples, Samples]]:
    """Yield name, speech and noisy of scenes, [2, samples]."""
    corpus = open_corpus(cache, [manifest])
    speech, noises = (
        [each for index in corpus.where(kind, "valid") if (each := corpus.clip(index)).size >= 2 * RATE]
        for kind in ("speech", "noise")
    )
    for number in range(count):
        talker, second = (speech[(step * number) % len(speech)][: SECONDS * RATE] for step in (7, 11))
        noise = np.resize(noises[number % len(noises)], (2, talker.size))
        noise *= np.sqrt(np.square(talker).mean() / np.square(noise).mean()) * 10 ** (-(0, 5, 10)[number // 3 % 3] / 20)
        softer = 10 ** (-(3, 6, 12)[number % 3] / 20)
        panned = np.stack([talker, softer * later(talker, (0, 5)[number % 2])])
        yield "panned", panned, panned + noise
        second = later(np.resize(second, talker.size), min(2 * RATE, talker.size // 2))
        both = np.stack([talker + 0.1 * second, second + 0.1 * talker])
        yield "two microphones", both, both + noise


def moved(samples: Samples, speech: Samples) -> tuple[float, float]:
    """Return by how many dB and degrees the speech in the channels was moved apart."""
    found, given = (
        np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, WINDOW, 1)[:, :: WINDOW // 4] * np.hanning(WINDOW))
        for x in (samples, speech)
    )
    bands = []
    for first in range(2, WINDOW // 2 - BINS, BINS):
        s, x = given[:, :, first : first + BINS], found[:, :, first : first + BINS]
        power = np.square(np.abs(s)).sum(0)
        loud = power > 0.01 * power.max()
        left, right = ((x[c][loud] * s[c][loud].conj()).sum() / np.square(np.abs(s[c][loud])).sum() for c in (0, 1))
        bands.append((power.sum(), abs(20 * np.log10(abs(left / right))), abs(np.degrees(np.angle(left / right)))))
    powers, levels, phases = np.array(bands).T
    heard = powers > 1e-3 * powers.max()
    return float(levels[heard].mean()), float(phases[heard].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--count", type=int, default=24)
    given = parser.parse_args()
    enhancer = Enhancer.load(given.model, "cpu")
    rows = dict[tuple[str, str], list[list[float]]]()
    for scene, speech, noisy in scenes(given.cache, given.manifest, given.count):
        for name, options in CASES.items():
            start = time.process_time()
            clean = enhancer.enhance(noisy, RATE, options)
            spent = time.process_time() - start
            sides = [
                value
                for side in (0, 1)
                for value in (
                    si_sdr(clean[side], speech[side]),
                    score(["pesq"], clean[side], speech[side])["pesq"] or 0.0,
                )
            ]
            rows.setdefault((scene, name), []).append([*moved(clean, speech), *sides, spent])
    print("| scene | a gain for | level, dB (worst) | phase, degrees (worst) | SI-SDR, dB | PESQ | processor time, s |")
    print("|---|---|---|---|---|---|---|")
    for (scene, name), found in rows.items():
        level, phase, *sides, spent = np.mean(found, 0)
        worst = np.max(found, 0)
        print(
            f"| {scene} | {name} | {level:.2f} ({worst[0]:.2f}) | {phase:.1f} ({worst[1]:.1f}) "
            f"| {sides[0]:.1f}, {sides[2]:.1f} | {sides[1]:.2f}, {sides[3]:.2f} | {np.median(found, 0)[-1]:.3f} |"
        )


if __name__ == "__main__":
    main()
