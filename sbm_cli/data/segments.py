"""Speech and noise of a split, drawn for a whole batch and set together into segments, on any device.

Nothing here waits for the device: every shape is known beforehand, and what an item does not need is computed and left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from sbm_cli.data.corpus import LEVEL_DBFS, Corpus, none_error
from sbm_cli.data.filters import db_ratio, filtered, frequencies
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.random import Draws, Rows

PLACEMENTS_PER_SECOND = 4  # at most so many short recordings are set beside each other
FADE = RATE // 200  # 5 ms: what is cut must not click
OVERLAP = RATE // 20  # 50 ms cross-fade
LEAST = RATE // 4  # no recording begins in the last quarter of a second
HARMONICS = 8  # of mains hum


@dataclass(frozen=True)
class Placements:
    """Recordings set beside each other along segments, in ascending order: [items, placements], int64 but for gain."""

    start: Tensor  # where the recording begins in the store
    gain: Tensor  # turns int16 into +-1
    place: Tensor  # of its first sample in the segment; may lie before the segment
    samples: Tensor  # how many of it are used; 0 leaves it out
    fade: Tensor  # samples at both ends

    def of(self, rows: Rows) -> Placements:
        return Placements(*(value[rows] for value in vars(self).values()))


def assemble(store: Tensor, placements: Placements, samples: int) -> Tensor:
    """Read recordings from a store int16 into segments, float32 [items, samples].

    A recording may begin before the one before it has ended, but not before the one before that has.
    """
    return (_assemble_in_turn if store.device.type == "cpu" else _assemble_at_once)(store, placements, samples)


def _assemble_in_turn(store: Tensor, placements: Placements, samples: int) -> Tensor:
    segments = torch.zeros(len(placements.place), samples)
    rows = zip(*(value.tolist() for value in vars(placements).values()), strict=True)
    for segment, row in zip(segments, rows, strict=True):
        for start, gain, place, length, fade in zip(*row, strict=True):
            first, last = max(0, -place), min(length, samples - place)
            if first >= last:
                continue
            excerpt = store[start + first : start + last] * gain
            if fade:
                edge = torch.arange(first, last)
                excerpt *= (torch.minimum(edge, length - 1 - edge) / max(fade - 1, 1)).clamp_max(1)
            segment[place + first : place + last] += excerpt
    return segments


def _assemble_at_once(store: Tensor, placements: Placements, samples: int) -> Tensor:
    marks = torch.zeros(len(placements.place), samples + 1, dtype=torch.int64, device=store.device)
    marks.scatter_add_(1, placements.place.clamp(0, samples), torch.ones_like(placements.place))
    latest = marks[:, :samples].cumsum(1) - 1  # the placement that has begun last; -1 before the first
    position = torch.arange(samples, device=store.device)
    origin, end = placements.start - placements.place, placements.place + placements.samples - 1
    slope = torch.where(placements.fade > 0, 1 / (placements.fade - 1).clamp_min(1), 1e9)
    segments = torch.zeros(latest.shape, device=store.device)
    for layer in range(2):
        placement = (latest - layer).clamp_min(0)
        edge = torch.minimum(position - placements.place.gather(1, placement), end.gather(1, placement) - position)
        heard = (edge >= 0) & (latest >= layer)
        index = torch.where(heard, origin.gather(1, placement) + position, 0)
        ramp = ((edge + 1e-9) * slope.gather(1, placement)).clamp(0, 1)  # 0 at the edge of a fade, 1 without one
        segments += torch.where(heard, store[index] * placements.gain.gather(1, placement) * ramp, 0.0)
    return segments


class Recordings:
    """Recordings to draw from: sources by the square root of their minutes, within a source groups alike, then clips.

    peer: names what a recording may be set beside: its speaker, or its group.
    """

    def __init__(
        self, corpus: Corpus, indices: Sequence[int], peer: Callable[[Clip], str], device: torch.device
    ) -> None:
        clips = sorted((corpus.clips[i] for i in indices), key=lambda clip: (clip.source, clip.group))

        def tensor(values: Sequence[float], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def ranges(keys: Sequence[Hashable]) -> tuple[Tensor, Tensor]:
            """Return where each run of equal keys begins and how long it is."""
            lengths = [len(list(run)) for _, run in groupby(keys)]
            return tensor([0, *np.cumsum(lengths)[:-1].tolist()]), tensor(lengths)

        self.start, self.samples = tensor([clip.start for clip in clips]), tensor([clip.samples for clip in clips])
        self.gain = tensor([clip.gain for clip in clips], torch.float32)
        groups = [(clip.source, clip.group) for clip in clips]
        self._group, self._sized = ranges(groups)  # first clip and clips of each group
        self._source, self._grouped = ranges([source for (source, _), _ in groupby(groups)])
        minutes = [sum(clip.minutes for clip in run) for _, run in groupby(clips, lambda clip: clip.source)]
        self._edges = tensor((np.cumsum(np.sqrt(minutes)) / np.sum(np.sqrt(minutes)))[:-1].tolist(), torch.float32)
        names = [peer(clip) for clip in clips]
        ordered = sorted(range(len(clips)), key=names.__getitem__)
        first, count = ranges([names[i] for i in ordered])
        self._peers = tensor(ordered)
        self.name = torch.empty_like(self._peers)  # of a clip's peers: a number
        self.name[self._peers] = torch.arange(len(count), device=device).repeat_interleave(count)
        self._first, self._count = first[self.name], count[self.name]

    def draw(self, draws: Draws) -> Tensor:
        """Draw a recording for every item: [items]."""
        source = torch.searchsorted(self._edges, draws.uniform(), right=True)
        group = self._source[source] + draws.below(self._grouped[source])
        return self._group[group] + draws.below(self._sized[group])

    def followed(self, draws: Draws, clip: Tensor, many: int) -> Tensor:
        """Set `many` peers beside the recordings [items], drawn with replacement: [items, 1 + many]."""
        place = self._first[clip, None] + draws.below(self._count[clip, None], many)
        return torch.cat([clip[:, None], self._peers[place]], 1)


class Segments:
    """The speech and the noise of a split; with a segment's `samples` it gives the placements to `assemble` one from.

    min_speech_snr_db: utterances whose stated snr_db is lower are left out.

    Raises ConfigError if the split has no speech or no noise.
    """

    def __init__(self, corpus: Corpus, split: str, min_speech_snr_db: float, device: torch.device) -> None:
        speech, noise = (corpus.where(kind, split) for kind in ("speech", "noise"))
        if min_speech_snr_db:
            stated = {i: corpus.clips[i].snr_db for i in speech}
            speech = [i for i, snr_db in stated.items() if snr_db is None or snr_db >= min_speech_snr_db]
        for kind, found in (("speech", speech), ("noise", noise)):
            if not found:
                raise none_error(kind, split, min_speech_snr_db)
        self.store = torch.from_numpy(corpus.store).to(device)
        self.utterances = Recordings(corpus, speech, lambda clip: clip.speaker or clip.source, device)
        self.noises = Recordings(corpus, noise, lambda clip: clip.group, device)

    def speech(self, draws: Draws, first: Tensor, samples: int) -> Placements:
        """Set speech of one speaker (of one source, where speakers are not known) after the recordings [items].

        A long utterance is cropped at random; short ones follow each other after pauses. Each is used at most
        once: nothing is wrapped, tiled or repeated, so a speaker with too little ends in silence.
        """
        clips = self.utterances.followed(draws, first, 2 * placements_in(samples))
        fresh = ~(clips[:, :, None] == clips[:, None]).tril(-1).any(2)  # drawn for the first time
        length = self.utterances.samples[clips] * fresh
        room = samples - length[:, 0]
        begin = torch.where(room > 0, draws.below(room.clamp_max(RATE // 3) + 1), -draws.below(1 - room))
        pause = (draws.uniform(0.05, 0.5, clips.shape[1]) * RATE).long()
        place = _after(begin, (length + pause) * fresh)
        fresh[:, 1:] &= place[:, 1:] < samples - LEAST
        used = torch.minimum(length, samples - place) * fresh
        fade = torch.where(room[:, None] > 0, (used // 2).clamp_max(FADE), 0)
        return Placements(self.utterances.start[clips], self.utterances.gain[clips], place, used, fade)

    def noise(self, draws: Draws, samples: int) -> Placements:
        """Crop a long recording; set short ones of one group beside each other, cross-faded or with gaps."""
        clips = self.noises.followed(draws, self.noises.draw(draws), placements_in(samples))
        length = self.noises.samples[clips]
        first = length[:, 0]
        crop = first >= samples
        dense = draws.chance(0.5) & (first > RATE // 2) & ~crop  # a click repeated without a gap would be a buzz
        back = draws.below(torch.where(crop, first - samples, first // 2) + 1)
        begin = torch.where(crop | dense, -back, (draws.uniform(0, 0.5) * RATE).long())
        gap = (draws.uniform(0, 1, clips.shape[1]) * RATE).long()
        step = torch.where(dense[:, None], (length - OVERLAP).clamp_min(OVERLAP), length + gap)
        fade = torch.minimum(torch.where(dense, OVERLAP, FADE)[:, None], length // 2) * ~crop[:, None]
        return Placements(self.noises.start[clips], self.noises.gain[clips], _after(begin, step), length, fade)


def draw_colour(draws: Draws) -> tuple[Tensor, ...]:
    """Draw what `synthetic` wants to know: slope, mains and phases of its harmonics, and their levels."""
    slope, phase = draws.uniform(0, 2), draws.uniform(many=HARMONICS)
    mains_hz = torch.where(draws.chance(0.5), 50.0, 60.0)
    level_db = draws.uniform(-20, 6, HARMONICS) - torch.where(draws.chance(0.4), 0.0, torch.inf)[:, None]
    return slope, mains_hz, phase, level_db


def synthetic(white: Tensor, samples: int, slope: Tensor, mains_hz: Tensor, phase: Tensor, level_db: Tensor) -> Tensor:
    """Make stationary noise at -26 dBFS, [items, samples], from white noise of a fast length.

    slope: of the power, from white (0) to brown (2); level_db: of the harmonics of mains hum, -inf for none.
    """
    size = white.shape[-1]
    f = frequencies(size, white).clamp_min(20)
    noise = _unit(filtered(white, f ** (-slope / 2)[:, None], size)[:, :samples])
    time = torch.arange(samples, device=white.device) / RATE
    for i in range(HARMONICS):
        cycles = (i + 1) * mains_hz[:, None] * time + phase[:, i, None]
        noise = noise + torch.sin(2 * math.pi * cycles) * db_ratio(level_db[:, i, None] - 2 * (i + 1))
    return 10 ** (LEVEL_DBFS / 20) * _unit(noise)


def _unit(noise: Tensor) -> Tensor:
    power: Tensor = noise.square().mean(-1, keepdim=True)
    return noise * power.rsqrt()


def placements_in(samples: int) -> int:
    return math.ceil(PLACEMENTS_PER_SECOND * samples / RATE)


def _after(begin: Tensor, step: Tensor) -> Tensor:
    """Return places: of the first recording `begin` [items], of each further one `step` [items, placements] later."""
    return begin[:, None] + step.cumsum(1) - step
