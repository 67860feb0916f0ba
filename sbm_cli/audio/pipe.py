"""Sound through pipes, which go forward only and may never tell their length.

WAV and bare samples are decoded and encoded as they come. For what libsndfile must seek in there is a temporary file on
disc in between: nothing has to fit into memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from sbm_cli.audio.format import SAMPLE_BYTES, AudioFormat, Waveform, storable
from sbm_cli.audio.metadata import Metadata
from sbm_cli.audio.metadata.chunks import read_chunks
from sbm_cli.audio.segments import Window

# Format tag and bits of the subtypes that a WAV holds without blocks of several samples.
_TAGS = {"PCM_U8": (1, 8), "PCM_16": (1, 16), "PCM_24": (1, 24), "PCM_32": (1, 32)}
_TAGS |= {"FLOAT": (3, 32), "DOUBLE": (3, 64), "ALAW": (6, 8), "ULAW": (7, 8)}
# Kinds of numbers and their steps that NumPy takes; libsndfile needs longer for its start than for a hop of samples.
_PLAIN = {"PCM_16": ("<i2", 2.0**-15), "FLOAT": ("<f4", 1.0)}
_EXTENSIBLE = 0xFFFE  # the tag proper stands 24 bytes into the chunk
_UNKNOWN = 0xFFFFFFFF  # both sizes of a WAV whose writer cannot go back, as ffmpeg has it
_HEADER = "<4sI4s4sIHHIIHH4sI"
_MOST_HEADER = 2**20  # bytes of a chunk before the samples; what is larger is read from a file


@dataclass(frozen=True)
class Pipe:
    """A stream of bytes in place of a file: standard input or output, a socket, a file opened in binary mode.

    suffix: of an output, where no name tells the format. raw: what an input without header is made of. start: where an
    input begins that can seek.

    Raises ValueError for a file in text mode, for what is no file, and for a suffix without its dot.
    """

    file: BinaryIO
    suffix: str = ".wav"
    raw: AudioFormat | None = None
    start: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.file, io.TextIOBase) or not (hasattr(self.file, "read") or hasattr(self.file, "write")):
            raise ValueError("a pipe needs a file opened in binary mode, such as sys.stdin.buffer")
        if not self.suffix.startswith("."):
            raise ValueError(f"suffix must begin with a dot, such as .flac, got {self.suffix!r}")

    @classmethod
    def from_here(cls, file: BinaryIO, raw: AudioFormat | None = None) -> Pipe:
        """Return an input that begins where the file stands: another program may have read what comes before."""
        return cls(file, raw=raw, start=file.tell() if file.seekable() else 0)

    def __str__(self) -> str:
        return "-"

    @contextlib.contextmanager
    def open(self) -> Iterator[Samples | BinaryIO]:
        """Give the samples of a WAV or of `raw` as they come; for other formats, a file to seek in."""
        if self.file.seekable():
            self.file.seek(self.start)
        form, head = (self.raw, b"") if self.raw or self.file.seekable() else _wav_header(self.file)
        if form is not None:
            yield Samples(self.file, form, head)
        elif self.file.seekable():
            yield cast(BinaryIO, Window(self.file, self.start)) if self.start else self.file
        else:
            with _spooled(self.file, head) as spool:
                yield spool

    def write(self, data: bytes) -> None:
        """Write all of it: an unbuffered stream, as stdout is with PYTHONUNBUFFERED, may take only a part at a time."""
        while (taken := self.file.write(data)) is not None and taken < len(data):
            data = data[taken:]

    @contextlib.contextmanager
    def rewindable(self) -> Iterator[Pipe]:
        """Give a pipe that can be opened twice: this one, or what comes through it, in a temporary file."""
        if self.file.seekable():
            yield self
        else:
            with _spooled(self.file) as spool:
                yield replace(self, file=spool)


class Samples:
    """Bare samples, decoded as they come: what of `sf.SoundFile` a reader needs.

    head: what stood before them. metadata: what is in it, and the names of what stands behind the samples.
    notes: what to report of them; complete when all are read.
    """

    def __init__(self, file: BinaryIO, format: AudioFormat, head: bytes = b"") -> None:
        self.format = format
        self.metadata = Metadata(format, *(read_chunks(io.BytesIO(head)) or ()))
        self.notes: list[str] = []
        self._file = file
        self._left = format.samples
        self._width = format.channels * SAMPLE_BYTES[format.subtype]

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """Return the next samples [n, channels], fewer than `frames` only at their end. No other dtype, always 2D."""
        if self._left is not None:
            frames = min(frames, self._left)
        data = _read(self._file, frames * self._width)
        if self._left is None and (odd := len(data) % self._width):
            self.notes.append(f"left out {odd} of {self._width} bytes at the end: not a whole sample")
        data = data[: len(data) // self._width * self._width]
        if self._left is not None:
            self._left -= len(data) // self._width
            if not self._left:
                self._read_on()
        return decoded(data, self.format)

    def _read_on(self) -> None:
        """Take what stands behind the samples: a program that writes it there shall not find the pipe closed."""
        assert self.format.samples is not None
        padding = self.format.samples * self._width % 2
        rest = _read(self._file, padding + _MOST_HEADER)[padding:]
        items, lost = read_chunks(io.BytesIO(b"RIFF\0\0\0\0WAVE" + rest)) or ([], [])
        self.metadata.lost.extend([*(item.label for item in items), *lost])
        while self._file.read(2**16):
            pass


class PipeWriter(contextlib.AbstractContextManager["PipeWriter"]):
    """Write a WAV or bare samples into a pipe; a context manager.

    The header of a WAV tells the length where that is known beforehand, else, as ffmpeg's and sox's do, that it is not.

    Raises BrokenPipeError once nobody reads it.
    """

    def __init__(self, pipe: Pipe, format: AudioFormat) -> None:
        self.notes: list[str] = []  # as `SoundWriter` has them
        self._pipe, self._format = pipe, format
        self._padding = b""
        self.bit_rate = 0
        self.not_carried: tuple[str, ...] = ()  # of the source's metadata
        if format.container != "RAW":
            tag, bits = _TAGS[format.subtype]
            width = format.channels * bits // 8
            size = _UNKNOWN if format.samples is None else min(format.samples * width, _UNKNOWN)
            self._padding = b"\0" * (size % 2 if size < _UNKNOWN else 0)  # a chunk has an even number of bytes
            riff = min(size + len(self._padding) + struct.calcsize(_HEADER) - 8, _UNKNOWN)
            fmt = 16, tag, format.channels, format.rate, format.rate * width, width, bits
            self._pipe.write(struct.pack(_HEADER, b"RIFF", riff, b"WAVE", b"fmt ", *fmt, b"data", size))

    def write(self, block: Waveform) -> None:
        """Send float32 [channels, n] on its way; as `SoundWriter.write`."""
        self._pipe.write(encoded(block, self._format))
        self._pipe.file.flush()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._pipe.write(self._padding)
            self._pipe.file.flush()


def decoded(data: bytes, form: AudioFormat) -> NDArray[np.float32]:
    """Return bare samples as float32 [n, channels]."""
    if form.subtype in _PLAIN:
        kind, step = _PLAIN[form.subtype]
        return np.frombuffer(data, kind).reshape(-1, form.channels) * np.float32(step)
    how = {"subtype": form.subtype, "endian": "LITTLE", "format": "RAW", "dtype": "float32", "always_2d": True}
    return sf.read(io.BytesIO(data), samplerate=form.rate, channels=form.channels, **how)[0]


def encoded(block: Waveform, form: AudioFormat) -> bytes:
    """Return float32 [channels, n] as bare samples. Raises ValueError as `storable`."""
    samples = storable(block, form)
    if form.subtype == "PCM_16":
        samples = np.right_shift(samples, 16)
    if form.subtype in _PLAIN:
        return samples.astype(_PLAIN[form.subtype][0]).tobytes()
    data = io.BytesIO()
    sf.write(data, samples, form.rate, form.subtype, "LITTLE", "RAW")
    return data.getvalue()


def temporary_folder() -> str | None:
    """Name the folder for temporary files as long as a recording: /tmp may be a part of the memory."""
    return None if os.environ.get("TMPDIR") or not os.path.isdir("/var/tmp") else "/var/tmp"


def _wav_header(file: BinaryIO) -> tuple[AudioFormat | None, bytes]:
    """Read a WAV's header up to its samples; return what they are, None where that is not plain, and what was read."""
    head = _read(file, 12)
    if head[:4] + head[8:] != b"RIFFWAVE":
        return None, head
    fmt = b""
    while True:
        chunk = _read(file, 8)
        head += chunk
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data" or len(chunk) < 8 or size > _MOST_HEADER:
            break
        body = _read(file, size + size % 2)
        head += body
        if name == b"fmt ":
            fmt = body
    if name != b"data" or len(fmt) < 16 or not size:
        return None, head
    tag, channels, rate, _, width, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(fmt[24:26], "little")
    subtype = next((name for name, kind in _TAGS.items() if kind == (tag, bits)), None)
    if subtype is None or not rate or not channels or width != channels * SAMPLE_BYTES[subtype]:
        return None, head
    return AudioFormat(rate, channels, None if means_unknown(size) else size // width, "WAV", subtype), head


def means_unknown(size: int) -> bool:
    """Whether a size is what programs write into a pipe, where they cannot go back: about 2³¹ or 2³²."""
    return any(abs(size - mark) <= 2**16 for mark in (2**31, 2**32))


@contextlib.contextmanager
def _spooled(file: BinaryIO, head: bytes = b"") -> Iterator[BinaryIO]:
    """Give a temporary file with what was read and what is still to come; it has no name, so nothing is ever left."""
    with tempfile.TemporaryFile(dir=temporary_folder()) as spool:
        spool.write(head)
        shutil.copyfileobj(file, spool, 2**20)
        spool.seek(0)
        yield cast(BinaryIO, spool)


def _read(file: BinaryIO, count: int) -> bytes:
    """Read so many bytes, fewer only at the end: an unbuffered stream gives what it has."""
    data = file.read(count)
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data
