"""Where the mixtures of a training come from: made ahead by threads of the host, or on the device."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sbm_cli.config import check_ranges, written
from sbm_cli.data.corpus import Corpus, find_clips, lengths, none_error, open_corpus
from sbm_cli.data.manifest import RATE
from sbm_cli.data.mixing import MixConfig, Mixer
from sbm_cli.data.pack import open_pack
from sbm_cli.data.random import OWN_NOISE, uniforms
from sbm_cli.data.room_responses import ResponseBank, open_responses
from sbm_cli.errors import ConfigError
from sbm_cli.hardware import cores

ROOM_SEED = 1  # the simulated rooms of `data.test_sets` have others
AHEAD = 2  # steps that each thread makes in advance
# Makes a bar from a name and a unit; the bar takes how many are done, and how many there are.
Bars = Callable[[str, str], AbstractContextManager[Callable[[float, float], object]]]


@dataclass(frozen=True)
class DataConfig:
    """Where the audio comes from: manifests (CSV), or folders of speech, noise and room responses."""

    manifests: tuple[str, ...] = ()
    speech: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    rir: tuple[str, ...] = ()
    rooms: int = 2400  # simulated, made once and cached
    cache: str = "runs/cache"
    speeds: tuple[float, ...] = ()  # the training speech also at these speeds: each makes a voice of its own
    pack: str = ""  # folder that `sbm data pack` wrote: instead of all these
    own_share: float = 0.0  # of the items: noise from the folders only; 0 draws folders and manifests alike

    def __post_init__(self) -> None:
        check_ranges(self, rooms="[1, 1000000]", own_share="[0, 1]")
        if not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError(f"speeds lie between 0.5 and 2, got {written(self.speeds)}")


class Source(Protocol):
    """Mixtures of a split, made on `device`."""

    @property
    def device(self) -> torch.device: ...

    def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return (noisy, clean), float32 [items, samples] each; an item is a function of (seed, step, item)."""


@dataclass(frozen=True)
class Sources:
    """Mixtures to train on, and to validate on by the name of the set."""

    train: Source
    valid: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Blend:
    """Items of `own` with some probability, of `general` otherwise."""

    own: Source
    general: Source
    own_probability: float

    @property
    def device(self) -> torch.device:
        return self.general.device

    def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = (uniforms(seed, step, torch.tensor(items), OWN_NOISE, 1)[:, 0] < self.own_probability).tolist()
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for source, own in ((self.own, True), (self.general, False)):
            part = [item for item, is_own in zip(items, chosen, strict=True) if is_own == own]
            if part:
                rows |= zip(part, zip(*source.batch(seed, step, part), strict=True), strict=True)
        noisy, clean = zip(*(rows[item] for item in items), strict=True)
        return torch.stack(noisy), torch.stack(clean)


def open_sources(data: DataConfig, mix: MixConfig, device: torch.device, bars: Bars | None = None) -> Sources:
    """Open what a recipe names and make mixtures of it, with the arguments of `open_data` and `mixtures_of`."""
    return mixtures_of(*open_data(data, bars), data, mix, device)


def open_data(data: DataConfig, bars: Bars | None = None, few: int | None = None) -> tuple[Corpus, ResponseBank]:
    """Open what a recipe names: a pack, or corpora, decoded and with simulated rooms at the first time.

    bars: show how far decoding and simulating have come. few: as in `open_corpus`.

    Raises ConfigError if a pack lacks the speeds of the recipe, and what `open_corpus` raises.
    """
    cache, bars = Path(data.cache), bars or _no_bars
    if data.pack:
        corpus, rooms = open_pack(Path(data.pack))
        if missing := sorted({*data.speeds} - {clip.speed for clip in corpus.clips}):
            raise ConfigError(
                f"{data.pack}: holds no speech at the speeds {missing} of data.speeds",
                "Pack again with --speeds, or train without: --set data.speeds=[]",
            )
        return corpus, rooms
    manifests, speech, noise, rir = _paths(data)
    with bars("decoding, once", "files") as report:
        corpus = open_corpus(cache, manifests, speech, noise, rir, data.speeds, report, few)
    with bars("simulating, once", "rooms") as report:
        return corpus, open_responses(cache, data.rooms, ROOM_SEED, corpus, progress=report)


