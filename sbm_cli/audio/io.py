"""Sound files in blocks: the reader, which refuses what is damaged; the writer stands in `writer.py`.

libsndfile reads the containers whose samples it counts exactly, FFmpeg (`decoder.py`) all others; the content decides.
"""

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf

from sbm_cli.audio.decoder import Decoder, bare_format, is_foreign, is_mpeg
from sbm_cli.audio.ffmpeg import salvage
from sbm_cli.audio.format import INTEGER_BITS, SAMPLE_BYTES, AudioFormat, Waveform
from sbm_cli.audio.metadata import Metadata, read_metadata
from sbm_cli.audio.metadata.chunks import sample_bytes
from sbm_cli.audio.pipe import Pipe, Samples, means_unknown
from sbm_cli.audio.samples import LIMIT, usable
from sbm_cli.audio.segments import Window, next_flac, sniff
from sbm_cli.errors import AudioError

_MPEG_SUFFIXES = {".mp3", ".mp2", ".mp1", ".m1a", ".mpeg"}  # as libsndfile knows them
_MISCOUNTED = {"VOC", "MP3", "OGG"}  # by libsndfile, which may come upon them where nothing shows them beforehand
_READ_AHEAD = 2**17  # bytes that libsndfile may have read beyond the last frame of a FLAC


def read_format(path: str | Path) -> AudioFormat:
    """Return what the file says of itself. Raises AudioError as `SoundReader` does, without reading the samples."""
    with SoundReader(path) as reader:
        return reader.format


class SoundReader(contextlib.AbstractContextManager["SoundReader"]):
    """Read a sound file, or a pipe, in blocks, whatever its format; a context manager with the file's `format`.

    replace_nan: read NaN, infinite and absurdly large samples as 0 instead of refusing the file.
    stream: which of several audio streams, from 1; without it the one that players play.
    Of a pipe that cannot seek, only its beginning is read on opening if it is a WAV, all of it otherwise.
    notes: what to report of the file, though it is no error; complete when all is read.

    Raises AudioError, on opening, for a path that is no readable file, for one that cannot be decoded, and for a file
    that is shorter than its header says; while reading, for a truncated or damaged stream and for NaN.
    """

    def __init__(self, source: str | Path | Pipe, replace_nan: bool = False, stream: int | None = None) -> None:
        self.path = Path(str(source))
        self._replace_nan = replace_nan
        self._position = 0
        with contextlib.ExitStack() as opened:
            bytes_ = opened.enter_context(source.open() if isinstance(source, Pipe) else _opened(self.path))
            self._bytes, self._flac, self._first = bytes_, 0, 0  # byte and sample where its last FLAC begins
            self._file: Samples | Decoder | sf.SoundFile
            if isinstance(bytes_, Samples):
                self._file, self.notes = bytes_, bytes_.notes
            else:
                self._file = _open(bytes_, self.path, isinstance(source, Pipe), stream)
                opened.callback(self._file.close)
                self.notes = self._file.notes if isinstance(self._file, Decoder) else []
                if isinstance(self._file, sf.SoundFile) and (end := _end_of_wav(bytes_)) is not None:
                    self.notes.append(f"{bytes_.seek(0, os.SEEK_END) - end} bytes follow its end and are left out")
            if self.streams < (stream or 1) and not isinstance(self._file, Decoder):
                raise AudioError(f"{self.path}: has one audio stream, not {stream}.", "Leave out `audio_stream`.")
            self._opened = opened.pop_all()
        if isinstance(self._file, sf.SoundFile):
            assert not isinstance(bytes_, Samples)
            self.format = _format_of(self._file, _beginning(bytes_))
            if self.format.container == "W64":
                self.format = replace(self.format, samples=_samples_of_w64(bytes_, self.format))
        else:
            self.format = self._file.format
        self.format = replace(self.format, suffix=self.path.suffix.lower())

    @property
    def streams(self) -> int:
        """How many streams of sound there are."""
        return self._file.streams if isinstance(self._file, Decoder) else 1

    def metadata(self) -> Metadata:
        """Return what is there beside the sound."""
        if isinstance(self._bytes, Samples):
            return self._bytes.metadata
        found = read_metadata(self._bytes, self.format)
        if isinstance(self._file, Decoder):
            found.lost.extend(self._file.beside())
        return found

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self, size: int) -> Iterator[Waveform]:
        """Yield the samples in order as float32 [channels, n], 0 < n ≤ size, ±1 full scale, each sample once."""
        while True:
            start, samples = self._position, self.format.samples  # a FLAC may turn out to be longer
            count = size if samples is None else min(size, samples - start)  # an array as long is made first
            try:
                frames = self._file.read(count, dtype="float32", always_2d=True)  # [n, channels]
            except sf.LibsndfileError as error:
                assert isinstance(self._file, sf.SoundFile)
                decoded = self._first + self._file.tell()  # also of the block that could not be finished
                raise _damaged(self.path, decoded, self.format, error.error_string) from error
            if not len(frames):
                if start == samples and self._go_on():
                    continue
                break
            self._position += len(frames)
            yield self._finite(np.ascontiguousarray(frames.T), start)
        if samples not in (None, start):
            raise _damaged(self.path, start, self.format, "the file ends there")

    def _go_on(self) -> bool:
        """Open the next stream of a file of several FLAC streams, if there is one."""
        if self.format.container != "FLAC" or isinstance(self._bytes, Samples):
            return False
        reached = self._bytes.tell() - _READ_AHEAD
        last = self._flac or next_flac(self._bytes, 0) or 0  # behind an ID3 tag, perhaps
        start = next_flac(self._bytes, max(last + 1, reached))
        if start is None:
            return False
        self._flac, self._first = start, self._position
        self._file = self._opened.enter_context(_Forward(Window(self._bytes, start)))
        more = _format_of(self._file, b"")
        if (more.rate, more.channels) != (self.format.rate, self.format.channels):
            raise AudioError(
                f"{self.path}: after {self.format.seconds:.3f} s a FLAC of {more.rate} Hz and {more.channels} channels "
                f"follows one of {self.format.rate} Hz and {self.format.channels}.",
                "Cut the file there.",
            )
        total = None if more.samples is None else (self.format.samples or 0) + more.samples
        self.format = replace(self.format, samples=total)
        return True

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
            "Use `replace_nan=True` to replace such samples with silence.",
        )


