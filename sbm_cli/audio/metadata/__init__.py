"""What a file holds beside its samples, carried over bit for bit into a container that has room for it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.metadata import id3
from sbm_cli.audio.metadata.chunks import fitting, info, read_chunks, write_chunks
from sbm_cli.audio.metadata.items import Item, text
from sbm_cli.audio.metadata.vorbis import fits, read_flac, read_ogg, write_flac, write_ogg
from sbm_cli.audio.segments import Bytes, Window, behind_id3

# Whose items a container has room for.
_ROOM = {
    "WAVE": {"WAVE", "ID3"},
    "RIFX": {"RIFX", "ID3"},
    "AIFF": {"AIFF", "ID3"},
    "W64": {"W64"},
    "CAF": {"CAF"},
    "FLAC": {"VORBIS", "FLAC"},
    "OGG": {"VORBIS"},
    "MP3": {"ID3", "MP3"},
}
_INFO = {
    "INAM": "title",
    "IART": "artist",
    "ICMT": "comment",
    "ICRD": "date",
    "ICOP": "copyright",
    "IPRD": "album",
    "IGNR": "genre",
    "ITRK": "tracknumber",
}
_AIFF = {b"NAME": "title", b"AUTH": "artist", b"(c) ": "copyright", b"ANNO": "comment"}
_EVERY = {*_INFO.values(), "license"}
# Tags that libsndfile writes, and ID3 that we do.
_TAGS = {
    "WAVE": _EVERY - {"license"},
    "RIFX": _EVERY - {"license"},
    "AIFF": {"title", "artist", "comment", "copyright"},
    "CAF": _EVERY,
    "FLAC": _EVERY,
    "OGG": _EVERY,
    "MP3": id3.TAGS,
}


@dataclass(frozen=True)
class Metadata:
    """The items of a source in a format; lost: the names of what else there is, known once all is read."""

    format: AudioFormat
    items: Sequence[Item] = ()
    lost: list[str] = field(default_factory=list)

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """The tags of the source: libsndfile passes over ID3, and takes for UTF-8 what does not say what it is."""
        found = dict(self.format.tags)
        newer = any(item.home == "ID3" for item in self.items)
        for item in self.items:
            if item.home == "ID3":
                found = dict(id3.texts(item.data)) | found
            elif not (newer and item.name == b"ID3v1"):
                found |= {name: text(data) for name, data in _texts(item) if data}
        return tuple(found.items())

    def tags_for(self, form: AudioFormat) -> tuple[tuple[str, str], ...]:
        """Return the tags that a writer is to give a file of format `form`: none where `write` brings them."""
        home = _home(form)
        return () if home == "MP3" or self._stay_home(home) else self.tags

    def write(self, path: Path, form: AudioFormat) -> tuple[str, ...]:
        """Put the items into a finished file of format `form`; return the names of what it has no room for."""
        home = _home(form)
        kept, lost = self._sorted(home, form.rate / self.format.rate, form.channels != self.format.channels)
        if not self._stay_home(home) and not any(item.home == "ID3" for item in kept):
            lost += [name for name, _ in self.tags if name not in _TAGS.get(home, set())]
        if kept or home == "MP3":
            with path.open("r+b") as file:
                if home == "MP3":
                    id3.write_mp3(file, kept, () if kept else self.tags)
                elif not {"FLAC": write_flac, "OGG": write_ogg}.get(home, write_chunks)(file, kept):
                    lost += [item.label for item in kept]
        return tuple(dict.fromkeys(lost))

    @property
    def beyond_tags(self) -> tuple[str, ...]:
        """The names of what no tags hold."""
        return tuple(dict.fromkeys(self._sorted("")[1]))

    def _sorted(self, home: str, rate: float = 1, mixed: bool = False) -> tuple[list[Item], list[str]]:
        """Return what has room in a container, of `rate` times the rate, and the names of what has not."""
        room, kept, lost = _ROOM.get(home, set()), [], [*self.lost]
        for item in self.items:
            fitted = fitting(item, rate, mixed) if item.home in room and fits(item, home) else None
            if fitted is not None:
                kept.append(fitted)
                lost += ["ReplayGain"] * (fitted != item and (item.home == "ID3" or item.name == b"APE"))
            elif item.home in room or not _told(item):
                lost += id3.frames(item.data) if item.home == "ID3" and item.home not in room else [item.label]
        return kept, lost

    def _stay_home(self, home: str) -> bool:
        """Whether the items bring the tags themselves: they go where they come from."""
        return any(item.home in _ROOM.get(home, ()) and item.home != "ID3" for item in self.items)


def read_metadata(file: BinaryIO, form: AudioFormat) -> Metadata:
    """Return what a recording holds beside its samples, which others may be reading; form: its format."""
    place = file.tell()
    try:
        front = 0 if form.container == "MP3" else behind_id3(Bytes(file))
        behind = cast(BinaryIO, Window(file, front))
        lost = ["ID3"] if front and form.origin is None else []  # FFmpeg, where it reads a file, tells of it
        found = read_chunks(behind)
        if found is not None:
            return Metadata(form, found[0], lost + found[1])
        behind.seek(0)
        head = behind.read(1024)
        if form.container == "NIST":
            lost += re.findall(r"^(?!sample|channel)(\w+) -[irs]", head.decode("latin-1"), re.MULTILINE)
        read = {b"fLaC": read_flac, b"OggS": read_ogg}.get(head[:4], id3.read_mp3 if form.container == "MP3" else None)
        return Metadata(form, read(behind) if read else (), lost)
    finally:
        file.seek(place)


def _home(form: AudioFormat) -> str:
    if form.container in ("WAV", "WAVEX", "RF64"):
        return "RIFX" if form.endian == "BIG" and form.container != "RF64" else "WAVE"
    return form.container


def _texts(item: Item) -> Iterator[tuple[str, bytes]]:
    """Yield the tags of an item that does not say how it is encoded."""
    if item.name == b"LIST" and item.data.startswith(b"INFO"):
        yield from ((_INFO[name], data) for name, data in info(item) if name in _INFO)
    elif item.name == b"ID3v1":
        yield from id3.texts_of_id3v1(item.data)
    elif item.home == "AIFF" and (name := _AIFF.get(item.name)):
        yield name, item.data.rstrip(b"\0")


def _told(item: Item) -> bool:
    """Whether the tags tell what an item tells, or the new file has its own."""
    if item.name == b"chan":  # which loudspeaker each channel is
        return True
    if item.name == b"LIST" and item.data.startswith(b"INFO"):
        return all(name in _INFO or name == "ISFT" for name, _ in info(item))
    name = item.name.decode("latin-1").lower()
    if item.home == "VORBIS":
        return name in _EVERY or name == "encoder"
    return item.home == "ID3" and not id3.frames(item.data) or name in ("id3v1", "info", "name", "auth", "(c) ", "anno")