def mixtures_of(corpus: Corpus, rooms: ResponseBank, data: DataConfig, mix: MixConfig, device: torch.device) -> Sources:
    """Return the mixtures of recordings and rooms.

    On a GPU the mixtures are made there. Validation is on the split `valid`, on the same mixtures everywhere. Where the
    user's own noise has a share of its own (`own_share`), there are two sets, "own" with it and "general" with that of
    the manifests, if they have any.

    Raises ConfigError if there is no speech or no noise to train on.
    """

    def mixers(train: Corpus, valid: Corpus, name: str) -> Sources:
        complete = all(valid.where(kind, "valid") for kind in ("speech", "noise"))
        scored = {name: Mixer(valid, rooms, mix, "valid")} if complete else {}
        return Sources(Mixer(train, rooms, mix, device=device), scored)

    folders = [Path(folder) for folder in data.noise]
    noises = [clip for clip in corpus.clips if clip.kind == "noise"]
    paths = {clip.path for clip in noises if any(Path(clip.path).is_relative_to(folder) for folder in folders)}
    ours, theirs = ([clip for clip in noises if (clip.path in paths) == own] for own in (True, False))
    if not (data.own_share and ours):
        return mixers(corpus, corpus, "valid")
    rest = [clip for clip in corpus.clips if clip.kind != "noise"]
    has_valid = any(clip.split == "valid" for clip in ours)  # one recording alone is trained on, and validated on too
    scored = ours if has_valid else [replace(clip, split="valid") for clip in ours]
    own = mixers(Corpus([*rest, *ours], corpus.store), Corpus([*rest, *scored], corpus.store), "own")
    if not theirs:
        return own
    others = Corpus([*rest, *theirs], corpus.store)
    general = mixers(others, others, "general")
    return Sources(Blend(own.train, general.train, data.own_share), {**own.valid, **general.valid})


def check_data(data: DataConfig) -> list[str]:
    """Return the kinds of recordings that are not there to validate on, as far as can be told at once.

    Raises the errors of `open_sources` about paths, and about kinds of recordings that are absent.
    """
    if data.pack:
        if not Path(data.pack).is_dir():
            raise ConfigError(f"{data.pack}: not a folder", "Give a folder that `sbm data pack` wrote.")
        return []
    there = {(clip.kind, clip.split) for clip in find_clips(*_paths(data))}
    if data.own_share and data.noise:
        there.add(("noise", "valid"))  # see `mixtures_of`
    for kind in ("speech", "noise"):
        if (kind, "train") not in there:
            raise none_error(kind, "train")
    return [kind for kind in ("speech", "noise") if (kind, "valid") not in there]


def measured(data: DataConfig, corpus: Corpus, bars: Bars | None = None) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of all recordings by (kind, split), as their headers say.

    corpus: of `open_data`, which knows them of a pack. Raises AudioError for a recording that cannot be read.
    """
    clips, seconds = list(corpus.clips), [clip.samples / RATE for clip in corpus.clips]
    if not data.pack:
        clips = find_clips(*_paths(data))
        with (bars or _no_bars)("measuring", "files") as report:
            seconds = lengths(clips, report)
    found = defaultdict[tuple[str, str], list[float]](list)
    for clip, length in zip(clips, seconds, strict=True):
        found[clip.kind, clip.split].append(length)
    return found


def _no_bars(name: str, unit: str) -> AbstractContextManager[Callable[[float, float], object]]:
    return nullcontext(lambda done, total: None)


def _paths(data: DataConfig) -> Iterator[list[Path]]:
    """Yield the paths of manifests, speech, noise and room responses."""
    return ([Path(path) for path in paths] for paths in (data.manifests, data.speech, data.noise, data.rir))


def batches(
    source: Source, seed: int, steps: Sequence[int], items: Sequence[int], device: torch.device, processes: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (noisy, clean) of the steps in order, [items, samples] each, on a device.

    What the host makes is made by threads, some steps ahead: by one where the CPU also trains, else by all cores, which
    so many processes share.
    """
    if source.device.type == "cuda":
        yield from (source.batch(seed, step, items) for step in steps)
        return

    def make(step: int) -> tuple[Tensor, ...]:
        made = source.batch(seed, step, items)
        return made if device.type == "cpu" else tuple(tensor.pin_memory() for tensor in made)

    workers = 1 if device.type == "cpu" else max(1, cores() // processes)
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[tuple[Tensor, ...]]] = deque()
    coming = iter(steps)
    try:
        for _ in steps:
            waiting.extend(pool.submit(make, s) for s in islice(coming, workers * AHEAD + 1 - len(waiting)))
            noisy, clean = (tensor.to(device, non_blocking=True) for tensor in waiting.popleft().result())
            yield noisy, clean
    finally:
        pool.shutdown(cancel_futures=True)
