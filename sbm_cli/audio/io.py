"""Sound files in blocks: a reader, and a writer whose output is complete or absent."""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from sbm_cli.audio.format import INTEGER_BITS, AudioFormat, format_for
from sbm_cli.errors import AudioError, OutputExistsError

__all__ = ["AudioFormat", "SoundReader", "SoundWriter", "Waveform", "format_for", "read_format", "remove_parts"]

Waveform = NDArray[np.float32]  # [channels, samples], ±1 full scale

_LIMIT = 1e12  # of a sample: the power of larger ones leaves float32
_WRITE_FRAMES = 4096  # libsndfile overflows its stack on a Vorbis block of three million samples
_UNREADABLE_WHEN_EMPTY = {"FLAC", "OPUS", "MP3"}  # libsndfile 1.2 writes them without a complaint and cannot open them


def read_format(path: str | Path) -> AudioFormat:
    """Return what the file says of itself. Raises AudioError as `SoundReader` does, without reading the samples."""
    with SoundReader(path) as reader:
        return reader.format


class SoundReader:
    """Read a sound file in blocks, whatever its format; a context manager with the file's `format`.

    replace_nan: read NaN, infinite and absurdly large samples as 0 instead of refusing the file.

    Raises AudioError, on opening, for a path that is no readable file, for one that libsndfile cannot read, and for a
    file that is shorter than its header says; while reading, for a truncated or damaged stream and for NaN.
    """

    def __init__(self, path: str | Path, replace_nan: bool = False) -> None:
        self.path = Path(path)
        self._replace_nan = replace_nan
        self._position = 0
        _check_readable(self.path)
        try:
            # As bytes, names that are not valid UTF-8 can be opened too.
            self._file = sf.SoundFile(os.fsencode(self.path) if os.name == "posix" else str(self.path))
        except sf.LibsndfileError as error:
            raise _unreadable(self.path, error) from error
        try:
            _check_complete(self.path, self._file)
        except AudioError:
            self._file.close()
            raise
        file = self._file
        tags = tuple((name, text) for name, text in file.copy_metadata().items() if text and name != "software")
        self.format = AudioFormat(
            file.samplerate, file.channels, file.frames, file.format, file.subtype, file.endian, tags
        )

    def __enter__(self) -> "SoundReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
        if start != self.format.samples:
            raise _damaged(self.path, start, self.format, "the file ends there")

    def _finite(self, block: Waveform, start: int) -> Waveform:
        finite = np.abs(block) < _LIMIT  # false for NaN too
        if finite.all():
            return block
        if self._replace_nan:
            return np.where(finite, block, np.float32(0))
        index = int(np.flatnonzero(~finite.all(axis=0))[0])
        seconds = (start + index) / self.format.rate
        raise AudioError(
            f"{self.path}: sample {start + index} (at {seconds:.3f} s) is NaN, infinite or beyond {_LIMIT:.0e}.",
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
        if self._target.exists() and not os.access(self._target, os.W_OK):  # a new file in its place would not ask
            raise AudioError(f"{self.path}: is read-only.", "Make it writable, or name another output.")
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
        if block.ndim != 2 or block.shape[0] != self.format.channels:
            raise ValueError(f"expected a block [{self.format.channels}, samples], got shape {list(block.shape)}")
        if not np.isfinite(block).all():
            raise ValueError(f"{self.path}: a sample to be written is NaN or infinite")
        bits = INTEGER_BITS.get(self.format.subtype)
        frames = np.ascontiguousarray((block if bits is None else _to_integers(block, bits)).T)  # [n, channels]
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


def remove_parts(folder: Path, process: int) -> None:
    """Remove the files that a process, killed since, left half-written in a folder."""
    for part in folder.glob(f".sbm-{process}-*.part"):
        part.unlink(missing_ok=True)


def _to_integers(block: Waveform, bits: int) -> NDArray[np.int32]:
    """Round to `bits` and limit at full scale; the result stands in the upper bits of int32."""
    # libsndfile would round a float down, and so make -1 step of -1e-9, which is our silence.
    scale = 2.0 ** (bits - 1)
    wide = block.astype(np.float64) if bits > 24 else block
    steps = np.clip(np.rint(wide * scale), -scale, scale - 1)
    return steps.astype(np.int32) << (32 - bits)


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


def _unreadable(path: Path, error: Any) -> AudioError:
    reason = "it is empty, 0 bytes" if path.stat().st_size == 0 else error.error_string.rstrip(".")
    return AudioError(
        f"{path}: not a sound file libsndfile can read ({reason}).", f"Convert it first: ffmpeg -i {path.name} out.wav"
    )


def _damaged(path: Path, samples: int, form: AudioFormat, reason: str) -> AudioError:
    return AudioError(
        f"{path}: truncated or damaged: readable for {samples / form.rate:.3f} of {form.seconds:.3f} s "
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


def _check_complete(path: Path, file: sf.SoundFile) -> None:
    """Refuse files that hold less than their header says, or more than nothing under a header that says nothing."""
    log = file.extra_info
    hint = f"Copy it again, or keep what is there: ffmpeg -i {path.name} out.wav"
    if file.frames == 0 and file.format in ("WAV", "WAVEX") and _is_unfinished(path):
        raise AudioError(
            f"{path}: its header says 0 samples, but more follows (an unfinished recording?).",
            f"Write it anew: ffmpeg -ignore_length 1 -i {path.name} out.wav",
        )
    found = _SHORTER.search(log)
    if found and not _means_unknown(int(found[1])) and int(found[1]) > int(found[2]):
        raise AudioError(f"{path}: truncated: {found[1]} bytes promised, {found[2]} there.", hint)
    if file.format in ("AIFF", "RF64") and _SHORTER_SENTENCE.search(log):
        raise AudioError(f"{path}: truncated: the file is shorter than its header says.", hint)
    if file.frames >= 2**62:
        raise AudioError(
            f"{path}: its header does not say how long it is.", f"Write it anew: ffmpeg -i {path.name} out.wav"
        )


def _is_unfinished(path: Path) -> bool:
    """Whether a data chunk of size 0 is followed by something that is not the name of a next chunk."""
    with path.open("rb") as file:
        _, marker, after = file.read(2**16).partition(b"data\0\0\0\0")
    name = after[:4]
    return bool(marker and name) and not (name.isascii() and name.decode().isprintable())


def _means_unknown(size: int) -> bool:
    """Whether a size is what programs write into a pipe, where they cannot go back: about 2³¹ or 2³²."""
    return any(abs(size - mark) <= 2**16 for mark in (2**31, 2**32))


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists.", "Use --overwrite to replace it, or name another output.")