def _opened(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(
                f"{path}: is a folder.",
                f"To enhance its files: {shlex.join(['sbm', 'batch', str(path), '-o', 'cleaned'])}",
            )
        if not stat.S_ISREG(mode):
            raise AudioError(f"{path}: is not a regular file.", "Save it to a file first, or pipe it to stdin (-).")
        return path.open("rb")
    except OSError as error:
        hint = f"Check the path; relative ones start at {Path.cwd()}." if isinstance(error, FileNotFoundError) else ""
        raise AudioError(f"{path}: {str(error.strerror).lower()}.", hint) from error


class _Forward(sf.SoundFile):  # type: ignore[misc]
    """A sound file that is read in order: soundfile would seek after each block, and in some FLAC it cannot."""

    def seekable(self) -> bool:
        return False


def _open(file: BinaryIO, path: Path, is_pipe: bool, stream: int | None) -> sf.SoundFile | Decoder:
    """Open a file, or what a pipe of the name `path` was copied to, for reading."""
    beginning = sniff(file)
    if not beginning:
        is_empty = not file.seek(0, os.SEEK_END)
        reason = "it is empty, 0 bytes" if is_empty else "a tag without a single sample"
        raise AudioError(f"{path}: not a sound file ({reason}).", "Copy it again.")
    fmt = _beginning(file).partition(b"fmt ")[2]
    if (
        is_foreign(beginning)
        or is_mpeg(beginning)
        or bare_format(path, beginning)
        or (beginning.startswith(b"RIFF") and fmt[4:6] in (b"\x50\0", b"\x55\0"))  # MPEG, which libsndfile miscounts
        or (beginning.startswith(b"riff") and fmt[20:22] + fmt[44:46] == b"\xfe\xff\3\0")  # floats: as integers there
    ):
        return Decoder(file, path, stream)
    try:
        end = _end_of_wav(file)
        # By its name alone, libsndfile would look for MP3 in whatever is called .mp3, and write to stderr about it.
        unnamed = is_pipe or path.suffix.lower() in _MPEG_SUFFIXES
        if unnamed or end is not None or beginning.startswith(b"fLaC"):
            opened = _Forward(Window(file, 0, end))
        else:  # as bytes, names that are not valid UTF-8 can be opened too
            opened = _Forward(os.fsencode(path) if os.name == "posix" else path)
    except sf.LibsndfileError as error:
        # Should FFmpeg not read it either; of FLAC libsndfile says "possibly a pipe", which misleads.
        damaged = "damaged, or without a single sample" if beginning.startswith(b"fLaC") else ""
        return Decoder(file, path, stream, damaged or str(error.error_string).rstrip("."))
    if opened.format in _MISCOUNTED:
        opened.close()
        return Decoder(file, path, stream)
    try:
        _check_complete(path, _beginning(file), opened)
    except AudioError:
        opened.close()
        raise
    return opened


def _beginning(file: BinaryIO) -> bytes:
    """Return the first bytes of a file."""
    file.seek(0)
    return file.read(2**16)


def _format_of(file: sf.SoundFile, beginning: bytes) -> AudioFormat:
    tags = tuple((name, text) for name, text in file.copy_metadata().items() if text and name != "software")
    samples = None if file.frames >= 2**62 else file.frames  # FLAC from a pipe
    form = AudioFormat(file.samplerate, file.channels, samples, file.format, file.subtype, file.endian, tags)
    places = sf._ffi.new("int[]", file.channels)  # SFC_GET_CHANNEL_MAP_INFO, for which soundfile has no name:
    if sf._snd.sf_command(file._file, 0x1100, places, sf._ffi.sizeof(places)):
        form = replace(form, channel_map=tuple(places))
    layout = beginning.partition(b"fmt ")[2]
    valid = int.from_bytes(layout[22:24], "big" if file.endian == "BIG" else "little")
    bits = INTEGER_BITS.get(file.subtype, 0)
    return replace(form, valid_bits=valid) if file.format == "WAVEX" and 0 < valid < bits else form


def _samples_of_w64(file: BinaryIO, form: AudioFormat) -> int | None:
    """Return the number of samples: libsndfile takes what is behind them, were it padding, for more of them."""
    place = file.tell()
    size = sample_bytes(file)
    file.seek(place)
    if size is None or form.samples is None or form.subtype not in SAMPLE_BYTES:
        return form.samples
    return min(form.samples, size // (form.channels * SAMPLE_BYTES[form.subtype]))


def _end_of_wav(file: BinaryIO) -> int | None:
    """Return where a WAV ends that is followed by what is neither a chunk nor empty: another file, perhaps."""
    head = _beginning(file)[:12]
    end, size = int.from_bytes(head[4:8], "little") + 8, file.seek(0, os.SEEK_END)
    if head[:4] + head[8:] != b"RIFFWAVE" or means_unknown(end) or end + end % 2 >= size:
        return None
    file.seek(end + end % 2)
    rest = file.read(2**16)
    if not any(rest) or (rest[:4].isalpha() and rest[:4] not in (b"RIFF", b"RIFX")) or rest[:3] in (b"ID3", b"id3"):
        return None
    return end


def _damaged(path: Path, samples: int, form: AudioFormat, reason: str) -> AudioError:
    total = "" if form.samples is None else f" of {form.seconds:.3f}"
    return AudioError(
        f"{path}: truncated or damaged: readable for {samples / form.rate:.3f}{total} s "
        f"({reason.rstrip('.') or 'decoding failed'}).",
        f"Copy it again, or keep what is there: {salvage(path)}",
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
    hint = f"Copy it again, or keep what is there: {salvage(path)}"
    if file.frames == 0 and file.format in ("WAV", "WAVEX") and _is_unfinished(beginning):
        raise AudioError(
            f"{path}: its header says 0 samples, but more follows (an unfinished recording?).",
            f"Repair it: {salvage(path, '-ignore_length', '1')}",
        )
    found = _SHORTER.search(log)
    if found and not means_unknown(int(found[1])) and int(found[1]) > int(found[2]):
        raise AudioError(f"{path}: truncated: its header promises {found[1]} bytes, {found[2]} are there.", hint)
    if file.format in ("AIFF", "RF64") and _SHORTER_SENTENCE.search(log):
        raise AudioError(f"{path}: truncated: the file is shorter than its header says.", hint)


def _is_unfinished(beginning: bytes) -> bool:
    """Whether a data chunk of size 0 is followed by something that is not the name of a next chunk."""
    _, marker, after = beginning.partition(b"data\0\0\0\0")
    name = after[:4]
    return bool(marker and name) and not (name.isascii() and name.decode().isprintable())
