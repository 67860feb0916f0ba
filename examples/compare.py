"""Say what changed between two recordings: python examples/compare.py noisy.wav clean.wav"""

from __future__ import annotations

import sys

import numpy as np
import soundfile
from numpy.typing import NDArray

FRAME = 0.02  # s


def frame_levels(path: str) -> NDArray[np.float64]:
    """Return the level of every frame in dBFS, quiet to loud."""
    samples, rate = soundfile.read(path, always_2d=True)
    size = int(FRAME * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size * samples.shape[1])
    return np.sort(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12))


def main() -> None:
    noisy, clean = sys.argv[1:]
    before, after = soundfile.info(noisy), soundfile.info(clean)
    print(f"{'':<24}{'before':>12}{'after':>12}")
    for label, name in (("sample rate, Hz", "samplerate"), ("channels", "channels"), ("samples", "frames")):
        print(f"{label:<24}{getattr(before, name):>12}{getattr(after, name):>12}")
    levels = frame_levels(noisy), frame_levels(clean)
    for label, percent in (("speech level, dBFS", 90), ("level in pauses, dBFS", 10)):
        print(f"{label:<24}" + "".join(f"{np.percentile(level, percent):>12.1f}" for level in levels))
    print(f"\nThe result is {clean}: listen to it beside {noisy}.")


if __name__ == "__main__":
    main()
