"""Where the streams of a file begin and end: those that were joined, what stands behind them, what was cut off.

Demuxers stop, or go on wrongly, where a second stream begins. So files that may be joined are cut here first, by the
headers of their pages and frames, and each part is read as a file of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_CHUNK = 2**18  # bytes read at a time
_MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
_MPEG_KBPS = {  # by whether it is MPEG-1, and the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Part:
    """A stream of its own in the bytes from start to end.

    missing: seconds of sound that its headers promise and that are not there. seconds, 0 if unknown: what they promise.
    variable: whether its frames differ in their bit rate. samples: where it ends, if decoders cannot tell.
    """

    start: int
    end: int
    missing: float = 0.0
    seconds: float = 0.0
    variable: bool = False
    samples: int | None = None


@dataclass(frozen=True)
class Parts:
    """The streams of a file in their order; strange: bytes between and behind them that are no tag."""

    streams: tuple[Part, ...]
    strange: int = 0


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


def ogg_parts(file: BinaryIO) -> Parts:
    """Cut a chained Ogg into its links: each begins with pages that say so, after pages that do not."""
    bytes_ = _Bytes(file)
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
    parts = []
    for index, (start, end) in enumerate(links):
        # Of Vorbis on one page FFmpeg cuts the end at the wrong place, or not at all.
        is_short = pages[index] == 1 and bytes_.read(start + 28, 7) == b"\1vorbis"
        samples = round(lengths[index] * _ogg_rate(bytes_, links[: index + 1])) if is_short else None
        short = missing if index == len(links) - 1 else 0.0
        parts.append(Part(start, end, short, lengths[index], samples=samples))
    return Parts(tuple(parts), strange)


def _ogg_rate(file: _Bytes, links: list[list[int]]) -> int:
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


def mpeg_parts(file: BinaryIO) -> Parts:
    """Cut joined MPEG audio (MP3, MP2) where a frame says, as the first of an encoder's, how many follow."""
    bytes_ = _Bytes(file)
    parts: list[Part] = []
    place = strange = 0
    start, frames, seconds, kbps = -1, 0, 0.0, set[int]()
    promised: tuple[int, int] | None = None

    def close(end: int) -> None:
        nonlocal start, frames, seconds, kbps, promised
        if start >= 0:
            missing = 0.0
            if promised and frames and promised[0] > frames + 1 and (not promised[1] or promised[1] > end - start):
                missing = (promised[0] - frames) * seconds / frames
            parts.append(Part(start, end, missing, seconds, len(kbps) > 1))
        start, frames, seconds, kbps, promised = -1, 0, 0.0, set(), None

    end = 0
    while place < bytes_.size:
        frame = _mpeg_frame(bytes_.read(place, 4))
        if frame and (start >= 0 or frames or _follows(bytes_, place, frame)):
            told = _mpeg_count(bytes_.read(place, min(frame.length, 200)))
            if told is not None:
                close(end)
            if start < 0:
                start = place if parts or strange else 0  # with the tags
            if told is not None:
                promised = told
            elif place + frame.length <= bytes_.size:
                frames, seconds = frames + 1, seconds + frame.seconds
                kbps.add(frame.kbps)
            place += frame.length
            end = min(place, bytes_.size)
            if bytes_.size - end == 128 and bytes_.read(end, 3) == b"TAG":
                end = bytes_.size
        elif tag := _tag_length(bytes_, place):
            place += tag
        else:
            found = _next_frame(bytes_, place + 1)
            if not bytes_.are_zero(place, found):
                strange += max(0, found - place - _items_before(bytes_, found))
            place = found
    close(end)
    return Parts(tuple(parts), strange)


@dataclass(frozen=True)
class _Frame:
    length: int
    seconds: float
    kbps: int


