"""Packs: recordings and room responses in a few compact files, for a training that has only PyTorch and NumPy.

A pack is a folder of shards: ZIP files with 8-bit mu-law samples in blocks of bzip2 (to 0.7 of their size) and an
`index.json` that says what they are. Every shard stands for itself, and every first few of them are a sample of all.
"""

from __future__ import annotations

import bz2
import functools
import json
import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbm_cli.atomic import replacing
from sbm_cli.config import parse_json
from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip, name_rank
from sbm_cli.data.room_responses import ResponseBank, RoomResponse
from sbm_cli.errors import ConfigError
from sbm_cli.hardware import cores

PACK_VERSION = 1
LONGEST = 60 * RATE  # longer recordings are packed in parts
INDEX = "index.json"
BLOCK = 900_000  # samples; what bzip2 compresses at a time

# The continuous law of ITU-T G.711 with mu = 255, for samples whose peak is at full scale, as a corpus keeps them.
_SIZES = np.expm1(np.arange(128) / 127 * np.log(256)) / 255 * 32767
DECODED = np.round(np.concatenate([_SIZES, -_SIZES])).astype(np.int16)


_Record = tuple[dict[str, Any], NDArray[np.int16]]


@dataclass(frozen=True)
class Pack:
    """What was packed; snr_db: a recording's power over that of its coding noise, mean over the recordings."""

    shards: int
    bytes: int
    minutes: Mapping[tuple[str, str], float]  # of (kind, split)
    snr_db: float


