"""The sound of a long MP4. FFmpeg's index takes 36 bytes a packet, and twice that on opening: 120 MB for ten hours.

So FFmpeg is shown a file whose tables end early, and what follows is read here, by the same tables.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.ffmpeg import av
from sbm_cli.audio.segments import Bytes, Window
from sbm_cli.audio.truncation import BOXES

_SHOWN = 2**14  # packets, at least
_ENTRIES = 2**14  # of a table that are read at a time
_LEAST = 8  # bytes of packets that are all of one size
_SIGNED = 2**31  # numbers from here on are negative to some readers
_WHOLE = {"aac", "alac", "amr_nb", "amr_wb", "flac", "opus"}  # codecs whose packets FFmpeg leaves as they are stored


def shortened(file: Window) -> Window:
    """Return a file, as a `LongSound` if it is an MP4 with one long track of sound that plays in one piece."""
    track = _only_sound(cast(BinaryIO, file))
    shown = track and track.plain() and track.shown()
    return LongSound(file, track, *shown) if track and shown else file


class LongSound(Window):
    """A file in which the sound of an MP4 ends after its first packets; `rest` yields the others."""

    def __init__(self, file: Window, track: _Track, packets: int, chunks: int, runs: int) -> None:
        super().__init__(cast(BinaryIO, file))
        self._track, self._shown = track, packets
        counts = {track.sizes.place: packets, track.chunks.place: chunks, track.runs.place: runs}
        self._counts = {place: count.to_bytes(4, "big") for place, count in counts.items()}

    def read(self, size: int = -1) -> bytes:
        start, data = self.tell(), super().read(size)
        for place, count in self._counts.items():
            if -4 < place - start < len(data):
                padded = bytearray(4) + data + bytes(4)
                padded[place - start + 4 : place - start + 8] = count
                data = bytes(padded[4:-4])
        return data

    def tells_packets(self, opened: Any) -> bool:
        """Whether FFmpeg, which has opened this, gives out packets as they are stored: it cuts some anew."""
        context = opened.streams.audio[0].codec_context if opened.streams.audio else None
        return context is not None and context.codec.canonical_name in _WHOLE

    @property
    def bit_rate(self) -> int:
        """The mean over all packets, which FFmpeg cannot tell."""
        size, end = 0, 1
        for _, packet, time, duration in self._track.packets():
            size, end = size + packet, time + duration
        return 8 * size * self._track.clock // end

    def rest(self, last: Any) -> Iterator[Any]:
        """Yield the packets behind the last that FFmpeg has read, as far as they are there."""
        data, late = Bytes(self._track.file), 0
        for number, (place, size, time, duration) in enumerate(self._track.packets(), 1):
            if number <= self._shown:
                late = last.pts - time
                continue
            if time >= self._track.end or place >= data.size:
                return
            packet = av.Packet(data.read(place, size))
            packet.pts = packet.dts = time + late
            packet.duration, packet.time_base = duration, last.time_base
            yield packet


@dataclass(frozen=True)
class _Track:
    """A track by its tables: sizes of packets, places of chunks, how many packets these hold, how long those last.

    size: of every packet, 0 if they differ. clock: Hz. start, end: between which it plays.
    """

    file: BinaryIO
    size: int
    sizes: _Table
    chunks: _Table
    runs: _Table
    durations: _Table
    clock: int
    start: int
    end: float

    def plain(self) -> bool:
        """Whether the tables hold nothing odd, which FFmpeg knows best how to take."""
        runs = np.concatenate([np.zeros((1, 3), np.int64), *self.runs.arrays()])
        chunk, packets, _ = runs.T
        if self.size:
            sizes = _LEAST <= self.size <= self.file.seek(0, 2) / max(1, self.sizes.count)
        else:
            sizes = all(((array > 0) & (array < _SIGNED)).all() for array in self.sizes.arrays())
        return bool(
            sizes
            and 0 < self.clock < _SIGNED
            and chunk[:2].tolist() == [0, 1]
            and (np.diff(chunk) > 0).all()
            and (packets[1:] > 0).all()
            and all((array < _SIGNED).all() for array in self.durations.arrays())
        )

    def shown(self) -> tuple[int, int, int] | None:
        """Return how many packets, chunks and runs of chunks FFmpeg is shown, None if it may have all."""
        packets = 0
        for chunk, (count, run) in enumerate(self._held(), 1):
            packets += count
            if packets >= _SHOWN:
                following = next(islice(self.packets(), packets, None), None)
                begins = following is not None and following[2] > 2 * self.start  # to play in what FFmpeg is shown
                return (packets, chunk, run) if begins else None
        return None

    def packets(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield where each packet stands, its size, time and duration."""
        sizes = repeat((self.size,), self.sizes.count) if self.size else iter(self.sizes)
        durations = (duration for count, duration in self.durations for _ in range(count))
        time = duration = 0
        for (place,), (count, _) in zip(self.chunks, self._held(), strict=False):
            for (size,) in islice(sizes, count):
                duration = next(durations, duration)
                yield place, size, time, duration
                place, time = place + size, time + duration

    def _held(self) -> Iterator[tuple[int, int]]:
        """Yield of each chunk how many packets it holds, and the number of its run: of chunks that hold as many."""
        runs = iter(self.runs)
        following, count, run = next(runs, None), 0, 0
        for chunk in range(1, self.chunks.count + 1):
            if following and chunk == following[0]:
                count, run, following = following[1], run + 1, next(runs, None)
            yield count, run