def _mpeg_frame(head: bytes) -> _Frame | None:
    """Read the header of a frame of MPEG audio, None if it is none, or of a free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rates, bits = _MPEG_RATES.get(version), head[2] >> 4
    if rates is None or layer == 4 or bits in (0, 15) or (rate := head[2] >> 2 & 3) == 3:
        return None
    kbps, padding = _MPEG_KBPS[version == 3, layer][bits - 1], head[2] >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    if layer == 1:
        length = (12000 * kbps // rates[rate] + padding) * 4
    else:
        length = samples // 8 * 1000 * kbps // rates[rate] + padding
    return _Frame(length, samples / rates[rate], kbps)


def _mpeg_count(frame: bytes) -> tuple[int, int] | None:
    """Return how many frames and bytes follow by what the encoder left in a first frame, None if it is no such one."""
    for magic, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        found = frame.find(magic, 4, 44)
        if found < 0 or any(frame[6:found]):  # but for a checksum, zeros stand before it
            continue
        if magic == b"VBRI":
            size, count = (int.from_bytes(frame[found + at : found + at + 4], "big") for at in (10, 14))
            return count, size
        flags, place = frame[found + 7], found + 8
        count = int.from_bytes(frame[place : place + 4], "big") if flags & 1 else 0
        place += 4 * (flags & 1)
        return count, int.from_bytes(frame[place : place + 4], "big") if flags & 2 else 0
    return None


def _follows(file: _Bytes, place: int, frame: _Frame) -> bool:
    """Whether a frame is followed by another one, a tag, or nothing: chance looks like a first header."""
    after = place + frame.length
    return after >= file.size or _mpeg_frame(file.read(after, 4)) is not None or _tag_length(file, after) > 0


def _next_frame(file: _Bytes, place: int) -> int:
    """Return where the next frame or tag begins, or the file ends."""
    while place < file.size:
        block = file.read(place, _CHUNK)
        for index in _candidates(block):
            frame = _mpeg_frame(block[index : index + 4] if index + 4 <= len(block) else file.read(place + index, 4))
            if (frame and _follows(file, place + index, frame)) or _tag_length(file, place + index):
                return place + index
        place += len(block)
    return file.size


def _candidates(block: bytes) -> Iterator[int]:
    places = set()
    for mark in (b"\xff", b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN"):
        found = block.find(mark)
        while found >= 0:
            places.add(found)
            found = block.find(mark, found + 1)
    return iter(sorted(places))


def _tag_length(file: _Bytes, place: int) -> int:
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


def _items_before(file: _Bytes, place: int) -> int:
    """Return how many bytes of a tag stand before its footer: the first APE tags had no header."""
    head = file.read(place, 32)
    is_footer = head[:8] == b"APETAGEX" and len(head) == 32 and not head[23] & 0x20
    return int.from_bytes(head[12:16], "little") - 32 if is_footer else 0


def next_flac(file: BinaryIO, place: int) -> int | None:
    """Return where a FLAC begins at `place` or behind it, None if there is no more."""
    bytes_ = _Bytes(file)
    found = min(bytes_.find(b"fLaC" + last + b"\0\0\x22", place) for last in (b"\0", b"\x80"))
    return found if found < bytes_.size else None


def sniff(file: BinaryIO) -> bytes:
    """Return the first bytes of a file behind its ID3 tags."""
    bytes_ = _Bytes(file)
    place = 0
    while bytes_.read(place, 3) == b"ID3" and (tag := _tag_length(bytes_, place)):
        place += tag
    while place and bytes_.read(place, 1) == b"\0":  # padding that the tag does not count
        place += 1
    return bytes_.read(place, 64)


def cut_short(file: BinaryIO) -> int:
    """Return how many bytes are missing from an MP4, Matroska, RIFF or CAF file by the sizes of its outermost boxes."""
    bytes_ = _Bytes(file)
    head = bytes_.read(0, 12)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        return max(0, size + 8 - bytes_.size) if size < 2**31 - 2**16 else 0  # larger ones come from pipes
    if head[:4] == b"caff":
        place = 8
        while 0 <= place < bytes_.size:
            place += 12 + int.from_bytes(bytes_.read(place + 4, 8), "big", signed=True)  # -1: to the end
        return max(0, place - bytes_.size)
    if head[:4] == b"\x1aE\xdf\xa3":
        place = 4 + sum(_ebml_size(bytes_.read(4, 8)))
        size, length = _ebml_size(bytes_.read(place + 4, 8))
        unknown = size == 2 ** (7 * length) - 1
        is_segment = bytes_.read(place, 4) == b"\x18S\x80g"
        return max(0, place + 4 + length + size - bytes_.size) if is_segment and not unknown else 0
    place = 0
    while head[4:8] in _BOXES and place < bytes_.size:
        head = bytes_.read(place, 16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size or bytes_.size - place
        if size < 8:
            return 0
        place += size
        head = bytes_.read(place, 8)
    return max(0, place - bytes_.size)


_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"uuid", b"styp", b"sidx", b"mfra", b"meta"}


def _ebml_size(data: bytes) -> tuple[int, int]:
    """Return a size of Matroska and how many bytes it takes."""
    length = 9 - data[0].bit_length() if data and data[0] else 1
    return int.from_bytes(data[:length], "big") & (2 ** (7 * length) - 1), length


class _Bytes:
    """Random access to a file by large blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = _size(file)
        self._start, self._block = 0, b""

    def read(self, place: int, count: int) -> bytes:
        if not self._start <= place <= place + count <= self._start + len(self._block):
            self._file.seek(place)
            self._start, self._block = place, self._file.read(max(_CHUNK, count)) or b""
        return self._block[place - self._start : place - self._start + count]

    def find(self, pattern: bytes, place: int) -> int:
        """Return where a pattern comes next, the size of the file if it does not."""
        while place < self.size:
            block = self.read(place, _CHUNK)
            found = block.find(pattern)
            if found >= 0:
                return place + found
            place += max(1, len(block) - len(pattern) + 1)
        return self.size

    def are_zero(self, start: int, end: int) -> bool:
        while start < end:
            block = self.read(start, min(_CHUNK, end - start))
            if not block or any(block):
                return not block
            start += len(block)
        return True


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)
