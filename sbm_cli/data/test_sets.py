"""Seeded test sets: mixtures of a split that training never sees, half with noise alone, half also in rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import Corpus, none_error
from sbm_cli.data.filters import active_power, reverberate
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import noise_gain
from sbm_cli.data.room_responses import scaled, simulate_room
from sbm_cli.data.segments import FADE, LEAST, OVERLAP, Placements, assemble

Rng = np.random.Generator

SUBSETS = ("noise", "reverb")
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
    subset: str  # "noise" or "reverb"
    noisy: Samples
    clean: Samples
    snr_db: float
    rt60_s: float  # 0 without a room
    speaker: str


def evaluation_set(corpus: Corpus, split: str, count: int = 160, seed: int = 0) -> Iterator[Mixture]:
    """Make the mixtures of a split ("valid" or "report"): the first half with noise alone, the second also in rooms.

    Every item is 4 to 6 s of one speaker, the speakers taking turns, with recorded noise at 0 to 15 dB SNR; no
    clipping, no band limit, no added floor. Item i is a function of (split, seed, i) and the corpus alone.

    Raises ConfigError if the split has no speech or no noise.
    """
    segments = _Segments(corpus, split)
    return (_mixture(segments, split, seed, i, SUBSETS[i >= (count + 1) // 2]) for i in range(count))


def _mixture(segments: _Segments, split: str, seed: int, index: int, subset: str) -> Mixture:
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, ROOM_SEEDS[split]]))
    samples = round(rng.uniform(*SECONDS) * RATE)
    speaker = segments.speakers[index % len(segments.speakers)]
    speech = clean = segments.speech(rng, samples, speaker)
    rt60_s = 0.0
    if subset == "reverb":
        response, rt60_s = simulate_room(ROOM_SEEDS[split], index)
        speech, clean = reverberate(clean, scaled(torch.from_numpy(response))[None])
    for _ in range(20):
        noise = segments.noise(rng, samples)
        rng.random(3)  # unused: the published sets were made when a second noise and shelves were drawn here
        if active_power(noise) > 10 ** (NOISE_FLOOR_DBFS / 10):
            break
    snr_db = float(rng.uniform(*SNR_DB))
    noisy = speech + noise_gain(speech, noise, torch.tensor([snr_db])) * noise
    rms, peak = float(noisy.square().mean().sqrt()), float(noisy.abs().max())
    gain = min(10 ** (INPUT_DBFS / 20) / max(rms, 1e-6), 0.99 / max(peak, 1e-6))  # lower where a peak would clip
    noisy_samples, clean_samples = ((gain * x[0]).numpy() for x in (noisy, clean))
    return Mixture(f"{split}-{index:03d}", subset, noisy_samples, clean_samples, snr_db, rt60_s, speaker)


class _Segments:
    """Speech and noise of a split, drawn as `segments.Segments` does, but by numbers that never change."""

    def __init__(self, corpus: Corpus, split: str) -> None:
        kinds = {kind: [corpus.clips[i] for i in corpus.where(kind, split)] for kind in ("speech", "noise")}
        kinds["speech"] = [clip for clip in kinds["speech"] if clip.snr_db is None or clip.snr_db >= SPEECH_SNR_DB]
        for kind, clips in kinds.items():
            if not clips:
                raise none_error(kind, split, SPEECH_SNR_DB)
        self._store = corpus.store
        self._speakers = _by(kinds["speech"], lambda clip: clip.speaker or clip.source)
        self._groups = _by(kinds["noise"], lambda clip: clip.group)
        sources = _by(kinds["noise"], lambda clip: clip.source)
        self._sources = [list(_by(sources[name], lambda clip: clip.group).values()) for name in sorted(sources)]
        weights = np.sqrt([sum(clip.minutes for group in groups for clip in group) for groups in self._sources])
        self._edges = np.cumsum(weights) / np.sum(weights)

    @property
    def speakers(self) -> list[str]:
        return sorted(self._speakers)

    def speech(self, rng: Rng, samples: int, speaker: str) -> Tensor:
        """Draw dry speech of a speaker, [1, samples]."""
        own = self._speakers[speaker]
        first = _pick(rng, own)
        if first.samples >= samples:
            return self._assemble([(first, -int(rng.integers(first.samples - samples + 1)), first.samples, 0)], samples)
        place = int(rng.integers(min(samples - first.samples, RATE // 3) + 1))
        others = rng.permutation([i for i, clip in enumerate(own) if clip is not first])
        rows = []
        for clip in (first, *(own[i] for i in others)):
            used = min(clip.samples, samples - place)
            rows.append((clip, place, used, min(FADE, used // 2)))
            place += used + int(rng.uniform(0.05, 0.5) * RATE)
            if place >= samples - LEAST:
                break
        return self._assemble(rows, samples)

    def noise(self, rng: Rng, samples: int) -> Tensor:
        """Draw noise at about -26 dBFS, [1, samples]."""
        source = self._sources[min(int(np.searchsorted(self._edges, rng.random())), len(self._sources) - 1)]
        clip = _pick(rng, source[int(rng.integers(len(source)))])
        group, length = self._groups[clip.group], clip.samples
        if length >= samples:
            return self._assemble([(clip, -int(rng.integers(length - samples + 1)), length, 0)], samples)
        dense = rng.random() < 0.5 and length > RATE // 2
        place = -int(rng.integers(length // 2 + 1)) if dense else int(rng.uniform(0, 0.5) * RATE)
        rows = []
        while place < samples:
            rows.append((clip, place, clip.samples, min(OVERLAP if dense else FADE, clip.samples // 2)))
            place += max(clip.samples - OVERLAP, OVERLAP) if dense else clip.samples + int(rng.uniform(0, 1) * RATE)
            clip = _pick(rng, group)
        return self._assemble(rows, samples)

    def _assemble(self, rows: Sequence[tuple[Clip, int, int, int]], samples: int) -> Tensor:
        """Set (recording, place, samples, fade) beside each other."""
        values = [(clip.start, clip.gain, place, used, fade) for clip, place, used, fade in rows]
        placements = Placements(*(torch.tensor([column]) for column in zip(*values, strict=True)))
        return assemble(torch.from_numpy(self._store), placements, samples)


def _by(clips: Sequence[Clip], key: Callable[[Clip], str]) -> dict[str, list[Clip]]:
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        found.setdefault(key(clip), []).append(clip)
    return found


def _pick(rng: Rng, clips: Sequence[Clip]) -> Clip:
    return clips[int(rng.integers(len(clips)))]
