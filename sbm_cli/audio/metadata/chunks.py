"""Chunks of WAV, RF64, W64, AIFF and CAF around the samples, which libsndfile does not keep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from sbm_cli.audio.metadata.id3 import ape_without_gains, without_gains
from sbm_cli.audio.metadata.items import GAIN, MOST_BYTES, MOST_ITEMS, Item, splice

_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")  # "riff", and what makes a GUID of it
# Names of what describes the samples or fills space: the new file has its own, or needs none.
_OWN = {"fmt ", "data", "fact", "ds64", "PEAK", "JUNK", "junk", "PAD ", "FLLR", "Fake"}
_OWN |= {"COMM", "SSND", "FVER"} | {"desc", "pakt", "kuki", "free", "peak"}
_SAMPLES = {"data", "SSND"}
_UNTRUE = {"levl", "MD5 ", "ovvw"}  # peaks, digests, overviews of samples that are others now
_POSITIONS = {"cue ", "smpl", "plst", "r64m", "MARK", "mark", "regn", "CUESHEET"}  # in samples, of a rate
_CHANNELS = {"CHAN", "chan"}  # which loudspeaker each is
_TIME_REFERENCE, _VERSION, _LOUDNESS = slice(338, 346), slice(346, 348), slice(412, 422)  # of bext, in samples, LUFS


@dataclass(frozen=True)
class _Layout:
    """How chunks stand in a file. whole: a chunk's size counts its name and itself. total: where the file's stands."""

    home: str
    head: int  # bytes before the first chunk
    order: Literal["little", "big"] = "little"
    name: int = 4  # bytes
    size: int = 4
    align: int = 2
    whole: bool = False
    total: tuple[int, int] | None = (4, 8)


@dataclass(frozen=True)
class _Place:
    name: bytes
    start: int
    body: int
    size: int  # of the body

    @property
    def kind(self) -> str:
        return self.name[:4].decode("latin-1")


def read_chunks(file: BinaryIO) -> tuple[list[Item], list[str]] | None:
    """Return the chunks worth keeping, and the names of those that cannot be; None if a file is not made of chunks."""
    layout = _layout(file)
    if layout is None:
        return None
    items: list[Item] = []
    lost: list[str] = []
    behind, left, length = False, MOST_BYTES, file.seek(0, 2)
    for number, place in enumerate(_walk(file, layout)):
        if number == MOST_ITEMS:
            lost.append("further chunks")
            break
        behind |= place.kind in _SAMPLES
        if place.kind in _OWN:
            continue
        if place.kind in _UNTRUE or place.size > left or place.body + place.size > length:
            lost.append(place.kind.strip())
            continue
        left -= place.size
        file.seek(place.body)
        home = "ID3" if layout.home in ("WAVE", "RIFX", "AIFF") and place.kind in ("id3 ", "ID3 ") else layout.home
        items.append(Item(home, place.name, file.read(place.size), behind))
    return items, lost


def write_chunks(file: BinaryIO, items: Sequence[Item]) -> bool:
    """Put chunks around the samples of a finished file; return whether it has room for them: a WAV ends at 4 GiB."""
    layout = _layout(file)
    assert layout is not None
    # In a W64 all stand in front: libsndfile takes what is behind the samples for more of them.
    front, behind = (
        b"".join(_chunk(layout, item) for item in items if (item.behind and item.home != "W64") is place)
        for place in (False, True)
    )
    length = file.seek(0, 2)
    ending = bytes(-length % layout.align) + behind if behind else b""
    total = length + len(front) + len(ending)
    if layout.size == 4 and _head(file)[:4] != b"RF64" and total - 8 >= 2**32:
        return False
    samples = next(place.start for place in _walk(file, layout) if place.kind in _SAMPLES)
    file.seek(length)
    file.write(ending)
    splice(file, samples, samples, front)
    if _head(file)[:4] == b"RF64":
        _patch(file, (20, 28), total - 8, "little")  # in its chunk ds64
    elif layout.total is not None:
        _patch(file, layout.total, total if layout.whole else total - 8, layout.order)
    return True


def sample_bytes(file: BinaryIO) -> int | None:
    """Return how many bytes of samples there are, None where that is not said."""
    layout = _layout(file)
    return next((place.size for place in _walk(file, layout) if place.kind == "data"), None) if layout else None


def fitting(item: Item, rate: float, mixed: bool) -> Item | None:
    """Return an item for a file of `rate` times the rate, and mixed channels or not; None where it would be untrue."""
    if item.home == "VORBIS":
        return None if GAIN.match(item.name) else item
    if item.home == "ID3":
        return replace(item, data=without_gains(item.data))
    if item.name == b"APE":
        left = ape_without_gains(item.data)
        return replace(item, data=left) if left else None
    kind = item.name.decode("latin-1")[: None if item.home == "FLAC" else 4]
    if mixed and kind in _CHANNELS:
        return None
    if rate != 1 and (kind in _POSITIONS or (kind == "LIST" and item.data.startswith(b"adtl"))):
        return None
    if kind != "bext" or len(item.data) < _LOUDNESS.stop:
        return item
    order: Literal["little", "big"] = "big" if item.home == "RIFX" else "little"
    data = bytearray(item.data)
    if rate != 1:
        time = round(int.from_bytes(data[_TIME_REFERENCE], order) * rate) % 2**64
        data[_TIME_REFERENCE] = time.to_bytes(8, order)
    if int.from_bytes(data[_VERSION], order) > 1:
        data[_LOUDNESS] = (2**15 - 1).to_bytes(2, order) * 5  # unknown
    return replace(item, data=bytes(data))


def info(item: Item) -> Iterator[tuple[str, bytes]]:
    """Yield the names and texts of a chunk LIST INFO."""
    place = 4
    while place + 8 <= len(item.data):
        size = int.from_bytes(item.data[place + 4 : place + 8], "big" if item.home == "RIFX" else "little")
        yield item.data[place : place + 4].decode("latin-1"), item.data[place + 8 : place + 8 + size].rstrip(b"\0")
        place += 8 + size + size % 2


def _layout(file: BinaryIO) -> _Layout | None:
    head = _head(file)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _Layout("WAVE", 12)
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _Layout("RIFX", 12, "big")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _Layout("AIFF", 12, "big")
    if head[:16] == _W64:
        return _Layout("W64", 40, name=16, size=8, align=8, whole=True, total=(16, 24))
    if head[:4] == b"caff":
        return _Layout("CAF", 8, "big", size=8, align=1, total=None)
    return None


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(40)


def _walk(file: BinaryIO, layout: _Layout) -> Iterator[_Place]:
    """Yield the chunks in their order, up to one that leaves the file."""
    length, place = file.seek(0, 2), layout.head
    large = 0  # bytes of samples in an RF64
    while place < length:
        file.seek(place)
        header = file.read(layout.name + layout.size)
        if len(header) < layout.name + layout.size:
            return
        found = _Place(
            header[: layout.name],
            place,
            place + len(header),
            int.from_bytes(header[layout.name :], layout.order) - (len(header) if layout.whole else 0),
        )
        if found.kind == "ds64":
            large = int.from_bytes(file.read(16)[8:], "little")
        if found.kind == "data" and large and found.size == 2**32 - 1:
            found = _Place(found.name, found.start, found.body, large)
        if found.size < 0 or not (found.kind.isascii() and found.kind.isprintable()):  # zeros, and other rubbish
            return
        yield found
        place = found.body + found.size
        place += -place % layout.align


def _chunk(layout: _Layout, item: Item) -> bytes:
    name = item.name if item.home != "ID3" else b"ID3 " if layout.home == "AIFF" else b"id3 "  # which readers look for
    size = len(item.data) + (layout.name + layout.size if layout.whole else 0)
    chunk = name + size.to_bytes(layout.size, layout.order) + item.data
    return chunk + bytes(-len(chunk) % layout.align)


def _patch(file: BinaryIO, place: tuple[int, int], number: int, order: Literal["little", "big"]) -> None:
    start, stop = place
    file.seek(start)
    file.write(number.to_bytes(stop - start, order))
