"""Sound files in blocks: the reader, which refuses what is damaged; the writer stands in `writer.py`."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

from sbm_cli.audio.format import SAMPLE_BYTES, AudioFormat, Waveform
from sbm_cli.audio.metadata.chunks import sample_bytes
from sbm_cli.audio.pipe import Pipe, Samples, means_unknown
from sbm_cli.audio.samples import LIMIT, usable
from sbm_cli.errors import AudioError


def read_format(path: str | Path) -> AudioFormat:
    """Return what the file says of itself. Raises AudioError as `SoundReader` does, without reading the samples."""
    with SoundReader(path) as reader:
        return reader.format


class SoundReader:
    """Read a sound file, or a pipe, in blocks, whatever its format; a context manager with the file's `format`.

    replace_nan: read NaN, infinite and absurdly large samples as 0 instead of refusing the file.
    Of a pipe that cannot seek, only its beginning is read on opening if it is a WAV, all of it otherwise.

    Raises AudioError, on opening, for a path that is no readable file, for one that libsndfile cannot read, and for a
    file that is shorter than its header says; while reading, for a truncated or damaged stream and for NaN.
    """

    def __init__(self, source: str | Path | Pipe, replace_nan: bool = False) -> None:
        self.path = Path(str(source))
        self._replace_nan = replace_nan
        self._position = 0
        if not isinstance(source, Pipe):
            _check_readable(self.path)
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(source.open()) if isinstance(source, Pipe) else self.path
            self._file = file if isinstance(file, Samples) else opened.enter_context(_open(file, self.path))
            self._opened = opened.pop_all()
        self.format = self._file.format if isinstance(self._file, Samples) else _format_of(self._file)
        if self.format.container == "W64" and not isinstance(file, Samples):
            self.format = replace(self.format, samples=_samples_of_w64(file, self.format))

    def __enter__(self) -> "SoundReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self, size: int) -> Iterator[Waveform]:
        """Yield the samples in order as float32 [channels, n], 0 < n ≤ size, ±1 full scale, each sample once.

        Raises ValueError if size < 1.
        """
        if size < 1:
            raise ValueError(f"block size must be at least 1, got {size}")
        while True:
            start, samples = self._position, self.format.samples
            count = size if samples is None else min(size, samples - start)  # an array as long is made first
            try:
                frames = self._file.read(count, dtype="float32", always_2d=True)  # [n, channels]
            except sf.LibsndfileError as error:
                raise _damaged(self.path, start, self.format, error.error_string) from error
            if not len(frames):
                break
            self._position += len(frames)
            yield self._finite(np.ascontiguousarray(frames.T), start)
        if samples not in (None, start):
            raise _damaged(self.path, start, self.format, "the file ends there")

    def _finite(self, block: Waveform, start: int) -> Waveform:
        finite = usable(block)
        if finite.all():
            return block
        if self._replace_nan:
            return np.where(finite, block, np.float32(0))
        index = int(np.flatnonzero(~finite.all(axis=0))[0])
        seconds = (start + index) / self.format.rate
        raise AudioError(
            f"{self.path}: sample {start + index} (at {seconds:.3f} s) is NaN, infinite or beyond {LIMIT:.0e}.",
            "Use --replace-nan to read such samples as silence.",
        )


def _check_readable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: is a folder.", f"For all files in it: sbm batch {path} -o OUT")
        if not stat.S_ISREG(mode):
            raise AudioError(f"{path}: is not a regular file.", "Save the sound to a file first.")
        with path.open("rb"):
            pass
    except OSError as error:
        raise AudioError(f"{path}: {str(error.strerror).lower()}.") from error


class _Forward(sf.SoundFile):  # type: ignore[misc]
    """A sound file that is read in order: soundfile would seek after each block, and in some FLAC it cannot."""

    def seekable(self) -> bool:
        return False


def _open(file: Path | BinaryIO, path: Path) -> sf.SoundFile:
    """Open a file, or what a pipe of the name `path` was copied to, for reading."""
    try:
        # As bytes, names that are not valid UTF-8 can be opened too.
        name = os.fsencode(file) if os.name == "posix" and isinstance(file, Path) else file
        opened = _Forward(name)
    except sf.LibsndfileError as error:
        raise _unreadable(path, _beginning(file), error) from error
    try:
        _check_complete(path, _beginning(file), opened)
    except AudioError:
        opened.close()
        raise
    return opened


def _beginning(file: Path | BinaryIO) -> bytes:
    """Return the first bytes of a file, in which libsndfile may be reading."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(2**16)
    place = file.tell()
    file.seek(0)
    beginning = file.read(2**16)
    file.seek(place)
    return beginning


