"""Room responses: simulated shoebox rooms and measured ones; their early part defines the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import Corpus, cached_store
from sbm_cli.data.manifest import RATE
from sbm_cli.data.random import Draws

ROOMS_VERSION = 2  # raise it when the simulation changes
SOUND_SPEED = 343.0  # m/s
LEAD = 16  # samples kept before the first strong peak: the rising flank of a measured direct sound (1 ms)
EARLY_S, FADED_S = 0.006, 0.012  # the target keeps 6 ms after the peak and fades to nothing at 12 ms (design.md, 4)
LONGEST_S = 1.0  # responses are cut here; -60 dB lies at 0.9 s or earlier in the simulated rooms
RT60_RANGE = (0.15, 0.9)  # s
DISTANCE_RANGE = (0.3, 4.0)  # m
FACING_DB = (0.0, 6.0)  # a talker who faces the microphone is that much louder there than all around

IMAGES_S = 0.08  # image sources up to here, a decaying diffuse tail after it (fading over from 50 to 80 ms)
FADE_FROM_S = 0.05
OVERSAMPLING = 8  # places reflections to 1/8 sample
BANDS = (250.0, 500.0, 1000.0, 2000.0, 4000.0)  # Hz, upper edges of all bands but the last
# RT60 of a band relative to the mid bands: bass is absorbed less, treble more (furniture, air).
BAND_RT60 = np.array([1.15, 1.1, 1.0, 0.95, 0.8, 0.6])


@dataclass(frozen=True)
class RoomResponse:
    """Where a response lies in its bank's store."""

    name: str
    rt60_s: float  # 0: not known
    place: str  # where it was measured; empty for a simulated one
    start: int
    samples: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RoomResponse:
        """Return the response that a record of a cache or a pack describes; rt60_s has an older name there."""
        return cls(record["name"], record["t60_s"], record.get("place", ""), record["start"], record["samples"])

    def record(self) -> dict[str, Any]:
        """Return the record that `of` reads."""
        return {"name": self.name, "t60_s": self.rt60_s, "place": self.place}


@dataclass(frozen=True)
class ResponseBank:
    """Aligned responses (see `align`), each peaks at full scale; simulated rooms, then measured ones by place."""

    responses: tuple[RoomResponse, ...]
    store: NDArray[np.int16]


class Responses:
    """A bank on a device, to draw responses from; measured ones by place, so that 64 positions count once."""

    def __init__(self, bank: ResponseBank, device: torch.device) -> None:
        self._store = torch.from_numpy(bank.store).to(device)
        self._start, self._samples = (
            torch.tensor([getattr(response, key) for response in bank.responses], device=device)
            for key in ("start", "samples")
        )
        self._longest = max(response.samples for response in bank.responses)
        numbers = range(len(bank.responses))
        places = {place: list(run) for place, run in groupby(numbers, lambda i: bank.responses[i].place)}
        self._simulated = len(places.pop("", []))
        self._place = torch.tensor([run[0] for run in places.values()], device=device)
        self._sized = torch.tensor([len(run) for run in places.values()], device=device)
        beside = torch.arange(len(numbers))
        by_rt60 = sorted(range(self._simulated), key=lambda i: bank.responses[i].rt60_s)
        for run in (by_rt60, *places.values()):
            beside[run] = torch.tensor(run[1:] + run[-2:][:1])
        self.beside = beside.to(device)  # another response of the same place, or of a room with about the same RT60

    def draw(self, draws: Draws, p_measured: float) -> Tensor:
        """Draw a simulated room or, with probability p_measured, a measured one (if there are any): [items]."""
        measured = draws.chance(p_measured)
        index = draws.below(self._simulated)
        if not len(self._place):
            return index
        place = draws.below(len(self._place))
        return torch.where(measured, self._place[place] + draws.below(self._sized[place]), index)

    def read(self, index: Tensor) -> Tensor:
        """Return responses [items, samples], scaled so that their early part has unit energy."""
        position = torch.arange(self._longest, device=index.device)
        inside = position < self._samples[index, None]
        return scaled(self._store[self._start[index, None] + position * inside] * inside)