@dataclass(frozen=True)
class _Table:
    """A table: where the number of its entries stands, right before them, how many there are, and what each is."""

    file: BinaryIO
    place: int
    count: int
    entry: str

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for data in self._parts():
            yield from struct.iter_unpack(self.entry, data)

    def arrays(self) -> Iterator[NDArray[np.int64]]:
        """Yield entries of 32-bit numbers, [entries, numbers]."""
        for data in self._parts():
            yield np.frombuffer(data, ">u4").reshape(-1, len(self.entry) - 1).astype(np.int64)

    def _parts(self) -> Iterator[bytes]:
        size = struct.calcsize(self.entry)
        for first in range(0, self.count, _ENTRIES):
            self.file.seek(self.place + 4 + first * size)
            data = self.file.read(size * min(_ENTRIES, self.count - first))
            yield data[: len(data) // size * size]


@dataclass(frozen=True)
class _Box:
    """The content of a box, from start to end; nothing if there is no such box."""

    file: BinaryIO
    start: int = 0
    end: int = 0

    def unpack(self, form: str, at: int) -> Any:
        """Return the first of the values that stand there, as if the file went on in zeros."""
        self.file.seek(self.start + at)
        size = struct.calcsize(form)
        return struct.unpack(form, self.file.read(size).ljust(size, b"\0"))[0]

    def table(self, at: int, entry: str) -> _Table:
        room = max(0, self.end - self.start - at - 4) // struct.calcsize(entry)
        return _Table(self.file, self.start + at, min(room, self.unpack(">I", at)), entry)

    def boxes(self) -> Iterator[tuple[bytes, _Box]]:
        place, file = self.start, self.file
        while place + 8 <= self.end:
            head = _Box(file, place)
            size, content = head.unpack(">I", 0) or self.end - place, place + 8
            if size == 1:
                size, content = head.unpack(">Q", 8), place + 16
            if place + size < content:
                return
            yield head.unpack("4s", 4), _Box(file, content, min(place + size, self.end))
            place += size

    def find(self, *names: bytes) -> _Box:
        """Return a box within boxes."""
        box = self
        for name in names:
            box = next((inner for found, inner in box.boxes() if found == name), _Box(self.file))
        return box

    def clock(self) -> int:
        """Return the clock of a header, whose first byte is its version."""
        return int(self.unpack(">I", 20 if self.unpack("B", 0) else 12))


def _only_sound(file: BinaryIO) -> _Track | None:
    """Return the track of sound of an MP4, None if there is not one alone, or one that plays in several pieces."""
    whole = _Box(file, 0, file.seek(0, 2))
    if whole.unpack("4s", 4) not in BOXES:
        return None
    movie = whole.find(b"moov")
    tracks = [box for name, box in movie.boxes() if name == b"trak"]
    sounds = [box for box in tracks if box.find(b"mdia", b"hdlr").unpack("4s", 8) == b"soun"]
    if len(sounds) != 1 or b"mvex" in dict(movie.boxes()):  # which announces fragments
        return None
    media, edits = sounds[0].find(b"mdia"), sounds[0].find(b"edts", b"elst")
    tables = dict(media.find(b"minf", b"stbl").boxes())
    places, entry = (b"co64", ">Q") if b"co64" in tables else (b"stco", ">I")
    if not tables.keys() >= {b"stsd", b"stsz", b"stsc", b"stts", places} or b"ctts" in tables:
        return None
    durations = tables[b"stts"].table(4, ">II")
    if tables[b"stsd"].unpack(">I", 4) != 1 or next(iter(durations), (0, 1))[1] == 1:  # several codecs; bare samples
        return None
    clock, start, end = media.find(b"mdhd").clock(), 0, math.inf
    if pieces := list(edits.table(4, ">QqI" if edits.unpack("B", 0) else ">IiI")) if edits.end else []:
        length, start, speed = pieces[-1]
        if start < 0 or not length or speed != 2**16 or any(begin != -1 for _, begin, _ in pieces[:-1]):
            return None
        end = start + round(length * clock / (movie.find(b"mvhd").clock() or 1))
    size = tables[b"stsz"].unpack(">I", 4)
    sizes = tables[b"stsz"].table(8, ">I")
    if size:
        sizes = replace(sizes, count=tables[b"stsz"].unpack(">I", 8))
    return _Track(
        file,
        size,
        sizes,
        tables[places].table(4, entry),
        tables[b"stsc"].table(4, ">III"),
        durations,
        clock,
        start,
        end,
    )
