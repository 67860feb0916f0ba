"""Comments and pictures of FLAC and Ogg: the same KEY=value in both, but FLAC has blocks of their own for pictures."""

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from sbm_cli.audio.metadata.items import MOST_BYTES, MOST_ITEMS, Item, splice

PICTURE = b"METADATA_BLOCK_PICTURE"
_STREAMINFO, _PADDING, _APPLICATION, _SEEKTABLE, _COMMENT, _CUESHEET, _PICTURE = range(7)
_NAMES = {_APPLICATION: b"APPLICATION", _CUESHEET: b"CUESHEET"}
_LARGEST = 2**24 - 1  # bytes of a block of FLAC
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Codec(NamedTuple):
    """What the second packet, that of the comments, begins with, and how many bytes that are; how it ends."""

    begin: bytes
    skip: int
    packets: int  # of headers
    end: bytes = b""
    written: bool = True


_CODECS = {
    b"\x01vorbis": _Codec(b"\x03vorbis", 7, 3, b"\x01"),
    b"OpusHead": _Codec(b"OpusTags", 8, 2),
    b"\x7fFLAC": _Codec(b"", 4, 2, written=False),
    b"Speex   ": _Codec(b"", 0, 2, written=False),
}


def read_flac(file: BinaryIO) -> list[Item]:
    """Return what the blocks before the sound hold."""
    items = []
    for kind, data in _blocks(file):
        if kind == _COMMENT:
            items += _entries(data)
        elif kind == _PICTURE:
            items.append(Item("VORBIS", PICTURE, PICTURE + b"=" + base64.b64encode(data)))
        elif kind in _NAMES:
            items.append(Item("FLAC", _NAMES[kind], data))
    return items


def write_flac(file: BinaryIO, items: Sequence[Item]) -> bool:
    """Give a finished FLAC comments, pictures and other blocks in place of its own; return whether they have room."""
    blocks = list(_blocks(file))
    start = 4 + sum(4 + len(data) for _, data in blocks)
    kept = [block for block in blocks if block[0] in (_STREAMINFO, _SEEKTABLE)]
    vendor = next((_vendor(data) for kind, data in blocks if kind == _COMMENT), b"")
    entries = []
    for item in items:
        picture = _picture(item)
        if picture is not None:
            kept.append((_PICTURE, picture))
        elif item.home == "VORBIS":
            entries.append(item.data)
        else:
            kept.append((next(kind for kind, name in _NAMES.items() if name == item.name), item.data))
    kept.append((_COMMENT, _comments(vendor, entries)))
    if max(len(data) for _, data in kept) > _LARGEST:
        return False
    head = b"fLaC"
    for number, (kind, data) in enumerate(kept):
        last = 0x80 if number == len(kept) - 1 else 0
        head += bytes([last | kind]) + len(data).to_bytes(3, "big") + data
    splice(file, 0, start, head)
    return True


def read_ogg(file: BinaryIO) -> list[Item]:
    """Return the comments of the first stream."""
    opened = _headers(file)
    return _entries(opened.packets[1][opened.codec.skip :]) if opened else []


def write_ogg(file: BinaryIO, items: Sequence[Item]) -> bool:
    """Give a finished Ogg comments in place of its own; False if it is none of Vorbis or Opus."""
    opened = _headers(file)
    if opened is None or not opened.codec.written or not opened.whole:
        return False
    begin, skip, _, end, _ = opened.codec
    comments = begin + _comments(_vendor(opened.packets[1][skip:]), [item.data for item in items]) + end
    pages = _paged([comments, *opened.packets[2:]], opened.serial)
    splice(file, opened.first, opened.end, b"".join(pages))
    if len(pages) != opened.pages:  # the others have other numbers now
        for place, page in _pages(file, opened.first + sum(map(len, pages))):
            number = int.from_bytes(page[18:22], "little") + len(pages) - opened.pages
            file.seek(place)
            file.write(_sealed(page[:18] + number.to_bytes(4, "little") + page[22:]))
    return True


def fits(item: Item, home: str) -> bool:
    """Whether a comment can be one of a FLAC or an Ogg: a block of FLAC ends at 16 MiB."""
    return home != "FLAC" or len(_picture(item) or item.data) <= _LARGEST


