"""Sound that FFmpeg encodes, into a container of its own or in place of the sound of the file that it came from.

What that file holds beside it (pictures, subtitles, chapters, attachments, tags, other sound) is copied as it is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio import ffmpeg
from sbm_cli.audio.decoder import TAGS, open_container
from sbm_cli.audio.ffmpeg import av
from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.metadata.items import is_gain
from sbm_cli.audio.mp4 import shortened
from sbm_cli.audio.segments import Window
from sbm_cli.errors import AudioError

_QUIET = 1e-3  # of full scale: what may give way to the silence that an encoder puts before the sound
_FRAME = 4096  # samples, for encoders that take any number of them
_TYPES = {"flt": np.float32, "s16": np.int16, "s32": np.int32, "u8": np.uint8}  # of FFmpeg's samples
_NAMES = {ours: theirs for theirs, ours in TAGS.items()}


class SoundEncoder:
    """Write a file by FFmpeg: what of `sf.SoundFile` a writer needs.

    name: of the file in the end, for errors. notes: what to report of it; not_carried: names of what of the source
    it has no room for.

    Raises AudioError if the container does not take it, OSError while writing.
    """

    def __init__(self, path: Path, form: AudioFormat, name: Path) -> None:
        self._name = name
        self.notes: list[str] = []
        self.not_carried: list[str] = []
        self._form, self._muxer, self._kind = form, ffmpeg.MUXERS[form.container], ffmpeg.ENCODERS[form.subtype]
        self._written = 0
        self._waiting: tuple[float, Any] | None = None
        self._end: int | None = None  # of the sound, in samples, once it is known
        self._filling = 0  # samples behind it, in the last frame
        self._cut_twice = False  # whether this frame also begins before the sound
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(path.open("w+b"))
            origin = form.origin
            self._source: Any = None  # what the sound came from
            self._sound: Any = None  # the stream there
            if origin:
                self._source = opened.enter_context(open_container(shortened(Window(origin.file)), origin.path))
                self._sound = self._source.streams.audio[origin.stream]
            with _as_os_error():
                self._begin()
            self.opened = opened.pop_all()  # closing it leaves the file as it is, to be removed
        self._rest: NDArray[Any] = np.zeros((0, form.channels), np.float32)
        self._delay = self._measured_delay()
        self._begun = False

    def write(self, frames: NDArray[np.float32 | np.int32]) -> None:
        """Append samples [n, channels] as `storable` gives them."""
        self._rest = np.concatenate([self._rest, frames]) if len(self._rest) else frames
        if len(self._rest) <= self._delay:
            return
        with _as_os_error():
            self._make_room()
            size = self._encoder.frame_size or _FRAME
            whole = len(self._rest) // size * size
            for start in range(0, whole, size):
                self._encode(self._rest[start : start + size])
            self._rest = self._rest[whole:]

    def close(self) -> None:
        """Finish the file."""
        with self.opened, _as_os_error():
            self._make_room()
            self._end = self._begin_pts + self._written + len(self._rest)
            if not self._encoder.codec.delay:  # which gives nothing out but for what is put in
                silence = np.zeros_like(self._rest, shape=(self._delay, self._form.channels))
                self._rest = np.concatenate([self._rest, silence])
            if len(self._rest):
                self._encode(self._rest)
            self._mux(self._encoder.encode(None))
            if self._filling > 0 and (self._cut_twice or not self._muxer.exact):
                seconds = self._filling / self._form.rate
                self.notes.append(f"{seconds:.3f} s of silence follow: {self._form.container} stores whole frames")
            self._copy(None)
            self._output.close()
            self._name_lost()

    # --- what is copied

    def _begin(self) -> None:
        """Write the header, with as many of the source's other streams as the container takes."""
        others = ffmpeg.others(self._source, self._sound) if self._source else []
        has_cover = self._form.container in ("M4A", "MKA")  # of one picture; a video has room for all
        fitting = [stream for stream in others if self._muxer.video or (has_cover and ffmpeg.is_still(stream))]
        kinds = {stream.type for stream in fitting}
        error: Exception | None = None
        for left_out in (set(), {"data"}, {"data", "attachment"}, {"data", "attachment", "subtitle"}, kinds):
            if error and not left_out & kinds:
                continue
            try:
                self._add([stream for stream in fitting if stream.type not in left_out])
                self._start()
            except (av.FFmpegError, ValueError) as refused:
                error = refused
                self._file.seek(0)
                self._file.truncate()
                continue
            self.not_carried += ffmpeg.named(stream for stream in others if stream.index not in self._targets)
            tags = self._source.metadata | self._sound.metadata if self._source else {}
            self.not_carried += [name for name in tags if is_gain(name)]
            return
        raise AudioError(
            f"{self._name}: {self._form.container} {self._form.subtype} cannot be written ({error})."
        ) from error

    def _start(self) -> None:
        """Write the header. That of Opus says 48 kHz, whatever is encoded: FFmpeg counts the delay of an MP4 so."""
        form, context = self._form, self._stream.codec_context
        context.open(strict=False)
        self._encoder = context
        if form.subtype == "OPUS":
            self._encoder = ffmpeg.encoder(form.subtype, form.rate, form.layout, form.bit_rate)
            context.extradata = self._encoder.extradata
        self._output.start_encoding()

    def _add(self, others: list[Any]) -> None:
        """Open the output with the streams in the order of the source."""
        form, source, sound = self._form, self._source, self._sound
        tags = {**source.metadata} if source else {}
        options = {}
        if self._muxer.delay == "at 0":  # MP4 and its kin, which else count in milliseconds
            options["movie_timescale"] = str(form.rate)
        if self._muxer.brand:
            options["brand"] = self._muxer.brand
        if any(name.startswith(("com.apple.quicktime", "com.android")) for name in tags):
            options["movflags"] = "use_metadata_tags"  # else those that iTunes does not know are lost
        self._output: Any = av.open(
            self._file, "w", format=self._muxer.name, container_options=options, **ffmpeg.raw_tags()
        )
        self._targets = {}
        streams = [*others, *([sound] if sound else [])]
        for stream in sorted(streams, key=lambda each: each.index) or [None]:
            if stream is sound:
                rate = 48000 if form.subtype == "OPUS" else form.rate
                self._stream: Any = self._output.add_stream(self._kind.name, rate=rate)
                ffmpeg.configure(self._stream.codec_context, form.subtype, rate, form.layout, form.bit_rate)
                target = self._stream
            else:
                target = self._output.add_stream_from_template(stream, opaque=True)
                self._targets[stream.index] = target
            if stream is not None:
                target.metadata.update(_kept(stream.metadata))
                target.disposition = stream.disposition.value
        if source and source.format.name == "ogg":
            tags |= sound.metadata  # whose tags are those of its streams
        self._output.metadata.update(_kept(tags) if source else {_NAMES[name]: text for name, text in form.tags})
        chapters = source.chapters() if source else []
        self._output.set_chapters(chapters)
        self._chapters = len(chapters)
        self._copied, self._packets = others, self._others_packets(others)

    def _others_packets(self, streams: list[Any]) -> Iterator[tuple[float, Any]]:
        """Yield the packets to copy, each with its time in seconds."""
        time = 0.0
        for packet in self._source.demux(streams) if streams else ():
            is_pause = packet.stream.type == "subtitle" and bytes(packet) == b"\0\0"  # in MP4, whose muxer puts its own
            if packet.size and not is_pause:
                stamp = packet.dts if packet.dts is not None else packet.pts
                time = time if stamp is None else float(stamp * packet.time_base)
                yield time, packet

    def _copy(self, until: float | None) -> None:
        """Copy the packets up to a time in seconds, or all that are left."""
        while waiting := self._waiting or next(self._packets, None):
            self._waiting, (time, packet) = waiting, waiting
            if until is not None and time > until:
                return
            packet.stream = self._targets[packet.stream.index]
            self._output.mux(packet)
            self._waiting = None

    def _name_lost(self) -> None:
        """Name those of the tags, chapters and streams that the file, read again, does not have.

        Refuse what is too short to be told from other files, such as one frame of MP2.
        """
        tags = {name.lower() for name in self._output.metadata}
        missing = Counter(stream.type for stream in self._copied)
        if self._muxer.exact and not (tags or self._chapters or missing):
            return
        there, chapters = dict[str, str](), 0
        try:
            with open_container(shortened(Window(self._file)), self._name) as written:
                there = written.metadata | (written.streams.audio[0].metadata if written.streams.audio else {})
                chapters = len(written.chapters())
                missing += Counter({"audio": 1})
                missing -= Counter(stream.type for stream in written.streams)
        except (av.FFmpegError, ValueError) as error:
            if not self._muxer.exact:
                raise AudioError(
                    f"{self._name}: too short for {self._form.container}, which has no header to know it by.",
                    "Choose a .wav as the output.",
                ) from error
        lost = []
        for stream in reversed(self._copied):
            if missing[stream.type]:
                missing[stream.type] -= 1
                lost.append(stream)
        self.not_carried += ffmpeg.named(lost, self._chapters if self._chapters > chapters else 0)
        self.not_carried += sorted(tags - {name.lower() for name in there} - ffmpeg.OWN_TAGS)

    # --- the sound

    def _encode(self, frames: NDArray[Any]) -> None:
        form, kind = self._form, self._kind
        samples = frames
        if kind.samples.startswith("s16"):
            samples = (frames >> 16 if frames.dtype == np.int32 else frames).astype(np.int16)
        elif kind.samples.startswith("u8"):
            samples = ((frames >> 24) + 128).astype(np.uint8)
        elif form.has_full_scale and frames.dtype == np.float32:
            samples = np.clip(frames, -1, 1)  # from far beyond it some encoders do not return
        frame = ffmpeg.frame_of(samples, kind.samples, form.layout, form.rate)
        frame.time_base = Fraction(1, form.rate)
        frame.pts = self._begin_pts + self._written
        self._written += len(frames)
        self._copy((self._begin_pts + self._written) / form.rate)
        self._mux(self._encoder.encode(frame))

    @property
    def _begin_pts(self) -> int:
        """When the sound begins, in samples."""
        return round(self._form.origin.start * self._form.rate) if self._form.origin else 0

    def _mux(self, packets: list[Any]) -> None:
        """Write packets of sound; a frame that ends behind it says by how much, for containers that can store that."""
        size, rates = self._encoder.frame_size, (self._stream.codec_context.sample_rate, self._form.rate)
        ends = self._end is not None and self._kind.bit_rate  # what loses nothing has a shorter last frame
        for packet in packets:
            packet.stream = self._stream
            over = packet.pts + size - self._end if ends else 0
            if over >= size > 0:  # silence alone
                continue
            # A frame that is cut at its beginning FFmpeg does not cut at its end too; in MP4 it might lose it all.
            self._cut_twice = packet.pts < self._begin_pts and over > 0 and self._muxer.name != "ogv"
            if over > 0:
                packet.duration = size if self._cut_twice else size - over
                skip = av.packet.PacketSideData(ffmpeg.SKIP_SAMPLES, ffmpeg.SKIP.size)
                skip.update(ffmpeg.SKIP.pack(0, over * rates[0] // rates[1], 0, 0))
                packet.set_sidedata(skip)
            self._filling = over + size * self._kind.leads
            self._output.mux(packet)

    def _measured_delay(self) -> int:
        """Return how many samples the encoder puts before the sound."""
        form = self._form
        context = ffmpeg.encoder(form.subtype, form.rate, form.layout, form.bit_rate)
        silence = np.zeros((context.frame_size or _FRAME, form.channels), _TYPES[self._kind.samples.rstrip("p")])
        frame = ffmpeg.frame_of(silence, self._kind.samples, form.layout, form.rate)
        frame.time_base, frame.pts = Fraction(1, form.rate), 0
        packets = [*context.encode(frame), *context.encode(None)]
        delay = -packets[0].pts if packets and packets[0].pts is not None else 0
        return self._kind.delay or max(0, delay)

    def _make_room(self) -> None:
        """Let what the encoder puts before the sound take the place of what its last one put there, or of silence.

        Only where players are not told of it: everything would come later by that much, and by more each time.
        """
        if self._begun:
            return
        self._begun = True
        if self._kind.leads:
            self._written = -self._encoder.frame_size
            self._rest = np.concatenate([np.zeros((-self._written, self._form.channels), np.float32), self._rest])
        start = self._form.origin.start if self._form.origin else 0.0
        is_at_0 = start * self._form.rate < self._delay
        is_known = self._form.source_delay == "always" or (self._form.source_delay == "at 0" and is_at_0)
        is_beside = self._muxer.delay == "beside" and bool(self._targets) and is_known
        if self._muxer.delay == "always" or (self._muxer.delay == "at 0" and is_at_0) or is_beside:
            return
        beginning = self._rest[: self._delay]
        scale = 2.0**31 if beginning.dtype == np.int32 else 1.0
        # What a decoder of the same codec gave before its first whole window was no sound.
        is_longer = len(self._rest) > self._delay
        if is_longer and (not is_known or np.abs(beginning / scale).max(initial=0.0) < _QUIET):
            self._rest = self._rest[self._delay :]
            self._written = self._delay
        elif self._muxer.delay == "never" or not self._targets:
            self._written = self._delay
            seconds = self._delay / self._form.rate
            self.notes.append(f"the sound starts {seconds:.3f} s later: {self._form.container} cannot store a delay")


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name.lower() not in ffmpeg.OWN_TAGS and not is_gain(name)}


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