def write_pack(
    corpus: Corpus,
    bank: ResponseBank,
    folder: Path,
    splits: Sequence[str] = ("train", "valid"),
    shard_mb: float = 50.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Pack:
    """Write speech, noise and room responses into `folder`, in shards of at most `shard_mb` MB.

    progress is called with (recordings done, recordings in all).

    Raises ConfigError if the folder holds a pack already, or there is nothing to pack.
    """
    chosen = [clip for clip in corpus.clips if clip.kind in ("speech", "noise") and clip.split in splits]
    if not chosen:
        raise ConfigError(f"no speech or noise in the splits {', '.join(splits)}", "Name other manifests or splits.")
    if _shards(folder):
        raise ConfigError(f"{folder}: holds a pack already", "Give another folder, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    minutes: defaultdict[tuple[str, str], float] = defaultdict(float)
    snrs_db: list[float] = []

    def records() -> Iterator[_Record]:
        clips = interleaved([part for clip in chosen for part in _parts(clip)])
        for done, clip in enumerate(clips, 1):
            audio = corpus.store[clip.start : clip.start + clip.samples]
            minutes[clip.kind, clip.split] += clip.minutes
            noise = audio - DECODED[encode(audio)].astype(np.float32)
            snrs_db.append(10 * math.log10(np.square(audio, dtype=np.float32).sum() / (noise @ noise + 1e-3)))
            yield asdict(replace(clip, path=Path(clip.path).name)), audio
            progress(done, len(clips))

    responses = ((one.record(), bank.store[one.start : one.start + one.samples]) for one in bank.responses)
    for kind, source in (("rooms", responses), ("clips", records())):
        number = 0
        for first in source:
            _write_shard(folder / f"{kind}-{number:03d}.zip", kind, chain([first], source), shard_mb * 1e6)
            number += 1
    paths = _shards(folder)
    return Pack(len(paths), sum(path.stat().st_size for path in paths), dict(minutes), float(np.mean(snrs_db)))


def open_pack(folder: Path) -> tuple[Corpus, ResponseBank]:
    """Return the recordings and the room responses of the shards that lie in `folder`.

    Raises ConfigError if there are none, or one is damaged or of another version.
    """
    with ThreadPoolExecutor(min(16, cores())) as pool:  # bzip2 lets the others run
        shards = [_read_shard(path, pool) for path in _shards(folder)]

    def joined(kind: str) -> tuple[list[dict[str, Any]], NDArray[np.int16]]:
        records, stores, start = [], [], 0
        for _, part, samples in (shard for shard in shards if shard[0] == kind):
            records += [{**record, "start": start + record["start"]} for record in part]
            stores.append(samples)
            start += len(samples)
        if not stores:
            raise ConfigError(
                f"{folder}: no shard of {kind} in it", f"`sbm data pack` writes them: {kind}-000.zip, ..."
            )
        return records, np.concatenate(stores)

    clips, store = joined("clips")
    rooms, room_store = joined("rooms")
    responses = sorted(map(RoomResponse.of, rooms), key=lambda response: response.place)
    return Corpus([Clip(**clip) for clip in clips], store), ResponseBank(tuple(responses), room_store)


def interleaved(clips: Sequence[Clip]) -> list[Clip]:
    """Order recordings so that every beginning of the list is a sample of all.

    Sources come at the rate at which the mixer draws them, by the square root of their minutes; in each of them
    speakers or groups take turns, and what comes of each of these first is decided by the names of the files.
    """
    sources: defaultdict[tuple[str, str, str], list[tuple[int, str, Clip]]] = defaultdict(list)
    turns: defaultdict[tuple[tuple[str, ...], str], int] = defaultdict(int)
    for clip in sorted(clips, key=lambda clip: name_rank(f"{clip.path} {clip.start}")):
        name = clip.speaker or clip.group
        source = (clip.kind, clip.split, clip.source)
        sources[source].append((turns[source, name], name, clip))
        turns[source, name] += 1
    placed = []
    for entries in sources.values():
        before, scale = 0.0, math.sqrt(sum(clip.minutes for _, _, clip in entries))
        for _, _, clip in sorted(entries, key=lambda entry: entry[:2]):
            placed.append((before / scale, clip))
            before += clip.minutes
    return [clip for _, clip in sorted(placed, key=lambda entry: entry[0])]


def encode(audio: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return the mu-law codes of samples: bit 7 the sign, the others the size."""
    return _codes()[audio.view(np.uint16)]


@functools.cache
def _codes() -> NDArray[np.uint8]:
    samples = np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.float64)
    size = np.round(np.log1p(255 * np.minimum(np.abs(samples), 32767) / 32767) / np.log(256) * 127)
    return np.asarray(size + 128 * (samples < 0), np.uint8)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zip"))


def _parts(clip: Clip) -> list[Clip]:
    """Cut a recording into equal parts of at most `LONGEST` samples."""
    edges = np.linspace(0, clip.samples, math.ceil(clip.samples / LONGEST) + 1).astype(int).tolist()
    return [replace(clip, start=clip.start + a, samples=b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _write_shard(path: Path, kind: str, source: Iterator[_Record], limit: float) -> None:
    """Take so many recordings from `source` as fit into `limit` bytes (one at least), and write them."""
    records: list[dict[str, Any]] = []
    waiting, start, blocks = bytearray(), 0, 0
    with replacing(path) as part, zipfile.ZipFile(part, "w") as file:

        def flush(least: int) -> None:
            nonlocal blocks
            while len(waiting) >= least:
                file.writestr(f"{blocks:06d}.bz2", bz2.compress(waiting[:BLOCK]))
                del waiting[:BLOCK]
                blocks += 1

        assert file.fp is not None
        # room for the recording that follows and for the index, both at their largest
        while file.fp.tell() + len(waiting) + LONGEST + 300 * len(records) < limit or not records:
            found = next(source, None)
            if found is None:
                break
            record, audio = found
            records.append({**record, "start": start, "samples": len(audio)})
            start += len(audio)
            waiting += encode(audio).tobytes()
            flush(BLOCK)
        flush(1)
        file.writestr(
            INDEX, json.dumps({"version": PACK_VERSION, "kind": kind, "records": records}), zipfile.ZIP_DEFLATED
        )


def _read_shard(path: Path, pool: ThreadPoolExecutor) -> tuple[str, list[dict[str, Any]], NDArray[np.int16]]:
    """Return what a shard holds ("clips" or "rooms"), its records and its samples."""
    try:
        with zipfile.ZipFile(path) as file:
            index = parse_json(file.read(INDEX))
            if index["version"] != PACK_VERSION:
                raise ConfigError(f"{path}: of version {index['version']}", "Pack again with this version of sbm.")
            blocks = sorted(name for name in file.namelist() if name != INDEX)
            codes = b"".join(pool.map(bz2.decompress, map(file.read, blocks)))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a whole shard of a pack ({error})", "Copy it again, or pack again.") from error
    return index["kind"], index["records"], DECODED[np.frombuffer(codes, np.uint8)]
