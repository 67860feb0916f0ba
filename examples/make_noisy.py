"""Make examples/noisy.wav: a synthesised voice in a simulated room beside a simulated fan. Nothing in it was recorded.

Needs numpy, soundfile and the synthesiser flite (Debian, Ubuntu: apt-get install flite; macOS: brew install flite).
The random numbers are seeded; examples/noisy.wav came from flite 2.2.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float64]

RATE = 16_000  # Hz; the voice's own rate
TEXT = "The old lighthouse keeper wrote down the weather every evening, and he never missed a single day."
VOICE = "awb"  # a Scottish speaker of CMU ARCTIC, statistical synthesis; see README.md for its licence
MARGIN = 0.35  # s of room and fan before and after the speech
T60 = 0.35  # s
DIRECT_TO_REVERBERANT = 3.0  # dB
SNR = 5.0  # dB, over the speech
PEAK = 0.7  # of full scale


def speech() -> Samples:
    """Return TEXT spoken by flite, with MARGIN seconds of silence on both sides."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", VOICE, "-t", TEXT, "-o", str(path)], check=True)
        samples, rate = soundfile.read(path)
    if rate != RATE:
        raise SystemExit(f"flite wrote {rate} Hz, expected {RATE} Hz")
    return np.pad(samples, round(MARGIN * RATE))


def room(rng: np.random.Generator) -> Samples:
    """Return an impulse response: the direct sound, and 3 ms later noise that falls by 60 dB within T60."""
    time = np.arange(round(1.2 * T60 * RATE)) / RATE
    response = rng.standard_normal(time.size) * 10 ** (-3 * time / T60) * (time >= 0.003)
    response *= 10 ** (-DIRECT_TO_REVERBERANT / 20) / np.linalg.norm(response)
    response[0] = 1.0
    return response


def fan(rng: np.random.Generator, samples: int) -> Samples:
    """Return the sound of a fan: pink rushing that comes and goes slowly, and the hum of its motor."""
    time = np.arange(samples) / RATE
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) / np.sqrt(np.maximum(frequency, 60.0))
    rushing = np.fft.irfft(spectrum, samples)
    rushing /= rushing.std()
    swell = 10 ** (3 * np.sin(2 * np.pi * 0.4 * time) / 20)  # ± 3 dB
    hum = sum(np.sin(2 * np.pi * 100 * k * time + k) / k**1.5 for k in range(1, 8))
    return np.asarray(rushing * swell + 0.3 * hum)


def mix(speech: Samples, noise: Samples) -> Samples:
    """Return the sum at SNR, scaled to PEAK; both powers are those between the margins."""
    spoken = slice(round(MARGIN * RATE), -round(MARGIN * RATE))
    noise = noise * np.sqrt(np.mean(speech[spoken] ** 2) / np.mean(noise[spoken] ** 2)) * 10 ** (-SNR / 20)
    mixture = speech + noise
    return np.asarray(mixture * PEAK / np.abs(mixture).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("noisy.wav"))
    output: Path = parser.parse_args().output
    rng = np.random.default_rng(20251016)
    dry = speech()
    reverberant = np.convolve(dry, room(rng))[: dry.size]
    soundfile.write(output, mix(reverberant, fan(rng, dry.size)), RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
