"""Where the streams of a file begin and end: those that were joined, what stands behind them, what was cut off.

Demuxers stop, or go on wrongly, where a second stream begins. So files that may be joined are cut here first, by the
headers of their pages and frames, and each segment is read as a file of its own.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

CHUNK = 2**18  # bytes read at a time


@dataclass(frozen=True)
class Segment:
    """A stream of its own in the bytes from start to end.

    missing: seconds of sound that its headers promise and that are not there. seconds, 0 if unknown: what they promise.
    bit_rate: mean of its frames, 0 if unknown; variable: whether they differ in it. samples: where it ends, if FFmpeg
    would cut it elsewhere; warms_up: then, whether the first frame of its decoder is no sound.
    """

    start: int
    end: int
    missing: float = 0.0
    seconds: float = 0.0
    bit_rate: int = 0
    variable: bool = False
    samples: int | None = None
    warms_up: bool = False


class Window(io.RawIOBase):
    """The bytes from start to end of a file as a file of their own, with a place of its own to read from."""

    def __init__(self, file: BinaryIO, start: int = 0, end: int | None = None) -> None:
        self._file, self._start = file, start
        self._end = _size(file) if end is None else end
        self._place = start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        self._place = max(self._start, base + offset)
        return self.tell()

    def tell(self) -> int:
        return self._place - self._start

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._place)
        if not left:
            return b""  # FFmpeg asks for places far behind the end
        self._file.seek(self._place)
        data = self._file.read(left if size < 0 else min(size, left))
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def ogg_segments(file: BinaryIO) -> tuple[list[Segment], int]:
    """Cut a chained Ogg into its links: each begins with pages that say so, after pages that do not.

    Return them, and how many bytes between and behind them are no tag.
    """
    bytes_ = Bytes(file)
    links: list[list[int]] = []  # start, end
    place = strange = 0
    in_headers, missing = False, 0.0
    granules: dict[bytes, int] = {}
    lengths: dict[int, float] = {}  # seconds of the links
    pages: dict[int, int] = {}  # of the links, with sound that ends on them
    while place < bytes_.size:
        head = bytes_.read(place, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            if bytes_.size - place == 128 and head[:3] == b"TAG":
                break
            found = bytes_.find(b"OggS", place + 1)
            strange += found - place
            place = found
            continue
        length = 27 + head[26] + sum(bytes_.read(place + 27, head[26]))
        begins = bool(head[5] & 2)
        if begins and not in_headers:
            links.append([place, place])
            granules.clear()
        in_headers = begins
        serial, granule = head[14:18], int.from_bytes(head[6:14], "little", signed=True)
        if place + length > bytes_.size:  # what was to end on this page, and did not
            missing = max(0, granule - granules.get(serial, 0)) / _ogg_rate(bytes_, links)
        granules[serial] = max(granule, granules.get(serial, 0))
        place += length
        if links:
            links[-1][1] = min(place, bytes_.size)
            lengths[len(links) - 1] = max(granules.values()) / _ogg_rate(bytes_, links)
            pages[len(links) - 1] = pages.get(len(links) - 1, 0) + (granule > 0)
    segments: list[Segment] = []
    for index, (start, end) in enumerate(links):
        # Of Vorbis on one page FFmpeg cuts the end at the wrong place, or not at all.
        is_short = pages[index] == 1 and bytes_.read(start + 28, 7) == b"\1vorbis"
        samples = round(lengths[index] * _ogg_rate(bytes_, links[: index + 1])) if is_short else None
        short = missing if index == len(links) - 1 else 0.0
        segments.append(Segment(start, end, short, lengths[index], samples=samples, warms_up=is_short))
    return segments, strange


def _ogg_rate(file: Bytes, links: list[list[int]]) -> int:
    """Return how many granules of the last link make a second."""
    if not links:
        return 48000
    head = file.read(links[-1][0] + 28, 64)
    for magic, place in ((b"\1vorbis", 12), (b"Speex   ", 36)):
        if head.startswith(magic):
            return int.from_bytes(head[place : place + 4], "little") or 48000
    if head.startswith(b"\x7fFLAC"):
        return int.from_bytes(head[27:30], "big") >> 4 or 48000
    return 48000  # Opus, always


def caf_segments(file: BinaryIO) -> list[Segment]:
    """Return a CAF as one segment that ends where its packet table says, where its codec counts as well.

    FFmpeg's demuxer cuts what the last packet is short of, after a decoder that has cut it already.
    """
    bytes_ = Bytes(file)
    place, codec = 8, bytes_.read(28, 4)
    while codec in _COUNTING and place < bytes_.size:
        name, size = bytes_.read(place, 4), int.from_bytes(bytes_.read(place + 4, 8), "big", signed=True)
        if name == b"pakt":
            samples, priming = (int.from_bytes(bytes_.read(place + at, 8), "big") for at in (20, 28))
            return [Segment(0, bytes_.size, samples=samples)] if samples and not priming >> 32 else []
        if size < 0:
            break
        place += 12 + size
    return []


_COUNTING = {b"alac", b"flac"}  # codecs whose frames tell how many samples they hold


def tag_length(file: Bytes, place: int) -> int:
    """Return the length of the tag that begins there, 0 if none does."""
    head = file.read(place, 32)
    if head[:3] == b"ID3" and len(head) >= 10 and not any(byte & 0x80 for byte in head[6:10]):
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return size + (20 if head[5] & 0x10 else 10)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        has_items = bool(head[23] & 0x20)  # a header; else the footer of a tag whose items came before
        return int.from_bytes(head[12:16], "little") + 32 if has_items else 32
    if head[:11] == b"LYRICSBEGIN":
        end = file.find(b"LYRICS200", place)
        return end + 9 - place if end < file.size else 0
    if head[:3] == b"TAG":
        return 227 if head[:4] == b"TAG+" else 128
    return 0


def behind_id3(file: Bytes) -> int:
    """Return where the ID3 tags at the beginning of a file end."""
    place = 0
    while file.read(place, 3) == b"ID3" and (tag := tag_length(file, place)):
        place += tag
    return place


def next_flac(file: BinaryIO, place: int) -> int | None:
    """Return where a FLAC begins at `place` or behind it, None if there is no more."""
    bytes_ = Bytes(file)
    found = min(bytes_.find(b"fLaC" + last + b"\0\0\x22", place) for last in (b"\0", b"\x80"))
    return found if found < bytes_.size else None


def sniff(file: BinaryIO) -> bytes:
    """Return the first bytes of a file behind its ID3 tags."""
    bytes_ = Bytes(file)
    place = behind_id3(bytes_)
    while place and bytes_.read(place, 1) == b"\0":  # padding that the tag does not count
        place += 1
    return bytes_.read(place, 64)


class Bytes:
    """Random access to a file by large blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = _size(file)
        self._start, self._block = 0, b""

    def read(self, place: int, count: int) -> bytes:
        if not self._start <= place <= place + count <= self._start + len(self._block):
            self._file.seek(place)
            self._start, self._block = place, self._file.read(max(CHUNK, count)) or b""
        return self._block[place - self._start : place - self._start + count]

    def find(self, pattern: bytes, place: int) -> int:
        """Return where a pattern comes next, the size of the file if it does not."""
        while place < self.size:
            block = self.read(place, CHUNK)
            found = block.find(pattern)
            if found >= 0:
                return place + found
            place += max(1, len(block) - len(pattern) + 1)
        return self.size

    def are_zero(self, start: int, end: int) -> bool:
        while start < end:
            block = self.read(start, min(CHUNK, end - start))
            if not block or any(block):
                return not block
            start += len(block)
        return True


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)
