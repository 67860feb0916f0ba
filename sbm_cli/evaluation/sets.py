"""Seeded test sets: mixtures of a split that training never sees, half with noise alone, half also in rooms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sbm_cli.training.data import RATE, Corpus, Samples, active_power, db_ratio
from sbm_cli.training.filters import reverberate
from sbm_cli.training.material import Material
from sbm_cli.training.mixing import noise_gain
from sbm_cli.training.rooms import make_room, simulate_room

HALVES = ("noise", "reverb")
ROOM_SEEDS = {"valid": 2, "report": 3}  # training simulates its rooms from another one
SECONDS = (4.0, 6.0)
SNR_DB = (0.0, 15.0)  # active (reverberant) speech against all the noise
INPUT_DBFS = -26.0  # RMS of the whole noisy file
SPEECH_SNR_DB = 38.0  # only utterances this clean (where it is stated) become references
NOISE_FLOOR_DBFS = -40.0  # a crop of noise quieter than this (14 dB below the usual) is a pause, and drawn anew


@dataclass(frozen=True)
class Mixture:
    """One item of a test set; `clean` is the target as loud as it is in `noisy`, both float32 [samples] at 16 kHz."""

    id: str
    half: str  # "noise" or "reverb"
    noisy: Samples
    clean: Samples
    snr_db: float
    t60_s: float  # 0 without a room
    speaker: str
    noise_group: str


def evaluation_set(corpus: Corpus, split: str, count: int = 160, seed: int = 0) -> Iterator[Mixture]:
    """Make the mixtures of a split ("valid" or "report"): the first half with noise alone, the second also in rooms.

    Every item is 4 to 6 s of one speaker, the speakers taking turns, with recorded noise at 0 to 15 dB SNR; no
    clipping, no band limit, no added floor. Item i is a function of (split, seed, i) and the corpus alone.

    Raises ValueError for another split, ConfigError if the split has no speech or no noise.
    """
    if split not in ROOM_SEEDS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(ROOM_SEEDS)}")
    material = Material(corpus, split, SPEECH_SNR_DB)
    return (_mixture(material, split, seed, i, HALVES[i >= (count + 1) // 2]) for i in range(count))


def _mixture(material: Material, split: str, seed: int, index: int, half: str) -> Mixture:
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, ROOM_SEEDS[split]]))
    samples = round(rng.uniform(*SECONDS) * RATE)
    speaker = material.speakers[index % len(material.speakers)]
    clean, _ = material.speech(rng, samples, speaker)
    speech, t60_s = clean, 0.0
    if half == "reverb":
        response, t60_s = simulate_room(ROOM_SEEDS[split], index)
        speech, clean = reverberate(clean, make_room(f"{split}-{index}", t60_s, response))
    for _ in range(20):
        noise, group = material.noise(rng, samples, p_two=0.0, shelf_db=0.0)
        if active_power(noise) > float(db_ratio(NOISE_FLOOR_DBFS)) ** 2:
            break
    snr_db = float(rng.uniform(*SNR_DB))
    noisy = speech + noise * noise_gain(speech, noise, snr_db)
    rms, peak = float(np.sqrt(np.mean(noisy**2))), float(np.abs(noisy).max())
    # -26 dBFS, lower where a peak would clip
    gain = np.float32(min(float(db_ratio(INPUT_DBFS)) / max(rms, 1e-6), 0.99 / max(peak, 1e-6)))
    return Mixture(f"{split}-{index:03d}", half, noisy * gain, clean * gain, snr_db, t60_s, speaker, group)