def open_responses(
    cache: Path,
    count: int,
    seed: int,
    corpus: Corpus | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> ResponseBank:
    """Open the responses of `count` simulated rooms, made into `cache` at the first time, and those measured.

    2000 rooms take half a minute or more, and 50 MB. Measured responses with an RT60 above 1.5 s are left out (people
    rarely record speech in churches), and so are those whose direct sound is coloured like a device's (see `is_flat`).
    progress is called with (rooms simulated, rooms in all).
    """

    def simulate() -> Iterator[tuple[Mapping[str, object], NDArray[np.int16]]]:
        for index in range(count):
            response, rt60_s = simulate_room(seed, index)
            yield RoomResponse(f"shoebox-{seed}-{index}", rt60_s, "", 0, 0).record(), _full_scale(response)
            progress(index + 1, count)

    records, store = cached_store(cache, f"rooms-v{ROOMS_VERSION}-{count}-{seed}", simulate)
    responses = [RoomResponse.of(record) for record in records]
    parts, length = [store], len(store)
    if corpus is not None:
        for i in sorted(corpus.where("rir", "train"), key=lambda i: corpus.clips[i].group):
            clip = corpus.clips[i]
            response = align(corpus.clip(i))
            if (clip.rt60_s or 0.0) <= 1.5 and is_flat(response):
                responses.append(RoomResponse(clip.path, clip.rt60_s or 0.0, clip.group, length, len(response)))
                parts.append(_full_scale(response))
                length += len(response)
    return ResponseBank(tuple(responses), np.concatenate(parts) if len(parts) > 1 else store)


def early_part(response: Tensor) -> Tensor:
    """Return the part of aligned responses [..., samples] that the target keeps, [..., LEAD + 192] or less."""
    after = torch.arange(-LEAD, int(FADED_S * RATE), device=response.device) / RATE
    fade = ((after - EARLY_S) / (FADED_S - EARLY_S)).clip(0, 1)[: response.shape[-1]]
    return response[..., : len(fade)] * (0.5 + 0.5 * torch.cos(math.pi * fade))


def scaled(response: Tensor) -> Tensor:
    """Scale aligned responses [..., samples] so that their early part has unit energy."""
    energy: Tensor = early_part(response).square().sum(-1, keepdim=True)
    return response * energy.rsqrt()


def first_peak(response: Samples) -> int:
    """Return the place of the first strong peak: the direct sound.

    That is the largest sample within 0.5 ms after the response first comes within 10 dB of its maximum. A
    direct sound up to 10 dB weaker than the strongest reflection is still found, which the argmax would miss; the
    first side lobe of a band limit (-13 dB) and recording noise stay below. The 0.5 ms step over the flank of the
    pulse itself onto its top.
    """
    size = np.abs(response)
    onset = int(np.argmax(size >= 10 ** (-10 / 20) * size.max()))
    return onset + int(np.argmax(size[onset : onset + RATE // 2000]))


def align(response: Samples) -> Samples:
    """Cut a measured response so that its first strong peak is positive and stands at sample `LEAD`.

    What precedes by more than 1 ms is noise of the measurement or the recording's own delay, and goes.
    """
    peak = first_peak(response)
    flank = response[max(0, peak - LEAD) : peak]
    cut = np.concatenate([np.zeros(LEAD - len(flank), np.float32), flank, response[peak:]])[: int(LONGEST_S * RATE)]
    cut[: LEAD // 2] *= np.linspace(0, 1, LEAD // 2, dtype=np.float32)
    fade = min(len(cut) // 4, RATE // 10)  # a long response is cut; end it softly
    cut[len(cut) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.asarray(cut * np.sign(response[peak]), np.float32)


def is_flat(response: Samples) -> bool:
    """Say whether each octave of speech (250 Hz to 4 kHz) passes the early part within 12 dB of unit gain.

    A band-pass in a measured response would be asked of the network as part of the clean target.
    """
    power = np.abs(np.fft.rfft(early_part(scaled(torch.from_numpy(response))).numpy(), 512)) ** 2
    edges = [8, 16, 32, 64, 128]  # bins of 31.25 Hz
    octaves = [float(power[low:high].mean()) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return min(octaves) > 10**-1.2 and max(octaves) < 10**1.2


def simulate_room(seed: int, index: int) -> tuple[Samples, float]:
    """Simulate one response in a random shoebox room: float32 [samples] with the direct sound at `LEAD`, and its RT60.

    The room is a function of (seed, index) alone.

    Image sources (Allen & Berkley, JASA 65, 1979) up to 80 ms, each band with its own absorption (Eyring), walls
    of unequal absorption, reflections displaced at random by up to 8 cm against the sweeping echoes of perfect boxes
    (De Sena et al., IEEE TASLP 23, 2015); then Gaussian noise decaying at the rate of each band.
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, ROOMS_VERSION]))
    size = rng.uniform((2.5, 2.5, 2.3), (10.0, 8.0, 3.5))
    rt60_s = float(rng.uniform(*RT60_RANGE))
    source, receiver = _places(rng, size)
    band_rt60 = rt60_s * BAND_RT60
    delays, gains = _images(rng, size, source, receiver, band_rt60)  # [images] s, [bands, images]

    samples = min(int((1.1 * band_rt60.max() + 0.02) * RATE), int(LONGEST_S * RATE))
    length = int(IMAGES_S * RATE)
    places = np.round(delays * RATE * OVERSAMPLING).astype(np.int64)  # the direct sound at 0: exactly on a sample
    kept = places < length * OVERSAMPLING
    grid = np.stack([np.bincount(places[kept], g[kept], 2 * length * OVERSAMPLING) for g in gains])
    spectra = np.fft.rfft(grid, axis=1)[:, : length + 1]  # ideal decimation: the bins below 8 kHz only
    images = np.fft.irfft(spectra * _band_filters(length + 1), axis=1)[:, :length]

    time = np.arange(samples) / RATE
    decay = 10 ** (-3 * time / band_rt60[:, None])  # amplitude, -60 dB at the band's RT60
    noise = np.fft.rfft(rng.standard_normal((len(BAND_RT60), samples)), axis=1)
    tail = np.fft.irfft(noise * _band_filters(noise.shape[1]), samples, axis=1) * decay
    late = slice(int(FADE_FROM_S * RATE), length)
    energy = np.sum(images[:, late] ** 2, axis=1) / np.sum(tail[:, late] ** 2, axis=1)
    fade = np.clip((time - FADE_FROM_S) / (IMAGES_S - FADE_FROM_S), 0, 1)
    response = np.sum(tail * np.sqrt(energy)[:, None], axis=0) * np.sqrt(fade)
    shared = min(length, samples)
    response[:shared] += np.sum(images[:, :shared], axis=0) * np.sqrt(1 - fade[:shared])
    return np.concatenate([np.zeros(LEAD), response]).astype(np.float32), rt60_s


def _places(rng: np.random.Generator, size: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw source and receiver at least 0.3 m from the walls, their distance uniform as far as the room allows."""
    low, high = np.full(3, 0.3), size - 0.3
    while True:
        receiver = rng.uniform(low, high)
        direction = rng.standard_normal(3) * (1.0, 1.0, 0.3)  # mouths and microphones stand at similar heights
        source = receiver + rng.uniform(*DISTANCE_RANGE) * direction / np.linalg.norm(direction)
        if np.all((source > low) & (source < high)):
            return source, receiver


def _images(
    rng: np.random.Generator,
    size: NDArray[np.float64],
    source: NDArray[np.float64],
    receiver: NDArray[np.float64],
    band_rt60: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return delay after the direct sound [images] in s and amplitude per band [bands, images], direct sound 1."""
    reach = IMAGES_S * SOUND_SPEED + float(np.linalg.norm(source - receiver))
    orders = [np.arange(-int(reach / (2 * s)) - 1, int(reach / (2 * s)) + 2) for s in size]
    n = np.stack(np.meshgrid(*orders, indexing="ij"), -1).reshape(-1, 1, 3)  # rooms away, per axis
    p = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, 8, 3)  # mirrored or not
    image = ((1 - 2 * p) * source + 2 * n * size).reshape(-1, 3)
    hits = np.concatenate([np.abs(n - p), np.broadcast_to(np.abs(n), (len(n), 8, 3))], -1).reshape(-1, 6)  # per wall

    near = np.linalg.norm(image - receiver, axis=1) < reach
    image, hits = image[near], hits[near]
    moved = image + rng.uniform(-0.08, 0.08, image.shape) * (hits.sum(1, keepdims=True) > 0)
    distance = np.linalg.norm(moved - receiver, axis=1)
    direct = float(np.linalg.norm(source - receiver))

    walls = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    area, volume = 2 * walls.sum(), size.prod()
    absorption = 1 - np.exp(-0.161 * volume / (area * band_rt60))  # Eyring [bands]
    weight = rng.uniform(0.3, 1.0, 6)
    weight /= np.sum(weight * np.tile(walls, 2)) / area  # walls differ, their mean absorption is kept
    reflection = np.sqrt(1 - np.clip(absorption[:, None] * weight, 0.01, 0.98))  # [bands, walls]
    facing = np.where(hits.sum(1) > 0, 10 ** (-rng.uniform(*FACING_DB) / 20), 1.0)
    gains = np.exp(np.log(reflection) @ hits.T) * (direct / distance) * facing
    return np.maximum(distance - direct, 0.0) / SOUND_SPEED, gains


def _band_filters(bins: int) -> NDArray[np.float64]:
    """Return band gains over frequency [bands, bins], octave-wide cosine overlaps, adding up to exactly 1."""
    octave = np.log2(np.maximum(np.linspace(0, RATE / 2, bins), 1.0)[None] / np.array(BANDS)[:, None])
    above = 0.5 + 0.5 * np.sin(np.pi * np.clip(octave, -0.5, 0.5))  # [edges, bins]
    ones, zeros = np.ones((1, bins)), np.zeros((1, bins))
    return np.concatenate([ones, above]) - np.concatenate([above, zeros])


def _full_scale(response: Samples) -> NDArray[np.int16]:
    return np.round(response * np.float32(32767 / np.abs(response).max())).astype(np.int16)
