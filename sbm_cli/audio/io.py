"""Sound files in blocks: a reader, and a writer whose output is complete or absent."""

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

from sbm_cli.audio.format import AudioFormat, Waveform, format_for, storable
from sbm_cli.audio.pipe import Pipe, PipeWriter, Samples, means_unknown, temporary_folder
from sbm_cli.errors import AudioError, OutputExistsError

__all__ = [
    "AudioFormat",
    "Pipe",
    "SoundReader",
    "SoundWriter",
    "Waveform",
    "format_for",
    "open_writer",
    "read_format",
    "remove_parts",
]

_WRITE_FRAMES = 4096  # libsndfile overflows its stack on a Vorbis block of three million samples
_UNREADABLE_WHEN_EMPTY = {"FLAC", "OPUS", "MP3"}  # libsndfile 1.2 writes them without a complaint and cannot open them


def read_format(path: str | Path) -> AudioFormat:
    """Return what the file says of itself. Raises AudioError as `SoundReader` does, without reading the samples."""
    with SoundReader(path) as reader:
        return reader.format


class SoundReader:
    """Read a sound file, or a pipe, in blocks, whatever its format; a context manager with the file's `format`.

    replace_nan: read NaN and infinite samples as 0 instead of refusing the file.
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
            start = self._position
            try:
                frames = self._file.read(size, dtype="float32", always_2d=True)  # [n, channels]
            except sf.LibsndfileError as error:
                raise _damaged(self.path, start, self.format, error.error_string) from error
            if not len(frames):
                break
            self._position += len(frames)
            yield self._finite(np.ascontiguousarray(frames.T), start)
        if self.format.samples not in (None, start):
            raise _damaged(self.path, start, self.format, "the file ends there")

    def _finite(self, block: Waveform, start: int) -> Waveform:
        finite = np.isfinite(block)
        if finite.all():
            return block
        if self._replace_nan:
            return np.where(finite, block, np.float32(0))
        index = int(np.flatnonzero(~finite.all(axis=0))[0])
        raise AudioError(
            f"{self.path}: sample {start + index} (at {(start + index) / self.format.rate:.3f} s) is NaN or infinite.",
            "Use --replace-nan to read such samples as silence.",
        )


class SoundWriter:
    """Write a sound file in blocks; a context manager. The file appears under its name when all is written, or never.

    path: the target. Until the end the samples go to a hidden file beside it, which an exception removes.
    format: rate, channels, container, subtype, endian and tags of the file; see `format_for`.
    overwrite: replace a file of that name; otherwise one that is there, even one that appears meanwhile, is kept.

    Raises OutputExistsError if it is there, AudioError if the folder or the disc does not take it, or if nothing was
    written and the format cannot hold nothing (FLAC, Opus, MP3).
    """

    def __init__(self, path: str | Path, format: AudioFormat, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.format = format
        self._overwrite = overwrite
        self._written = 0

    def __enter__(self) -> "SoundWriter":
        # A link stays a link; what it points to is replaced.
        self._target = Path(os.path.realpath(self.path))
        if self._target.exists() and not self._target.is_file():
            raise AudioError(f"{self.path}: not a file that could be replaced.", "Name a file as the output.")
        if not self._overwrite and self._target.exists():
            raise _exists(self.path)
        # Not with a sound file's suffix: should we be killed, a later batch must not take it for a recording.
        self._part = self._target.with_name(f".sbm-{os.getpid()}-{secrets.token_hex(6)}.part")
        try:
            os.close(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            reason = str(error.strerror).lower()
            hint = f"Make the folder {self._target.parent} first." if isinstance(error, FileNotFoundError) else ""
            raise AudioError(f"{self.path}: cannot be written ({reason}).", hint) from error
        try:
            self._file = self._open()
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    def write(self, block: Waveform) -> None:
        """Append float32 [channels, n]. Integer formats round to the nearest step and limit at full scale.

        Raises ValueError for another channel count or a sample that is not finite, AudioError if the disc is full.
        """
        frames = storable(block, self.format)
        with self._failing_as_audio_error():
            for start in range(0, len(frames), _WRITE_FRAMES):
                self._file.write(frames[start : start + _WRITE_FRAMES])
        self._written += len(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(sf.LibsndfileError):
                    self._file.close()
                return
            with self._failing_as_audio_error():
                self._file.close()  # soundfile syncs to disc first
            if not self._written and {self.format.container, self.format.subtype} & _UNREADABLE_WHEN_EMPTY:
                raise AudioError(f"{self.path}: no {self.format.container} can be empty.", "Name a .wav as the output.")
            self._publish()
        finally:
            self._part.unlink(missing_ok=True)

    def _open(self) -> sf.SoundFile:
        form = self.format
        try:
            file = sf.SoundFile(
                os.fsencode(self._part) if os.name == "posix" else str(self._part),
                "w",
                samplerate=form.rate,
                channels=form.channels,
                subtype=form.subtype,
                endian=form.endian,
                format=form.container,
            )
        except (sf.LibsndfileError, ValueError) as error:
            reason = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
            raise AudioError(
                f"{self.path}: {form.container} {form.subtype} with {form.channels} channels at {form.rate} Hz "
                f"cannot be written ({reason.rstrip('.')})."
            ) from error
        if form.container == "RF64" and form.samples is None:
            # SFC_RF64_AUTO_DOWNGRADE, for which soundfile has no name: a WAV, should it stay below 4 GiB.
            sf._snd.sf_command(file._file, 0x1210, sf._ffi.NULL, 1)
        for name, text in form.tags:
            if form.container == "MP3" and not text.isascii():
                continue  # libsndfile hands UTF-8 to an encoder that takes it for Latin-1
            with contextlib.suppress(sf.LibsndfileError, RuntimeError):  # W64 and AU have no tags
                setattr(file, name, text)
        return file

    def _publish(self) -> None:
        """Give the finished file its name."""
        try:
            if self._overwrite:
                self._part.replace(self._target)
                return
            try:
                os.link(self._part, self._target)  # unlike a rename it never replaces
            except FileExistsError:
                raise
            except OSError:  # a file system without links, such as FAT
                if self._target.exists():
                    raise FileExistsError from None
                self._part.rename(self._target)
        except FileExistsError as error:
            raise _exists(self.path) from error
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({str(error.strerror).lower()}).") from error

    @contextlib.contextmanager
    def _failing_as_audio_error(self) -> Iterator[None]:
        try:
            yield
        except (sf.LibsndfileError, AssertionError) as error:  # soundfile asserts that all frames were taken
            reason = error.error_string if isinstance(error, sf.LibsndfileError) else "not all samples were taken"
            raise AudioError(
                f"{self.path}: writing failed at {self._written / self.format.rate:.1f} s ({reason.rstrip('.')}).",
                "Is the disc full?",
            ) from error


@contextlib.contextmanager
def open_writer(
    target: str | Path | Pipe, format: AudioFormat, overwrite: bool = False
) -> Iterator[SoundWriter | PipeWriter]:
    """Open a file or a pipe to be written; formats whose header is finished last go through a temporary file."""
    if not isinstance(target, Pipe):
        with SoundWriter(target, format, overwrite) as writer:
            yield writer
    elif format.container in ("RAW", "WAV", "WAVEX", "RF64"):
        with PipeWriter(target, format) as writer_of_pipe:
            yield writer_of_pipe
    else:
        with TemporaryDirectory(dir=temporary_folder()) as folder:
            path = Path(folder, f"sound{target.suffix}")
            with SoundWriter(path, format) as writer:
                yield writer
            with path.open("rb") as file:
                shutil.copyfileobj(file, target.file, 2**20)
            target.file.flush()


def remove_parts(folder: Path, process: int) -> None:
    """Remove the files that a process, killed since, left half-written in a folder."""
    for part in folder.glob(f".sbm-{process}-*.part"):
        part.unlink(missing_ok=True)


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


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists.", "Use --overwrite to replace it, or name another output.")
