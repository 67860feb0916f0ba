"""Sound files and pipes to write to, in blocks; a file is complete or absent."""

import contextlib
import io
import os
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile as sf

from sbm_cli import atomic
from sbm_cli.audio.encoder import SoundEncoder
from sbm_cli.audio.ffmpeg import opus_target
from sbm_cli.audio.format import AudioFormat, Waveform, storable
from sbm_cli.audio.metadata import Metadata
from sbm_cli.audio.mpeg import KBPS
from sbm_cli.audio.pipe import Pipe, PipeWriter, temporary_folder
from sbm_cli.errors import DISK_FULL, FULL, AudioError, exists_error

_WRITE_FRAMES = 4096  # libsndfile overflows its stack on a Vorbis block of three million samples
_UNREADABLE_WHEN_EMPTY = {"FLAC", "OPUS", "MP3"}  # libsndfile 1.2 writes them without a complaint and cannot open them
_VORBIS_ORDER = {  # of channels, by their places in a WAV
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 4, 5, 3],
    7: [0, 2, 1, 5, 6, 4, 3],
    8: [0, 2, 1, 6, 7, 4, 5, 3],
}


class SoundWriter:
    """Write a sound file in blocks; a context manager. The file appears under its name when all is written, or never.

    path: the target. Until the end the samples go to a hidden file beside it, which an exception removes.
    format: rate, channels, container, subtype, endian and tags of the file; see `format_for`.
    overwrite: replace a file of that name; otherwise one that is there, even one that appears meanwhile, is kept.
    metadata: what the source of the sound holds beside it. source: its file; whoever may not read that may not read a
    new target. One that is replaced leaves the new one its mode and owner.

    In the end `not_carried` names what there was no room for; `bit_rate` is that of a codec that loses something.

    Raises OutputExistsError if it is there, AudioError if the folder or the disc does not take it, or if nothing was
    written and the format cannot hold nothing (FLAC, Opus, MP3).
    """

    def __init__(
        self,
        path: str | Path,
        format: AudioFormat,
        overwrite: bool = False,
        metadata: Metadata | None = None,
        source: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.not_carried: tuple[str, ...] = ()
        self.bit_rate = format.bit_rate if format.is_lossy and format.is_encoded else 0
        if format.subtype == "MPEG_LAYER_III" and not format.is_encoded and format.bit_rate:
            mode, kbps = _mp3_mode(format)
            self.bit_rate = round(1000 * kbps) if mode == "CONSTANT" else 0
        self._metadata = metadata or Metadata(format)
        self._source = source
        self.format = format
        self._overwrite = overwrite
        self._written = 0
        # libsndfile takes the channels of Vorbis and Opus as they are stored.
        in_ogg = format.container == "OGG" and not format.is_encoded
        self._order = _VORBIS_ORDER.get(format.channels) if in_ogg else None

    def __enter__(self) -> "SoundWriter":
        # A link stays a link; what it points to is replaced.
        self._target = Path(os.path.realpath(self.path))
        if self._target.exists() and not self._target.is_file():
            raise AudioError(f"{self.path}: not a regular file.", "Choose a file as the output.")
        if not self._overwrite and self._target.exists():
            raise exists_error(self.path)
        if self._target.exists() and not os.access(self._target, os.W_OK):  # a new file in its place would not ask
            raise AudioError(f"{self.path}: is read-only.", "Make it writable, or choose another output.")
        try:
            mode = 0o600 if self._target.exists() else atomic.mode_for_new(self._target, self._source)
            self._part = atomic.new_part(self._target, mode)
        except OSError as error:
            reason = str(error.strerror).lower()
            hint = f"Make the folder {self._target.parent} first." if isinstance(error, FileNotFoundError) else ""
            raise AudioError(f"{self.path}: cannot be written ({reason}).", hint) from error
        try:
            self._file: sf.SoundFile | SoundEncoder = self._open()
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    def write(self, block: Waveform) -> None:
        """Append float32 [channels, n]. Integer formats round to the nearest step and limit at full scale.

        Raises ValueError for another channel count or a sample that is not finite, AudioError if the disc is full.
        """
        frames = storable(block, self.format)
        if self._order is not None:
            frames = np.ascontiguousarray(frames[:, self._order])
        with self._failing_as_audio_error():
            for start in range(0, len(frames), _WRITE_FRAMES):
                self._file.write(frames[start : start + _WRITE_FRAMES])
        self._written += len(frames)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(sf.LibsndfileError, OSError):
                    (self._file.opened if isinstance(self._file, SoundEncoder) else self._file).close()
                return
            with self._failing_as_audio_error():
                self._file.close()
            is_unreadable = (
                self.format.is_encoded or {self.format.container, self.format.subtype} & _UNREADABLE_WHEN_EMPTY
            )
            if not self._written and is_unreadable:
                raise AudioError(
                    f"{self.path}: {self.format.container} files cannot be empty.", "Choose a .wav as the output."
                )
            if self.format.is_lossy and self._written and not self.bit_rate:
                self.bit_rate = round(8 * self._part.stat().st_size * self.format.rate / self._written)
            if isinstance(self._file, SoundEncoder):  # which brings what FFmpeg read, and tags
                others = () if self.format.origin else self._metadata.beyond_tags
                self.not_carried = (*self._file.not_carried, *others)
            else:
                with self._failing_as_audio_error():
                    self.not_carried = self._metadata.write(self._part, self.format)
            self._publish()
        finally:
            self._part.unlink(missing_ok=True)

    @property
    def notes(self) -> list[str]:
        """What to report of the file that was written."""
        return self._file.notes if isinstance(self._file, SoundEncoder) else []

    def _open(self) -> sf.SoundFile | SoundEncoder:
        form = self.format
        if form.is_encoded:
            with self._failing_as_audio_error():
                return SoundEncoder(self._part, replace(form, tags=self._metadata.tags), self.path)
        try:
            file = sf.SoundFile(
                os.fsencode(self._part) if os.name == "posix" else str(self._part),
                "w",
                samplerate=form.rate,
                channels=form.channels,
                subtype=form.subtype,
                endian=form.endian,
                format=form.container,
                **_quality(form),
            )
        except (sf.LibsndfileError, ValueError) as error:
            if cause := self._refusal():
                with self._failing_as_audio_error():
                    raise cause from error
            reason = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
            raise AudioError(
                f"{self.path}: {form.container} {form.subtype} with {form.channels} channels at {form.rate} Hz "
                f"cannot be written ({reason.rstrip('.')})."
            ) from error
        if len(form.channel_map) == form.channels:
            places = sf._ffi.new("int[]", form.channel_map)  # SFC_SET_CHANNEL_MAP_INFO; WAVEX, CAF and AIFF have room
            sf._snd.sf_command(file._file, 0x1101, places, sf._ffi.sizeof(places))
        if form.container == "RF64" and form.samples is None:
            # SFC_RF64_AUTO_DOWNGRADE, for which soundfile has no name: a WAV, should it stay below 4 GiB.
            sf._snd.sf_command(file._file, 0x1210, sf._ffi.NULL, 1)
        for name, text in self._metadata.tags_for(form):
            with contextlib.suppress(sf.LibsndfileError, RuntimeError):  # W64 and AU have no tags
                setattr(file, name, text)
        return file

    def _publish(self) -> None:
        """Give the finished file its name."""
        try:
            atomic.sync(self._part)
            if not self._overwrite:
                atomic.publish_new(self._part, self._target)
                return
            if self._target.exists():
                atomic.keep_mode(self._part, self._target)
            self._part.replace(self._target)
        except FileExistsError as error:
            raise exists_error(self.path) from error
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({str(error.strerror).lower()}).") from error

    @contextlib.contextmanager
    def _failing_as_audio_error(self) -> Iterator[None]:
        try:
            yield
        except (sf.LibsndfileError, AssertionError, OSError) as error:  # soundfile asserts that all frames were taken
            cause = error if isinstance(error, OSError) else self._refusal()
            if cause is not None:
                reason = str(cause.strerror).lower()
            else:
                reason = error.error_string if isinstance(error, sf.LibsndfileError) else "not all samples were taken"
            raise AudioError(
                f"{self.path}: writing failed at {self._written / self.format.rate:.1f} s ({reason.rstrip('.')}).",
                DISK_FULL if cause and cause.errno in FULL else "Is the disk full?",
            ) from error

    def _refusal(self) -> OSError | None:
        """Return why the disc takes no more, which libsndfile calls a system error; None if it does take more."""
        try:
            with self._part.open("ab") as file:
                file.write(bytes(2**16))
        except OSError as error:
            return error
        return None


@contextlib.contextmanager
def open_writer(
    target: str | Path | Pipe,
    format: AudioFormat,
    overwrite: bool = False,
    metadata: Metadata | None = None,
    source: Path | None = None,
) -> Iterator[SoundWriter | PipeWriter]:
    """Open a file or a pipe to be written; formats whose header is finished last go through a temporary file."""
    if not isinstance(target, Pipe):
        with SoundWriter(target, format, overwrite, metadata, source) as writer:
            yield writer
    elif format.container in ("RAW", "WAV", "WAVEX", "RF64"):
        with PipeWriter(target, format) as writer_of_pipe:
            yield writer_of_pipe
            writer_of_pipe.not_carried = (*metadata.beyond_tags, *dict(metadata.tags)) if metadata else ()
    else:
        with TemporaryDirectory(dir=temporary_folder()) as folder:
            path = Path(folder, f"sound{target.suffix}")
            with SoundWriter(path, format, metadata=metadata) as writer:
                yield writer
            with path.open("rb") as file:
                shutil.copyfileobj(file, target, 2**20)
            target.file.flush()


def _quality(form: AudioFormat) -> dict[str, Any]:
    """Return what makes libsndfile write a codec at a bit rate, where one is given."""
    if not form.bit_rate:
        return {}
    if form.subtype == "MPEG_LAYER_III":
        (mode, kbps), (least, most) = _mp3_mode(form), _mp3_range(form.rate)
        if mode == "AVERAGE" and not form.variable:
            kbps *= 1.1  # it stays as much below what it is asked for
        return {"bitrate_mode": mode, "compression_level": min(0.99, (most - kbps) / (most - least))}
    if form.subtype == "OPUS":
        kbps = opus_target(form.bit_rate) / 1000
        return {"compression_level": min(0.99, max(0.0, (256 - kbps / form.channels) / 250))}
    if form.subtype == "VORBIS" and form.takes_bit_rate:
        return {"compression_level": 1 - _vorbis_quality(form.rate, form.channels, form.bit_rate)}
    return {}


def _mp3_mode(form: AudioFormat) -> tuple[str, float]:
    """Return the mode in which an MP3 is written at a bit rate, and the rate in kbit/s."""
    wanted, (_, most) = form.bit_rate / 1000, _mp3_range(form.rate)
    rates = [rate for rate in KBPS[form.rate >= 32000, 3] if wanted <= rate + 0.5]
    # A variable rate was lowered by every pause: the sound between them had more.
    kbps = min(1.25 * wanted if form.variable else min(rates, default=most), most)
    frame = (144 if form.rate >= 32000 else 72) * kbps * 1000 / form.rate
    # In a smaller frame of a constant rate LAME does not tell how much it put before the sound.
    return "AVERAGE" if form.variable or frame < 200 else "CONSTANT", kbps


def _mp3_range(rate: int) -> tuple[int, int]:
    """Return the least and the highest bit rate of an MP3 in kbit/s."""
    return (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)


@lru_cache
def _vorbis_quality(rate: int, channels: int, bit_rate: int) -> float:
    """Return the least quality, from 0 to 1, whose bit rate is as high: Vorbis varies it, and states a nominal one."""

    def nominal(percent: int) -> int:
        file, silence = io.BytesIO(), np.zeros((1, channels))
        sf.write(file, silence, rate, "VORBIS", format="OGG", compression_level=1 - percent / 100)
        _, _, fields = file.getvalue().partition(b"\1vorbis")
        return int.from_bytes(fields[13:17], "little")

    return min(100, bisect_left(range(101), bit_rate, key=nominal)) / 100
