"""Tags of MP3: ID3v2 before the sound, APEv2 and ID3v1 behind it, copied but for the gains of the old sound."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import BinaryIO

from sbm_cli.audio.metadata.items import GAIN, MOST_BYTES, Item, splice
from sbm_cli.audio.segments import Bytes, behind_id3

_FRAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "date": "TDRC",
    "genre": "TCON",
    "tracknumber": "TRCK",
    "copyright": "TCOP",
    "comment": "COMM",
}
TAGS = set(_FRAMES)
_NAMES = {frame: name for name, frame in _FRAMES.items()} | {"TYER": "date"}
_NAMES |= dict(zip(("TT2", "TP1", "TAL", "TYE", "TCO", "TRK", "TCR", "COM"), _FRAMES, strict=True))  # of ID3v2.2
_ENCODINGS = dict(enumerate(("latin-1", "utf-16", "utf-16-be", "utf-8")))
_FIELDS = ("title", "artist", "album", "date", "comment")  # of ID3v1
_TOLD = {*_NAMES, "TDAT", "TSSE", "TENC", "TLEN", "TSS", "TEN", "TLE"}  # by the tags, or by the new file


def read_mp3(file: BinaryIO) -> list[Item]:
    """Return the tags of an MP3."""
    front, behind = _bounds(file)
    items = []
    for home, name, start, end in (
        ("ID3", b"ID3", 0, front),
        ("MP3", b"APE", behind[0], behind[1]),
        ("MP3", b"ID3v1", behind[1], behind[2]),
    ):
        if 0 < end - start <= MOST_BYTES:
            file.seek(start)
            items.append(Item(home, name, file.read(end - start), behind=start > 0))
    return items


def write_mp3(file: BinaryIO, items: Sequence[Item], tags: Iterable[tuple[str, str]]) -> None:
    """Give a finished MP3 tags in place of its own; without one for its beginning, one that is made of `tags`."""
    front, behind = _bounds(file)
    splice(file, behind[0], behind[2], b"".join(item.data for item in items if item.home == "MP3"))
    first = b"".join(item.data for item in items if item.home == "ID3")
    splice(file, 0, front, first or made(tags))


def made(tags: Iterable[tuple[str, str]]) -> bytes:
    """Return an ID3v2.4 tag in UTF-8, nothing for no tags."""
    frames = b""
    for name, text in tags:
        if name in _FRAMES:
            # Of a comment also the language, unknown, and what it is about, nothing.
            body = b"\3" + (b"und\0" if name == "comment" else b"") + text.encode("utf-8", "replace")
            frames += _FRAMES[name].encode() + _syncsafe(len(body)) + b"\0\0" + body
    return b"ID3\4\0\0" + _syncsafe(len(frames)) + frames if frames else b""


def texts_of_id3v1(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the texts of a tag of 128 bytes."""
    for name, field in zip(_FIELDS, struct.unpack("3x30s30s30s4s30sx", data), strict=True):
        yield name, field.partition(b"\0")[0].rstrip()


def frames(data: bytes) -> list[str]:
    """Return the names of what an ID3v2 tag holds beyond what every container's tags can tell."""
    if data[5:6] != b"\0" and data[3:4] == b"\2":
        return ["ID3"]
    names = islice((name for name, _, _ in _frames(data) if name not in _TOLD), 100)
    return ["cover picture" if name in ("APIC", "PIC") else name for name in names]


def texts(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield what an ID3v2 tag holds that the tags of other containers can tell."""
    for frame, body, _ in _frames(data):
        name, encoding = _NAMES.get(frame), _ENCODINGS.get(int.from_bytes(body[:1], "big"))
        if name and encoding:
            start = 4 if name == "comment" else 1  # behind its language
            first, *rest = (part.strip("\ufeff") for part in body[start:].decode(encoding, "replace").split("\0"))
            if name != "comment":
                yield name, first
            elif rest and not first:  # which says what a comment is about: the notes of programs
                yield name, rest[0]


def without_gains(data: bytes) -> bytes:
    """Return an ID3v2 tag, as long as it is, without what players turn the sound up or down by."""
    if data[5:6] != b"\0":
        return data
    kept, end = bytearray(data[:10]), 10
    for name, body, frame in _frames(data):
        end = frame.stop
        has_text = name[:3] in ("TXX", "COM")
        if not (name in ("RVA2", "RVAD", "RVA") or (has_text and GAIN.search(body.replace(b"\0", b"")))):
            kept += data[frame]
    return bytes(kept + data[end:]).ljust(len(data), b"\0")


def ape_without_gains(data: bytes) -> bytes:
    """Return an APEv2 tag without what players turn the sound up or down by, nothing if nothing is left."""
    if not GAIN.search(data):
        return data
    head, foot = data[: 32 * data.startswith(b"APETAGEX")], data[-32:]
    kept = list[bytes]()
    place, end = len(head), len(data) - len(foot)
    while place < end:
        key = data.find(b"\0", place + 8)
        following = key + 1 + int.from_bytes(data[place : place + 4], "little")
        if not place + 8 <= key < following <= end:  # not to be taken apart
            return b""
        if not GAIN.match(data[place + 8 : key]):
            kept.append(data[place:following])
        place = following
    items = b"".join(kept)
    counted = struct.pack("<II", len(items) + len(foot), len(kept))
    head, foot = (part and part[:12] + counted + part[20:] for part in (head, foot))
    return head + items + foot if kept else b""


def _frames(data: bytes) -> Iterator[tuple[str, bytes, slice]]:
    """Yield name, body and place of the frames of an ID3v2 tag."""
    size, long = (3, 6) if data[3:4] == b"\2" else (4, 10)
    place = 10
    while place + long <= len(data) and data[place]:
        name, length = data[place : place + size].decode("latin-1"), data[place + size : place + 2 * size]
        end = place + long + (_number(length) if data[3:4] == b"\4" else int.from_bytes(length, "big"))
        yield name, data[place + long : end], slice(place, min(end, len(data)))
        place = end


def _bounds(file: BinaryIO) -> tuple[int, tuple[int, int, int]]:
    """Return where the tags at the beginning end, and where APEv2 and ID3v1 at the end begin, and the file ends."""
    bytes_ = Bytes(file)
    front = min(behind_id3(bytes_), bytes_.size)
    last = bytes_.size - 128
    first = ape = last if last >= front and bytes_.read(last, 3) == b"TAG" else bytes_.size
    footer = bytes_.read(ape - 32, 32) if ape - 32 >= front else b""
    if footer[:8] == b"APETAGEX":
        size, _, flags = struct.unpack("<III", footer[12:24])
        begin = ape - size - (32 if flags & 2**31 else 0)
        first = begin if begin >= front else ape
    return front, (first, ape, bytes_.size)


def _syncsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def _number(syncsafe: bytes) -> int:
    number = 0
    for byte in syncsafe:
        number = number << 7 | byte & 127
    return number