def _picture(item: Item) -> bytes | None:
    """Return the block that a comment stands for, if it is a picture."""
    if item.home != "VORBIS" or item.name.upper() != PICTURE:
        return None
    try:
        return base64.b64decode(item.data.partition(b"=")[2], validate=True)
    except binascii.Error:
        return None


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    file.seek(0)
    if file.read(4) != b"fLaC":
        return
    left = MOST_BYTES
    for _ in range(MOST_ITEMS):
        head = file.read(4)
        size = int.from_bytes(head[1:], "big")
        data = file.read(size)
        left -= size + 4
        if len(head) < 4 or len(data) < size or left < 0:
            return
        yield head[0] & 0x7F, data
        if head[0] & 0x80:  # the last one
            return


def _vendor(comments: bytes) -> bytes:
    return comments[4 : 4 + int.from_bytes(comments[:4], "little")]


def _entries(comments: bytes) -> list[Item]:
    place = 4 + int.from_bytes(comments[:4], "little")
    count = int.from_bytes(comments[place : place + 4], "little")
    items: list[Item] = []
    place += 4
    while len(items) < min(count, MOST_ITEMS) and place + 4 <= len(comments):
        size = int.from_bytes(comments[place : place + 4], "little")
        entry = comments[place + 4 : place + 4 + size]
        if len(entry) < size:
            break
        items.append(Item("VORBIS", entry.partition(b"=")[0], entry))
        place += 4 + size
    return items


def _comments(vendor: bytes, entries: Sequence[bytes]) -> bytes:
    data = len(vendor).to_bytes(4, "little") + vendor + len(entries).to_bytes(4, "little")
    return data + b"".join(len(entry).to_bytes(4, "little") + entry for entry in entries)


@dataclass(frozen=True)
class _Headers:
    """The packets before the sound, and the pages behind the first one that they stand on: from `first` to `end`.

    whole: they have those pages for themselves.
    """

    codec: _Codec
    packets: list[bytes]
    whole: bool
    serial: bytes
    first: int
    end: int
    pages: int


def _headers(file: BinaryIO) -> _Headers | None:
    packets: list[bytes] = []
    open_packet, left, first, codec, serial = bytearray(), MOST_BYTES, 0, None, b""
    for number, (place, page) in enumerate(_pages(file, 0)):
        left -= len(page)
        if left < 0 or (number and page[14:18] != serial):  # several streams side by side are more than sound
            return None
        serial = page[14:18]
        body = 27 + page[26]
        for size in page[27:body]:
            open_packet += page[body : body + size]
            body += size
            if size < 255:
                packets.append(bytes(open_packet))
                open_packet.clear()
        if number == 0:
            first = place + len(page)
            codec = next((found for begin, found in _CODECS.items() if packets and packets[0].startswith(begin)), None)
            if codec is None:
                return None
        elif codec is not None and len(packets) >= codec.packets:
            if not packets[1].startswith(codec.begin):
                return None
            whole = len(packets) == codec.packets and not open_packet
            return _Headers(codec, packets, whole, serial, first, place + len(page), number)
    return None


def _pages(file: BinaryIO, place: int) -> Iterator[tuple[int, bytes]]:
    while True:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        sizes = file.read(head[26])
        page = head + sizes + file.read(sum(sizes))
        yield place, page
        place += len(page)


def _paged(packets: Sequence[bytes], serial: bytes) -> list[bytes]:
    """Return the pages of packets of headers, the first of which is the file's second."""
    segments: list[tuple[bytes, bool]] = []  # and whether each goes on a packet
    for packet in packets:
        segments += [(packet[place : place + 255], place > 0) for place in range(0, len(packet) + 1, 255)]
    pages: list[bytes] = []
    for start in range(0, len(segments), 255):
        page = segments[start : start + 255]
        ends = any(len(segment) < 255 for segment, _ in page)
        head = b"OggS\0" + bytes([page[0][1]]) + (bytes(8) if ends else b"\xff" * 8) + serial
        head += (len(pages) + 1).to_bytes(4, "little") + bytes(4) + bytes([len(page)])
        sizes = bytes(len(segment) for segment, _ in page)
        pages.append(_sealed(head + sizes + b"".join(segment for segment, _ in page)))
    return pages


def _sealed(page: bytes) -> bytes:
    """Return a page with its checksum: a CRC-32 from the first bit on, where zlib's goes from the last."""
    bare = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(bare.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return bare[:22] + mirrored.to_bytes(4, "big").translate(_REVERSED) + bare[26:]
