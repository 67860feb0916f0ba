"""Speech, noise and room responses: read from manifests or folders, decoded once into one memory-mapped file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sbm_cli.atomic import replacing, write_atomically
from sbm_cli.audio.samples import Samples
from sbm_cli.data.manifest import KINDS, RATE, Clip, name_rank, read_manifest, report_set, set_aside
from sbm_cli.errors import AudioError, ConfigError
from sbm_cli.hardware import cores

LEVEL_DBFS = -26.0  # active RMS that `Corpus.clip` gives speech and noise
CACHE_VERSION = 1  # raise it when decoding, trimming or levels change
FRAME = 320  # 20 ms
T = TypeVar("T")
R = TypeVar("R")


class Corpus:
    """Decoded recordings, each read as float32 [samples] at 16 kHz; speech and noise at -26 dBFS active RMS."""

    def __init__(self, clips: Sequence[Clip], store: NDArray[np.int16]) -> None:
        self.clips = tuple(clips)
        self.store = store  # int16, all recordings one after the other

    def clip(self, index: int) -> Samples:
        """Read a recording: float32 [samples]."""
        entry = self.clips[index]
        stored = self.store[entry.start : entry.start + entry.samples]
        return np.multiply(stored, np.float32(entry.gain), dtype=np.float32)

    def where(self, kind: str, split: str) -> list[int]:
        """List the recordings of a kind ("speech", "noise", "rir") in a split ("train", "valid", "report")."""
        return [i for i, clip in enumerate(self.clips) if clip.kind == kind and clip.split == split]


def open_corpus(
    cache: Path,
    manifests: Sequence[Path] = (),
    speech: Sequence[Path] = (),
    noise: Sequence[Path] = (),
    rir: Sequence[Path] = (),
    speeds: Sequence[float] = (),
    progress: Callable[[int, int], object] = lambda done, total: None,
    few: int | None = None,
) -> Corpus:
    """Open the recordings of manifests and of plain folders, decoding them into `cache` at the first time.

    manifests: CSV files with the columns `COLUMNS` (path and kind are enough), paths relative to the manifest.
    speech, noise, rir: folders of `sound_files`; 5 % of them are `valid`, one at least of several, the rest `train`.
        The folders in a folder of speech are its speakers.
    speeds: the speech of `train` is there at these speeds as well, as other voices: higher and faster above 1.
    cache: needs 115 MB per hour of audio. progress is called with (files done, files in all).
    few: open only so many of each kind, split and source, to try.

    Raises ConfigError for a manifest that does not hold together or a folder without audio, AudioError for a
    file that is missing or cannot be decoded.
    """
    clips = find_clips(manifests, speech, noise, rir)
    if few is not None:
        nth = defaultdict[tuple[str, str, str], Iterator[int]](itertools.count)
        clips = [clip for clip in clips if next(nth[clip.kind, clip.split, clip.source]) < few]
    voices = [clip for clip in clips if clip.kind == "speech" and clip.split == "train"]
    clips += [
        replace(clip, speed=speed, speaker=f"{clip.speaker or clip.source}@{speed}", group=f"{clip.group}@{speed}")
        for speed in speeds
        for clip in voices
    ]
    digest = hashlib.sha256(f"corpus {CACHE_VERSION}".encode())
    for clip in clips:
        stat = os.stat(clip.path)
        digest.update(f"{clip}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())

    def decode() -> Iterator[tuple[Mapping[str, object], NDArray[np.int16]]]:
        for clip, (audio, gain) in zip(clips, in_threads(_decode, clips, progress, 64), strict=True):
            yield asdict(replace(clip, gain=gain)), audio

    records, store = cached_store(cache, f"corpus-{digest.hexdigest()[:16]}", decode)
    found = [Clip(**record) for record in records]  # type: ignore[arg-type]
    return Corpus([clip for clip in found if clip.samples], store)  # the others have no signal


def find_clips(
    manifests: Sequence[Path] = (), speech: Sequence[Path] = (), noise: Sequence[Path] = (), rir: Sequence[Path] = ()
) -> list[Clip]:
    """Return the recordings that `open_corpus` opens; nothing is decoded. Raises what it raises for paths."""
    clips = [clip for manifest in manifests for clip in read_manifest(Path(manifest))]
    for kind, folders in zip(KINDS, (speech, noise, rir), strict=True):
        clips += [clip for folder in folders for clip in _read_folder(Path(folder), kind)]
    if not clips:
        raise ConfigError("no training data was named", "Give a manifest, or folders of speech and of noise.")
    report = report_set()
    return [set_aside(clip, report) for clip in clips]


def lengths(clips: Sequence[Clip], progress: Callable[[int, int], object], broken: float | None = None) -> list[float]:
    """Return the seconds of recordings, by their headers.

    Of one that cannot be read they are `broken`, or AudioError is raised.
    """
    import soundfile

    from sbm_cli.audio.io import read_format

    def length(clip: Clip) -> float:
        with suppress(soundfile.LibsndfileError):
            return float(soundfile.info(clip.path).duration)
        try:
            return read_format(clip.path).seconds
        except AudioError:
            if broken is None:
                raise
            return broken

    return list(in_threads(length, clips, progress))


def in_threads(
    do: Callable[[T], R], items: Sequence[T], progress: Callable[[int, int], object], together: int = 1024
) -> Iterator[R]:
    """Yield `do(item)` of all items in order, so many together: those of a large corpus must not pile up in memory.

    progress is called with (items done, items in all).
    """
    with ThreadPoolExecutor(min(32, cores() + 4)) as pool:  # more than cores: they wait for the disk, too
        for first in range(0, len(items), together):
            yield from pool.map(do, items[first : first + together])
            progress(min(first + together, len(items)), len(items))


def none_error(kind: str, split: str, least_snr_db: float = 0.0) -> ConfigError:
    bound = f" whose snr_db is empty or at least {least_snr_db:g}" if kind == "speech" and least_snr_db else ""
    return ConfigError(f"no {kind}{bound} in the {split} split", f"Add {kind} to the manifest, or a folder of it.")


def cached_store(
    folder: Path, name: str, make: Callable[[], Iterable[tuple[Mapping[str, object], NDArray[np.int16]]]]
) -> tuple[list[dict[str, object]], NDArray[np.int16]]:
    """Open NAME.i16 (all samples) with NAME.json (one record per array, start and samples added), made if absent.

    Both are written under a temporary name; the index is renamed last and states the size of the samples, so a
    half-written cache is never used. Two processes may build the same cache at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store_path, index_path = folder / f"{name}.i16", folder / f"{name}.json"
    if not _complete(store_path, index_path):
        records: list[dict[str, object]] = []
        total = 0
        with replacing(store_path) as part, part.open("wb") as file:
            for record, audio in make():
                records.append({**record, "start": total, "samples": len(audio)})
                total += len(audio)
                file.write(audio.astype("<i2").tobytes())
        write_atomically(index_path, json.dumps({"total": total, "records": records}).encode())
    found = json.loads(index_path.read_text(encoding="utf-8"))
    empty = np.zeros(0, np.int16)
    # mode "c": private to the process, and writable, as torch wants its arrays
    return found["records"], np.asarray(np.memmap(store_path, "<i2", mode="c")) if found["total"] else empty


