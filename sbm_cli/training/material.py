"""Speech and noise of a split, drawn at random and set together into segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbm_cli.errors import ConfigError
from sbm_cli.training.data import LEVEL_DBFS, RATE, Corpus, Samples, db_ratio
from sbm_cli.training.filters import back, fast_length, forward, shelved

Rng = np.random.Generator


class Material:
    """The speech and the noise of a split.

    min_speech_snr_db: utterances whose stated snr_db is lower are left out.

    Raises ConfigError if the split has no speech or no noise.
    """

    def __init__(self, corpus: Corpus, split: str, min_speech_snr_db: float = 0.0) -> None:
        self._corpus = corpus
        clips = corpus.clips
        speech = corpus.where("speech", split)
        if min_speech_snr_db:
            speech = [i for i in speech if (snr_db := clips[i].snr_db) is None or snr_db >= min_speech_snr_db]
        self._speech = _Draw(corpus, speech, "speech", split)
        self._noise = _Draw(corpus, corpus.where("noise", split), "noise", split)
        self._speakers: dict[str, list[int]] = {}
        for i in speech:
            self._speakers.setdefault(clips[i].speaker or clips[i].source, []).append(i)

    @property
    def speakers(self) -> list[str]:
        return sorted(self._speakers)

    def speech(self, rng: Rng, samples: int, speaker: str | None = None) -> tuple[Samples, str]:
        """Draw dry speech of one speaker (of one source, where speakers are not known) and return it with that name.

        A long utterance is cropped at random; short ones follow each other after pauses. Each is used at most
        once: nothing is wrapped, tiled or repeated, so a speaker with too little ends in silence.
        """
        first = self._speech.draw(rng) if speaker is None else _pick(rng, self._speakers[speaker])
        name = self._corpus.clips[first].speaker or self._corpus.clips[first].source
        length = self._corpus.clips[first].samples
        if length >= samples:
            return self._corpus.clip(first, int(rng.integers(length - samples + 1)), samples), name
        waveform = np.zeros(samples, np.float32)
        place = int(rng.integers(min(samples - length, RATE // 3) + 1))
        others = rng.permutation([i for i in self._speakers[name] if i != first])
        for clip in (first, *others.tolist()):
            piece = faded(self._corpus.clip(clip, 0, samples - place))
            waveform[place : place + len(piece)] = piece
            place += len(piece) + int(rng.uniform(0.05, 0.5) * RATE)
            if place >= samples - RATE // 4:
                break
        return waveform, name

    def noise(self, rng: Rng, samples: int, p_two: float, shelf_db: float) -> tuple[Samples, str]:
        """Draw noise at about -26 dBFS, of two recordings with probability p_two, and return it with its group.

        shelf_db: largest tilt at either end of the spectrum.
        """
        noise, group = self._recorded(rng, samples)
        if rng.random() < p_two:
            second, other = self._recorded(rng, samples)
            noise, group = noise + second * db_ratio(rng.uniform(-12, 0)), f"{group}+{other}"
        low, high = rng.uniform(-shelf_db, shelf_db, 2)
        return (shelved(noise, low, high) if shelf_db else noise), group

    def _recorded(self, rng: Rng, samples: int) -> tuple[Samples, str]:
        """Crop a long recording; set short ones of one group beside each other, cross-faded or with gaps."""
        clip = self._noise.draw(rng)
        group, length = self._corpus.clips[clip].group, self._corpus.clips[clip].samples
        if length >= samples:
            return self._corpus.clip(clip, int(rng.integers(length - samples + 1)), samples), group
        noise = np.zeros(samples, np.float32)
        dense = rng.random() < 0.5 and length > RATE // 2  # a click repeated without a gap would be a buzz
        overlap = RATE // 20
        place = -int(rng.integers(length // 2 + 1)) if dense else int(rng.uniform(0, 0.5) * RATE)
        while place < samples:
            piece = faded(self._corpus.clip(clip), overlap if dense else RATE // 200)
            seen = piece[max(0, -place) : samples - place]
            noise[max(0, place) : max(0, place) + len(seen)] += seen
            place += max(len(piece) - overlap, overlap) if dense else len(piece) + int(rng.uniform(0, 1) * RATE)
            clip = _pick(rng, self._noise.groups[group])
        return noise, group


class _Draw:
    """Draw recordings: sources by the square root of their minutes, within a source groups alike, then recordings."""

    def __init__(self, corpus: Corpus, indices: Sequence[int], kind: str, split: str) -> None:
        if not indices:
            raise ConfigError(f"no {kind} in the {split} split", f"add {kind} to the manifest or a folder of it")
        sources: dict[str, dict[str, list[int]]] = {}
        self.groups: dict[str, list[int]] = {}
        for i in indices:
            clip = corpus.clips[i]
            sources.setdefault(clip.source, {}).setdefault(clip.group, []).append(i)
            self.groups.setdefault(clip.group, []).append(i)
        self._sources = [list(groups.values()) for _, groups in sorted(sources.items())]
        minutes = [sum(corpus.clips[i].minutes for group in groups for i in group) for groups in self._sources]
        self._edges = np.cumsum(np.sqrt(minutes)) / np.sum(np.sqrt(minutes))

    def draw(self, rng: Rng) -> int:
        source = self._sources[min(int(np.searchsorted(self._edges, rng.random())), len(self._sources) - 1)]
        return _pick(rng, source[int(rng.integers(len(source)))])


def synthetic(rng: Rng, samples: int) -> Samples:
    """Compute stationary noise at -26 dBFS with a power slope from white (0) to brown (2), sometimes with mains hum."""
    size = fast_length(samples)
    f = np.maximum(np.linspace(0, RATE / 2, size // 2 + 1, dtype=np.float32), 20)
    coloured = forward(rng.standard_normal(size, dtype=np.float32), size) * f ** np.float32(-rng.uniform(0, 2) / 2)
    noise = back(coloured, size)[:samples]
    noise /= np.sqrt(np.mean(noise**2))
    if rng.random() < 0.4:
        time = np.arange(samples, dtype=np.float32) / RATE
        mains = np.float32(rng.choice((50.0, 60.0)))
        for harmonic in range(1, 9):
            size_db = rng.uniform(-20, 6) - 2 * harmonic
            noise += np.sin(2 * np.pi * (harmonic * mains * time + np.float32(rng.random()))) * db_ratio(size_db)
    return np.asarray(noise * (db_ratio(LEVEL_DBFS) / np.sqrt(np.mean(noise**2))), np.float32)


def faded(audio: Samples, length: int = RATE // 200) -> Samples:
    """Fade both ends of a piece in place (5 ms unless told): what is cut must not click."""
    length = min(length, len(audio) // 2)
    if length:
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        audio[:length] *= ramp
        audio[-length:] *= ramp[::-1]
    return audio


def _pick(rng: Rng, indices: Sequence[int]) -> int:
    return indices[int(rng.integers(len(indices)))]
