"""What a file holds beside its samples, in items, and how one is put into a finished file."""

import re
from dataclasses import dataclass
from typing import BinaryIO

MOST_BYTES = 2**26  # of all items of a file together: they are kept in memory
MOST_ITEMS = 4096
# What players turn a file up or down by. It is true of the old sound alone.
GAIN = re.compile(rb"replaygain_|r128_\w+_gain|mp3gain_|itunnorm", re.I)
_BLOCK = 2**20


def is_gain(tag: str) -> bool:
    """Return whether a tag of this name is one that `GAIN` means."""
    return bool(GAIN.match(tag.encode("utf-8", "replace")))


@dataclass(frozen=True)
class Item:
    """A chunk, a comment or a tag, its bytes as they are.

    home: whose own it is: a family of containers (WAVE, RIFX, AIFF, W64, CAF, FLAC, MP3), VORBIS (comments of FLAC and
    Ogg) or ID3 (of MP3, and as a chunk of WAV and AIFF). behind: it stands behind the samples.
    """

    home: str
    name: bytes
    data: bytes
    behind: bool = False

    @property
    def label(self) -> str:
        """Its name, as a person knows it."""
        name = self.name[:4] if self.home == "W64" else self.name
        if name.upper() in (b"METADATA_BLOCK_PICTURE", b"COVERART"):
            return "cover picture"
        kind = f" {text(self.data[:4])}" if name == b"LIST" else ""
        return text(name[:40]).strip() + kind


def text(data: bytes) -> str:
    """Decode text that does not say how it is encoded: UTF-8, or what Windows and before it Latin-1 made of it."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def splice(file: BinaryIO, start: int, end: int, data: bytes) -> None:
    """Put data in place of the bytes of a file from start to end; what follows them moves."""
    by, length = len(data) - (end - start), file.seek(0, 2)
    blocks = range(end, length, _BLOCK)
    for place in reversed(blocks) if by > 0 else blocks if by < 0 else ():
        file.seek(place)
        block = file.read(min(_BLOCK, length - place))
        file.seek(place + by)
        file.write(block)
    if by < 0:
        file.truncate(length + by)
    file.seek(start)
    file.write(data)
