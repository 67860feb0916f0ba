"""What is wrong with a corpus, found before a training finds it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import in_threads
from sbm_cli.data.manifest import KINDS, RATE, SPLITS, Clip, identity, name_rank, read_manifest, report_set, set_aside

BLOCK_S = 30  # read at once: memory does not grow with a file
SILENT = 1e-4  # a peak below -80 dBFS is no signal
FULL_SCALE = 0.999
CLIPPED = 1e-4  # fraction of samples
FLOOR_DB = 28.0  # loud against quiet frames of speech; below, the network would learn to leave noise in
OFFSET = 0.1  # mean against RMS


@dataclass(frozen=True)
class Sound:
    """What a file holds; of one that was not listened to, only what its header says."""

    rate: int
    channels: int
    seconds: float
    listened: bool = False
    digest: str = ""  # of the samples in 16 bits, whatever the format of the file
    peak: float = 0.0
    finite: bool = True
    clipped: float = 0.0  # fraction of samples at full scale or in flat tops
    offset: float = 0.0  # |mean| / RMS
    floor_db: float = 0.0  # power of the loudest 10 % of 20-ms frames over that of the quietest 10 %


@dataclass(frozen=True)
class Finding:
    """level: error (must not be trained on), warning or note; where: the files, speakers or groups it is true of."""

    level: str
    what: str
    where: Sequence[str]


@dataclass(frozen=True)
class Row:
    """Sums over a kind, source and split."""

    kind: str
    source: str
    split: str
    files: int
    minutes: float
    speakers: int
    groups: int
    rates: Sequence[int]


def check(
    manifests: Sequence[Path], limit: int | None, progress: Callable[[int, int], None]
) -> tuple[list[Row], list[Finding]]:
    """Look for what spoils a training or its scores: broken and silent files, clipping, noise, shared voices and rooms.

    limit: listen to so many files only, spread by the hash of their paths; of the others the header is read.
    progress is called with (files done, files in all).

    Splits are those that a training would see, so speakers of the report set count as `report`.
    Raises ConfigError for a manifest that does not hold together.
    """
    report = report_set()
    clips = [set_aside(clip, report) for path in manifests for clip in read_manifest(path, present=False)]
    chosen = sorted(range(len(clips)), key=lambda i: name_rank(clips[i].path))[:limit]
    listen = np.zeros(len(clips), bool)
    listen[chosen] = True
    sounds = list(in_threads(lambda i: examine(clips[i].path, listen[i]), range(len(clips)), progress))
    known = [(clip, sound) for clip, sound in zip(clips, sounds, strict=True) if isinstance(sound, Sound)]
    broken = [f"{clip.path}: {why}" for clip, why in zip(clips, sounds, strict=True) if isinstance(why, str)]
    findings = [
        Finding("error", "cannot be read", broken),
        *_shared(clips),
        *_same(known),
        *_spoiled(known),
        *_missing(clips),
    ]
    return table(known), [finding for finding in findings if finding.where]


def examine(path: str, listen: bool = True) -> Sound | str:
    """Return what a file holds, or why it cannot be read."""
    import soundfile

    if not os.path.isfile(path):
        return "there is no such file"
    try:
        with soundfile.SoundFile(path) as file:
            sound = Sound(file.samplerate, file.channels, file.frames / file.samplerate)
            if not listen:
                return sound
            blocks = file.blocks(BLOCK_S * file.samplerate, dtype="float32", always_2d=True)
            return _listen(sound, blocks)
    except (OSError, RuntimeError) as error:
        return str(getattr(error, "error_string", error))


def table(sounds: Iterable[tuple[Clip, Sound]]) -> list[Row]:
    """Sum up files and minutes by kind, source and split."""
    parts: dict[tuple[str, str, str], list[tuple[Clip, Sound]]] = {}
    for clip, sound in sounds:
        parts.setdefault((clip.kind, clip.source, clip.split), []).append((clip, sound))
    order = sorted(parts, key=lambda key: (KINDS.index(key[0]), key[1], SPLITS.index(key[2])))
    return [
        Row(
            *key,
            len(parts[key]),
            sum(sound.seconds for _, sound in parts[key]) / 60,
            len({clip.speaker for clip, _ in parts[key]} - {""}),
            len({clip.group for clip, _ in parts[key]}) if key[0] != "speech" else 0,
            sorted({sound.rate for _, sound in parts[key]}),
        )
        for key in order
    ]


def _listen(header: Sound, blocks: Iterable[Samples]) -> Sound:
    digest = hashlib.blake2b(f"{header.rate}".encode(), digest_size=16)
    frame = max(1, header.rate // 50)
    powers, peak, total, square, clipped, samples, finite = [np.zeros(0)], 0.0, 0.0, 0.0, 0, 0, True
    for block in blocks:
        if not np.isfinite(block).all():
            block, finite = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0), False
        digest.update(np.round(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
        size = np.abs(block)
        top = float(size.max(initial=0.0))
        peak = max(peak, top)
        flat = size[1:-1] >= max(0.99 * top, 0.1)  # a quiet sine has equal neighbours too, in 16 bits
        flat &= (block[1:-1] == block[:-2]) & (block[1:-1] == block[2:])
        clipped += int(np.count_nonzero(flat)) + int(np.count_nonzero(size >= FULL_SCALE))
        mono = block.mean(axis=1, dtype=np.float32)
        total += float(mono.sum(dtype=np.float64))
        square += float(mono @ mono)
        samples += len(mono)
        frames = mono[: len(mono) // frame * frame].reshape(-1, frame)
        powers.append(np.einsum("ij,ij->i", frames, frames) / frame)
    power = np.sort(np.concatenate(powers)) + 1e-12
    tenth = len(power) // 10
    floor_db = 10 * np.log10(power[-tenth:].mean() / power[:tenth].mean()) if tenth else np.inf
    rms = (square / max(samples, 1)) ** 0.5
    return replace(
        header,
        seconds=samples / header.rate,  # of some formats the header only estimates it
        listened=True,
        digest=digest.hexdigest(),
        peak=peak,
        finite=finite,
        clipped=clipped / max(samples * header.channels, 1),
        offset=abs(total) / samples / rms if rms else 0.0,
        floor_db=float(floor_db),
    )


def _shared(clips: Sequence[Clip]) -> Iterator[Finding]:
    names = {"speech": "speaker in several splits", "noise": "noise in several splits", "rir": "room in several splits"}
    splits: dict[tuple[str, str], set[str]] = {}
    for clip in clips:
        name = identity(clip)
        if not clip.path.endswith(name):  # an unnamed recording goes by its path: see `_same`
            splits.setdefault((clip.kind, name), set()).add(clip.split)
    for kind, what in names.items():
        where = [
            f"{name}: {', '.join(sorted(found, key=SPLITS.index))}"
            for (of, name), found in splits.items()
            if of == kind and len(found) > 1
        ]
        yield Finding("error", what, where)


def _same(sounds: Iterable[tuple[Clip, Sound]]) -> Iterator[Finding]:
    first: dict[str, Clip] = {}
    twice, leaked = [], []
    for clip, sound in sounds:
        if sound.listened and sound.peak < SILENT:
            continue
        found = first.setdefault(sound.digest or clip.path, clip)
        if found is not clip:
            line = f"{clip.path} = {found.path}"
            if found.split == clip.split:
                twice.append(line)
            else:
                leaked.append(f"{line} ({clip.split}, {found.split})")
    yield Finding("error", "the same audio in several splits", leaked)
    yield Finding("warning", "the same audio again", twice)


def _spoiled(sounds: Sequence[tuple[Clip, Sound]]) -> Iterator[Finding]:
    listened = [(clip, sound) for clip, sound in sounds if sound.listened]
    audible = [(clip, sound) for clip, sound in listened if sound.peak >= SILENT]
    speech = [(clip, sound) for clip, sound in audible if clip.kind == "speech"]
    steady = [(clip, sound) for clip, sound in audible if clip.kind != "rir"]
    clipped = [f"{clip.path}: {sound.clipped:.2%}" for clip, sound in audible if sound.clipped > CLIPPED]
    noisy = [f"{clip.path}: {sound.floor_db:.1f} dB" for clip, sound in speech if sound.floor_db < FLOOR_DB]
    offset = [f"{clip.path}: {sound.offset:.0%}" for clip, sound in steady if sound.offset > OFFSET]
    slow = [f"{clip.path}: {sound.rate} Hz" for clip, sound in sounds if sound.rate < RATE]
    yield Finding("warning", "silent", [clip.path for clip, sound in listened if sound.peak < SILENT])
    yield Finding("warning", "samples that are no numbers", [clip.path for clip, sound in listened if not sound.finite])
    yield Finding("warning", f"clipped, over {CLIPPED:.2%} of samples", clipped)
    yield Finding("warning", f"noisy speech, pauses less than {FLOOR_DB:.0f} dB down", noisy)
    yield Finding("warning", f"offset, mean over {OFFSET:.0%} of the RMS", offset)
    yield Finding("warning", f"below {RATE} Hz: no treble", slow)
    rates = Counter(sound.rate for _, sound in sounds if sound.rate > RATE)
    yield Finding("note", f"will be resampled to {RATE} Hz", [f"{n} files of {rate} Hz" for rate, n in rates.items()])
    several = Counter((sound.channels, clip.kind == "rir") for clip, sound in sounds if sound.channels > 1).items()
    lines = [f"{n} files of {many}: {'the first is' if rir else 'their mean is'} taken" for (many, rir), n in several]
    yield Finding("note", "of several channels", lines)


def _missing(clips: Sequence[Clip]) -> Iterator[Finding]:
    there = {(clip.kind, clip.split) for clip in clips}
    absent = [
        f"{kind} in {split}"
        for kind in ("speech", "noise")
        for split in SPLITS
        if (kind, "train") in there and (kind, split) not in there
    ]
    yield Finding("note", "nothing to validate on or to report", absent)
    nameless = Counter(clip.source for clip in clips if clip.kind == "speech" and not clip.speaker)
    lines = [f"{n} files of {source}" for source, n in nameless.items()]
    yield Finding("note", "speech without a speaker's name", lines)