def _format_of(file: sf.SoundFile) -> AudioFormat:
    tags = tuple((name, text) for name, text in file.copy_metadata().items() if text and name != "software")
    samples = None if file.frames >= 2**62 else file.frames  # FLAC from a pipe
    return AudioFormat(file.samplerate, file.channels, samples, file.format, file.subtype, file.endian, tags)


def _samples_of_w64(file: Path | BinaryIO, form: AudioFormat) -> int | None:
    """Return the number of samples: libsndfile takes what is behind them, were it padding, for more of them."""
    with contextlib.nullcontext(file) if not isinstance(file, Path) else file.open("rb") as opened:
        place = opened.tell()
        size = sample_bytes(opened)
        opened.seek(place)
    if size is None or form.samples is None or form.subtype not in SAMPLE_BYTES:
        return form.samples
    return min(form.samples, size // (form.channels * SAMPLE_BYTES[form.subtype]))


def _unreadable(path: Path, beginning: bytes, error: Any) -> AudioError:
    if not beginning:
        reason = "it is empty, 0 bytes"
    elif beginning.startswith((b"fLaC", b"OggS", b"ID3")):
        reason = "damaged, or without a single sample"  # what libsndfile says of these, "possibly a pipe", misleads
    else:
        reason = error.error_string.rstrip(".")
    return AudioError(
        f"{path}: not a sound file libsndfile can read ({reason}).", f"Convert it first: ffmpeg -i {path.name} out.wav"
    )


def _damaged(path: Path, samples: int, form: AudioFormat, reason: str) -> AudioError:
    total = "" if form.samples is None else f" of {form.seconds:.3f}"
    return AudioError(
        f"{path}: truncated or damaged: readable for {samples / form.rate:.3f}{total} s "
        f"({reason.rstrip('.') or 'decoding failed'}).",
        f"Copy it again, or keep what is there: ffmpeg -i {path.name} out.wav",
    )


# What libsndfile writes into its log on finding less than a header promises: in WAV "data : 160000 (should be 79978)",
# in W64 "riff : …", in AU "Data Size : …"; AIFF and RF64 have sentences of their own
# (in a WAV the same sentence is about a chunk behind the samples, which does no harm).
_SHORTER = re.compile(r"^\s*(?:data|riff|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_SHORTER_SENTENCE = re.compile(
    r"^\*\*\* (?:Chunk size \d+ > file length|Calculated frame count \d+ does not match)", re.M
)


def _check_complete(path: Path, beginning: bytes, file: sf.SoundFile) -> None:
    """Refuse files that hold less than their header says, or more than nothing under a header that says nothing."""
    log = file.extra_info
    hint = f"Copy it again, or keep what is there: ffmpeg -i {path.name} out.wav"
    if file.frames == 0 and file.format in ("WAV", "WAVEX") and _is_unfinished(beginning):
        raise AudioError(
            f"{path}: its header says 0 samples, but more follows (an unfinished recording?).",
            f"Write it anew: ffmpeg -ignore_length 1 -i {path.name} out.wav",
        )
    found = _SHORTER.search(log)
    if found and not means_unknown(int(found[1])) and int(found[1]) > int(found[2]):
        raise AudioError(f"{path}: truncated: {found[1]} bytes promised, {found[2]} there.", hint)
    if file.format in ("AIFF", "RF64") and _SHORTER_SENTENCE.search(log):
        raise AudioError(f"{path}: truncated: the file is shorter than its header says.", hint)


def _is_unfinished(beginning: bytes) -> bool:
    """Whether a data chunk of size 0 is followed by something that is not the name of a next chunk."""
    _, marker, after = beginning.partition(b"data\0\0\0\0")
    name = after[:4]
    return bool(marker and name) and not (name.isascii() and name.decode().isprintable())