def active_power(audio: Samples) -> float:
    """Return the mean power of the active 20-ms frames: those within 30 dB of the loud ones (95th percentile).

    Silence gives 0.
    """
    whole = len(audio) // FRAME * FRAME
    if not whole:
        return float(np.mean(audio**2)) if len(audio) else 0.0
    frames = audio[:whole].reshape(-1, FRAME)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME
    loud = float(np.partition(power, int(0.95 * (len(power) - 1)))[int(0.95 * (len(power) - 1))]) or float(power.max())
    return float(power[power >= loud * 1e-3].mean()) if loud > 0 else 0.0


def _complete(store_path: Path, index_path: Path) -> bool:
    try:
        total = json.loads(index_path.read_text(encoding="utf-8"))["total"]
        return bool(store_path.stat().st_size == 2 * total)
    except (OSError, ValueError, KeyError):
        return False


def _read_folder(folder: Path, kind: str) -> list[Clip]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: not a folder", f"Give a folder with {kind} recordings.")
    paths = sorted(sound_files(folder))
    if not paths:
        raise ConfigError(f"{folder}: no audio in it", "Give a folder of sound files, as `sbm batch` takes it.")
    names = [path.relative_to(folder) for path in paths]
    ranks = [name_rank(name.as_posix()) for name in names]
    bound = max(0.05, min(ranks)) if len(ranks) > 1 else 0.0  # at least one file to validate on
    speakers = [str(folder / name.parts[0]) if kind == "speech" and len(name.parts) > 1 else "" for name in names]
    return [
        Clip(str(path), kind, folder.name, speaker, str(path), "valid" if rank <= bound else "train")
        for path, speaker, rank in zip(paths, speakers, ranks, strict=True)
    ]


def sound_files(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder by their suffix, through links as well, but for hidden ones.

    macOS keeps notes in ._name.wav beside name.wav.
    """
    from sbm_cli.audio.format import SUFFIXES

    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder around it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and path.is_file():
                yield path


def decode_mono(clip: Clip) -> Samples:
    """Read a recording as it is, at the clip's speed: one channel at 16 kHz, float32 [samples].

    Raises AudioError if it cannot be decoded.
    """
    import soundfile
    import soxr

    from sbm_cli.audio.io import SoundReader

    try:  # whole files: a partial read of Opus differs by up to 0.001
        audio, rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        with SoundReader(clip.path, replace_nan=True) as reader:
            blocks = [np.zeros((reader.format.channels, 0), np.float32), *reader.blocks(2**20)]
            audio, rate = np.concatenate(blocks, axis=1).T, reader.format.rate
    mono = audio[:, 0] if clip.kind == "rir" else audio.mean(axis=1, dtype=np.float32)  # summed responses would comb
    mono = np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
    if rate != RATE or clip.speed != 1:
        mono = soxr.resample(mono, rate * clip.speed, RATE, quality="HQ")
    return mono


def _decode(clip: Clip) -> tuple[NDArray[np.int16], float]:
    """Return a recording as int16 with its peak at full scale, and the gain that restores its level."""
    mono = decode_mono(clip)
    if clip.kind == "noise":  # ESC clips are padded with digital silence
        loud = np.flatnonzero(np.abs(mono) > 1e-4)
        mono = mono[loud[0] : loud[-1] + 1] if len(loud) else mono[:0]
    peak = float(np.abs(mono).max(initial=0.0))
    if peak < 1e-6:
        return np.zeros(0, np.int16), 0.0
    level = active_power(mono) ** 0.5 if clip.kind != "rir" else 1.0
    scale = 1.0 if clip.kind == "rir" else 10 ** (LEVEL_DBFS / 20) / level
    return np.round(mono * (32767 / peak)).astype(np.int16), peak / 32767 * scale
