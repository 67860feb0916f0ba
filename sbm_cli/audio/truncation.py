"""Whether the end of a file was cut off, by the sizes that stand at its beginning."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import BinaryIO

from sbm_cli.audio.segments import Bytes

# What an MP4 or one of its kin may begin with.
BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"uuid", b"styp", b"sidx", b"mfra", b"meta"}


def cut_short(file: BinaryIO) -> int:
    """Return how many bytes are missing at the end of a file, 0 where that is not known."""
    bytes_ = Bytes(file)
    for beginning, end in _ENDS.items():
        if bytes_.read(0, len(beginning)) == beginning:
            return max(0, end(bytes_) - bytes_.size)
    return 0


# Each returns where a file of its kind is to end, 0 where that is not known.


def _riff(file: Bytes) -> int:
    size = int.from_bytes(file.read(4, 4), "little")
    return size + 8 if size < 2**31 - 2**16 else 0  # larger ones come from pipes


def _bw64(file: Bytes) -> int:
    return int.from_bytes(file.read(20, 8), "little") + 8


def _w64(file: Bytes) -> int:
    size = int.from_bytes(file.read(16, 8), "little")
    return size if size < 2**62 else 0  # as from pipes


def _caf(file: Bytes) -> int:
    place = 8
    while place < file.size:
        size = int.from_bytes(file.read(place + 4, 8), "big", signed=True)
        if size < 0:  # to the end
            return 0
        place += 12 + size
    return place


def _matroska(file: Bytes) -> int:
    place = 4 + sum(_ebml_size(file.read(4, 8)))
    size, length = _ebml_size(file.read(place + 4, 8))
    is_known = size != 2 ** (7 * length) - 1
    return place + 4 + length + size if is_known and file.read(place, 4) == b"\x18S\x80g" else 0


def _ebml_size(data: bytes) -> tuple[int, int]:
    """Return a size of Matroska and how many bytes it takes."""
    length = 9 - data[0].bit_length() if data and data[0] else 1
    return int.from_bytes(data[:length], "big") & (2 ** (7 * length) - 1), length


def _asf(file: Bytes) -> int:
    place = 0
    while place < file.size:
        size = int.from_bytes(file.read(place + 16, 8), "little")
        if size < 24:  # a live stream
            return 0
        place += size
    return place


def _flv(file: Bytes) -> int:
    _, mark, rest = file.read(0, 4096).partition(b"\0\x08filesize\0")
    size = struct.unpack(">d", rest[:8])[0] if mark and len(rest) >= 8 else 0.0
    return int(size) if math.isfinite(size) else 0


def _real(file: Bytes) -> int:
    place = 0
    while place < file.size and file.read(place, 4) in (b".RMF", b"PROP", b"CONT", b"MDPR", b"DATA"):
        size = int.from_bytes(file.read(place + 4, 4), "big")
        if size < 10:  # a live stream
            return 0
        place += size
    return place


def _voc(file: Bytes) -> int:
    place = int.from_bytes(file.read(20, 2), "little")
    while 0 < place < file.size and file.read(place, 1) not in (b"", b"\0"):
        place += 4 + int.from_bytes(file.read(place + 1, 3), "little")
    return place


def _sox(file: Bytes) -> int:
    return 4 + int.from_bytes(file.read(4, 4), "little") + 4 * int.from_bytes(file.read(8, 8), "little")


def _boxes(file: Bytes) -> int:
    place = 0
    while place < file.size and file.read(place + 4, 4) in BOXES:
        head = file.read(place, 16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size or file.size - place
        if size < 8:
            return 0
        place += size
    return place


_ENDS: dict[bytes, Callable[[Bytes], int]] = {
    b"RIFF": _riff,
    b"BW64": _bw64,
    b"riff": _w64,
    b"caff": _caf,
    b"\x1aE\xdf\xa3": _matroska,
    b"0&\xb2u": _asf,
    b"FLV\1": _flv,
    b".RMF": _real,
    b"Creative Voice File": _voc,
    b".SoX": _sox,
    b"": _boxes,
}
