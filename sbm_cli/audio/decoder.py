"""Sound that FFmpeg decodes: one stream of a file after the other, in order, at constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio import ffmpeg
from sbm_cli.audio.ffmpeg import av
from sbm_cli.audio.format import SAMPLE_BYTES, AudioFormat, Origin, Waveform
from sbm_cli.audio.metadata.items import text
from sbm_cli.audio.mp4 import LongSound, shortened
from sbm_cli.audio.mpeg import AAC_RATES, aac_segments, is_aac, mpeg_segments
from sbm_cli.audio.resample import StreamResampler
from sbm_cli.audio.segments import Segment, Window, caf_segments, ogg_segments, sniff
from sbm_cli.audio.truncation import BOXES, cut_short
from sbm_cli.errors import AudioError

# Seconds without sound beside a picture that become silence: less is the coarseness of time stamps, more another clock.
_GAP, _MOST_GAP = 0.02, 600.0
_SILENCE = 1.0  # seconds of it at a time
_FIRST_FRAMES = {"mpegts", "mpeg", "loas"}  # of whose AAC FFmpeg knows the first frames' bit rate
_MOVIE_CLOCKS = (600, 1000)  # Hz, of most MP4
_OPUS_RATES = (8000, 12000, 16000, 24000)  # of what was encoded, which Opus decodes to 48 kHz all the same
TAGS = {name: name for name in ("title", "artist", "album", "comment", "copyright", "date", "genre")}
TAGS |= {"track": "tracknumber", "license": "license", "publisher": "organization"}
# Whose plain samples libsndfile reads, unless their header is damaged: then FFmpeg's guess is not to be trusted either.
_STRICT = {"wav", "w64", "aiff", "caf", "au", "nistsphere"}
_TAGGED = {"MP3", "OGG", "WAV", "CAF", "AIFF", "W64"}  # whose covers, chapters and tags are read as metadata
# How files begin that FFmpeg reads, in which libsndfile would look, loudly, for MP3; and those that libsndfile reads.
_FOREIGN = (b"OggS", b"BW64", b"\x1aE\xdf\xa3", b"0&\xb2u", b"FLV\1", b"wvpk", b"TTA1", b"MAC ", b"#!AMR")
_SHORT = (b"\xff\xf1", b"\xff\xf9", b"\x0bw", b"G@")  # and so perhaps by chance: AAC, AC-3, MPEG-TS
_FRAMED = {".aac", ".ac3", ".eac3", ".mp2", ".ts"}  # one frame after the other, without a header
_PLAIN = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"FORM", b"caff", b".snd", b"NIST_1A")
_WITHOUT_DURATION = {"ASF", "AVI", "SOX", "VOC", "W64", "WAV"}  # if their end is missing
_OPENING = {"format_whitelist": ffmpeg.DEMUXERS, "protocol_whitelist": "pipe"}


class Decoder:
    """The sound of a file, read in order; see `SoundReader`, which hands it out in blocks.

    reason: why libsndfile did not read it, for the error. notes: what to report of it, complete once all is read.

    Raises AudioError if it holds no sound that FFmpeg knows, or not so many streams of it.
    """

    def __init__(self, file: BinaryIO, path: Path, stream: int | None = None, reason: str = "") -> None:
        self.notes: list[str] = []
        self._refused = bool(reason)
        self._reason = reason or "damaged, or without a single sample"
        self._file, self._path, self._stream = file, path, stream
        beginning = sniff(file)
        self._segments, strange = _segments(file, beginning)
        self._opened: Any = self._open(self._segments[0])
        try:
            self.format = self._format()
            self.has_pictures = any(
                other.type == "video" and not ffmpeg.is_still(other) for other in self._opened.streams
            )
        except BaseException:
            self.close()
            raise
        if strange:
            self.notes.append(f"{strange} bytes are neither sound nor a tag and are left out")
        self._waiting = np.zeros((self.format.channels, 0), np.float32)
        self._blocks = self._all()

    def read(self, frames: int, **_: object) -> NDArray[np.float32]:
        """Return the next samples [n, channels], fewer than `frames` only at their end.

        Raises AudioError where sound is missing.
        """
        blocks = [self._waiting]
        count = self._waiting.shape[1]
        while count < frames and (block := next(self._blocks, None)) is not None:
            blocks.append(block)
            count += block.shape[1]
        waveform = np.concatenate(blocks, axis=1)
        self._waiting = waveform[:, frames:]
        return np.ascontiguousarray(waveform[:, :frames].T)

    def close(self) -> None:
        self._opened.close()

    @property
    def streams(self) -> int:
        """How many streams of sound there are."""
        return len(self._opened.streams.audio)

    def beside(self) -> list[str]:
        """Name the streams, chapters and tags that are neither the sound nor metadata of a file of sound."""
        opened = self._opened
        others = ffmpeg.others(opened, self._sound)
        if self.format.container in _TAGGED:
            return ffmpeg.named([stream for stream in others if not ffmpeg.is_still(stream)])
        tags = {name.lower() for name in opened.metadata} - set(TAGS) - ffmpeg.OWN_TAGS
        return ffmpeg.named(others, len(opened.chapters())) + sorted(tags)

    # --- opening

    def _open(self, segment: Segment) -> Any:
        window = Window(self._file, segment.start, segment.end)
        shown = shortened(window)
        try:
            opened = open_container(shown, self._path)
            if isinstance(shown, LongSound) and not shown.tells_packets(opened):
                opened.close()
                shown, opened = window, open_container(window, self._path)
        except (av.FFmpegError, ValueError) as error:
            raise self._unreadable() from error
        self._long = shown if isinstance(shown, LongSound) else None
        return opened

    def _unreadable(self) -> AudioError:
        hint = "Check whether it plays elsewhere, or copy it again."
        if str(self._path) == "-":
            hint += " Of bare samples, tell the format: `raw=RATE:CHANNELS`."
        return AudioError(f"{self._path}: not a sound file ({self._reason}).", hint)

    def _chosen(self, container: Any) -> Any:
        """Return the stream that is meant: of several, the one that players play."""
        streams = container.streams.audio
        if not streams:
            raise AudioError(f"{self._path}: holds no sound ({self._reason}).")
        if self._stream is None:
            return container.streams.best("audio") or streams[0]
        if self._stream > len(streams) == 1:
            raise AudioError(f"{self._path}: has one audio stream, not {self._stream}.", "Leave out `audio_stream`.")
        if self._stream > len(streams):
            raise AudioError(
                f"{self._path}: has {len(streams)} audio streams, not {self._stream}.",
                f'Use `audio_stream=1` to {len(streams)}, or "all".',
            )
        return streams[self._stream - 1]

    def _format(self) -> AudioFormat:
        container = self._opened
        stream = self._chosen(container)
        context = stream.codec_context
        if context is None or not context.sample_rate or not context.channels or not context.format:
            raise self._unreadable()
        codec, extradata = context.codec.canonical_name, bytes(context.extradata or b"")
        name = container.format.name.split(",")[0]
        rate = context.sample_rate
        if codec == "opus" and (encoded := int.from_bytes(extradata[12:16], "little")):
            rate = encoded if encoded in _OPUS_RATES else rate
        if name == "flv" and codec == "aac" and len(extradata) > 1:  # whose header knows no rate above 44.1 kHz
            rate = AAC_RATES.get((extradata[0] & 7) << 1 | extradata[1] >> 7, rate)
        seconds = sum(segment.seconds for segment in self._segments)
        bits = sum(segment.bit_rate * segment.seconds for segment in self._segments)
        bit_rate = self._long.bit_rate if self._long else round(bits / seconds) if bits else context.bit_rate
        seconds = seconds or (float(stream.duration * stream.time_base) if stream.duration else 0.0)
        seconds = seconds or (container.duration or 0) / 1e6
        alone = len(container.streams) == 1 and seconds
        size = sum(segment.end - segment.start for segment in self._segments)
        if not bit_rate or bit_rate >= 2**31:  # Vorbis above 50 kHz states a negative one, read as 4.29 Gbit/s
            bit_rate = round(size * 8 / seconds) if alone else 0
        if codec == "aac" and name in _FIRST_FRAMES:
            bit_rate = max(bit_rate, ffmpeg.ENCODERS["AAC"].bit_rate * context.channels)
        if codec == "aac" and str(context.profile).startswith("HE"):
            bit_rate *= 2  # what we write is plain AAC, which needs about as much more
        self._sound = stream
        self._origin = Origin(self._path, self._file, container.streams.audio.index(stream))
        subtype = ffmpeg.subtype_of(codec, context.format.name, extradata)
        if self._refused and subtype in SAMPLE_BYTES and not subtype.startswith("ALAC") and name in _STRICT:
            raise self._unreadable()
        return AudioFormat(
            rate=rate,
            channels=context.channels,
            samples=None,
            container="MP4" if name == "mov" else name.upper(),
            subtype=subtype,
            tags=_tags(container.metadata | stream.metadata),
            duration=seconds,
            layout="" if context.layout.name.endswith(" channels") else context.layout.name,
            bit_rate=bit_rate,
            variable=any(segment.variable for segment in self._segments),
            origin=self._origin,
        )

    # --- reading

    def _all(self) -> Iterator[Waveform]:
        """Yield the sound of all segments as waveforms of the first one's rate and channels."""
        self._lost, self._first_lost, decoded = 0, 0.0, 0  # samples
        self._last_seconds = 0.0  # that the last frame lasts, as its container has it
        self._error: Exception | None = None
        for index, segment in enumerate(self._segments):
            if index:
                self.close()
                self._opened = self._open(segment)
            blocks = self._segment(segment)
            if self.format.container == "MP4":
                blocks = self._without_filling(blocks)
            for block in self._uniform(_up_to(segment.samples, blocks)):
                decoded += block.shape[1]
                yield block
            if segment.missing:
                raise self._truncated(decoded, segment.missing)
        if self._lost and self._lost >= decoded:
            raise AudioError(f"{self._path}: damaged: nothing in it can be decoded.")
        self._check_end(decoded)
        if self._lost:
            self.notes.append(
                f"{self._lost / self.format.rate:.3f} s could not be decoded and became silence, "
                f"first at {self._first_lost:.3f} s"
            )

    def _uniform(self, blocks: Iterator[tuple[Waveform, int]]) -> Iterator[Waveform]:
        """Bring blocks, each with its rate, to the rate and channels of the format."""
        form, resampler = self.format, None
        for block, rate in blocks:
            block = _with_channels(block, form.channels)
            if resampler is None or resampler.rate_in != rate:
                if resampler is not None:
                    yield resampler.flush()
                resampler = StreamResampler(rate, form.rate, form.channels)
            yield resampler.feed(block)
        if resampler is not None:
            yield resampler.flush()

    def _without_filling(self, blocks: Iterator[tuple[Waveform, int]]) -> Iterator[tuple[Waveform, int]]:
        """Leave out what fills up the last frame of an MP4: its tables tell the length, which FFmpeg does not heed."""
        place, last = 0.0, None
        for block in blocks:
            if last is not None:
                place += last[0].shape[1] / last[1]
                yield last
            last = block
        if last is not None:
            waveform, rate = last
            stream = self._chosen(self._opened)
            total = (stream.duration or 0) * stream.time_base
            if any((total * clock).denominator == 1 for clock in _MOVIE_CLOCKS):  # it may have been rounded to that
                total = 0
            counts = (round(seconds * rate) for seconds in (self._last_seconds, float(total) - place))
            yield waveform[:, : min((count for count in counts if count > 0), default=None)], rate

    def _segment(self, segment: Segment) -> Iterator[tuple[Waveform, int]]:
        """Decode one segment, with silence in place of what cannot be decoded, and of gaps where there is a picture."""
        stream = self._chosen(self._opened)
        context = stream.codec_context
        warms_up = segment.warms_up
        if segment.samples is not None:  # what FFmpeg would cut is not the end
            context.options = {"flags2": "+skip_manual"}
        rate, place = context.sample_rate, 0.0
        clock: float | None = None  # the time of the first frame, of the second after another clock began
        packets = self._packets(stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, ValueError) as error:
                self._error = error  # the end of a file that was cut, most often
                packet = None
            if packet is None:
                return
            seconds = float((packet.duration or 0) * stream.time_base)
            if self.format.container == "MP4":
                _mend_delay(packet, stream)
            try:
                frames = context.decode(packet)
            except av.EOFError:
                return
            except av.FFmpegError:
                count = round(min(seconds, _SILENCE) * rate)
                self._first_lost = self._first_lost or place
                self._lost += count * self.format.rate // rate
                place += count / rate
                yield np.zeros((self.format.channels, count), np.float32), rate
                continue
            for frame in frames:
                if warms_up:  # and this is no sound yet
                    warms_up = False
                    continue
                rate = frame.sample_rate
                if frame.time is not None:
                    if clock is None:
                        clock = frame.time - place
                        self._origin.start = frame.time
                    gap = frame.time - clock - place
                    if not -_MOST_GAP < gap < _MOST_GAP:
                        clock, gap = frame.time - place, 0.0
                    while self.has_pictures and gap > _GAP:
                        count = round(min(gap, _SILENCE) * rate)
                        place, gap = place + count / rate, gap - count / rate
                        yield np.zeros((self.format.channels, count), np.float32), rate
                place += frame.samples / rate
                self._last_seconds = seconds
                yield _waveform(frame), rate

    def _packets(self, stream: Any) -> Iterator[Any]:
        """Yield the packets of a stream, and an empty one at the end."""
        last = None
        for packet in self._opened.demux(stream):
            if packet.size:
                last = packet
            elif last and self._long:
                yield from self._long.rest(last)
            yield packet

    def _check_end(self, decoded: int) -> None:
        """Refuse what ended before the bytes that its boxes promise."""
        missing, place = cut_short(self._file), decoded / self.format.rate
        seconds = self.format.duration - place
        if missing and self.format.container in _WITHOUT_DURATION:
            seconds = max(seconds, place * missing / self._file.seek(0, 2))
        counted = self.format.container in ("WV", "TTA", "APE")  # whose headers count samples
        if (missing and seconds > 0.1) or (counted and seconds > 0.5 / self.format.rate):
            raise self._truncated(decoded, seconds)
        if self._error is not None:
            raise AudioError(f"{self._path}: damaged: readable for {place:.3f} s ({self._error}).") from self._error

    def _truncated(self, decoded: int, seconds: float) -> AudioError:
        readable = decoded / self.format.rate
        return AudioError(
            f"{self._path}: truncated: {readable:.3f} s are there, the last {seconds:.3f} s are missing.",
            f"Copy it again, or keep what is there: {ffmpeg.salvage(self._path)}",
        )


def _mend_delay(packet: Any, stream: Any) -> None:
    """Let a packet of Opus tell the delay at 48 kHz: FFmpeg's reader of MP4 counts it in the clock of the track."""
    clock = stream.time_base.denominator
    if stream.codec_context.name == "opus" and clock in _OPUS_RATES and packet.has_sidedata("skip_samples"):
        skip = packet.get_sidedata("skip_samples")
        before, *rest = ffmpeg.SKIP.unpack(bytes(skip))
        skip.update(ffmpeg.SKIP.pack(before * 48000 // clock, *rest))
        packet.set_sidedata(skip)


def open_container(file: Window, path: Path) -> Any:
    """Open a file for FFmpeg to read, by its content. Raises av.FFmpegError or ValueError if it cannot."""
    bare = bare_format(path, sniff(cast(BinaryIO, file)))
    file.seek(0)
    return av.open(file, format=bare, options=_OPENING, **ffmpeg.raw_tags())


def _segments(file: BinaryIO, beginning: bytes) -> tuple[list[Segment], int]:
    """Return the streams that were joined to a file, or the whole as one, and how many bytes are none of theirs."""
    segments: list[Segment] = []
    strange = 0
    if beginning.startswith(b"OggS"):
        segments, strange = ogg_segments(file)
    elif is_mpeg(beginning):
        segments, strange = mpeg_segments(file)
    elif is_aac(beginning):
        segments = aac_segments(file)
    elif beginning.startswith(b"caff"):
        segments = caf_segments(file)
    return segments or [Segment(0, file.seek(0, 2))], strange


def _up_to(samples: int | None, blocks: Iterator[tuple[Waveform, int]]) -> Iterator[tuple[Waveform, int]]:
    """Yield so many samples of the blocks, all if None."""
    for block, rate in blocks:
        yield block[:, :samples], rate
        samples = None if samples is None else max(0, samples - block.shape[1])


def is_foreign(beginning: bytes) -> bool:
    """Whether these bytes begin what is FFmpeg's alone to read."""
    return beginning.startswith((*_FOREIGN, *_SHORT)) or beginning[4:8] in BOXES


def bare_format(path: Path, beginning: bytes) -> str | None:
    """Return FFmpeg's name of a file without any header, known by its suffix, None if it has one."""
    # By itself FFmpeg knows such frames only from several of them.
    if path.suffix.lower() in _FRAMED and (framed := _framed_format(beginning)):
        return framed
    has_header = beginning.startswith((*_FOREIGN, *_PLAIN)) or beginning[4:8] in BOXES
    return None if has_header else ffmpeg.BARE.get(path.suffix.lower())


def _framed_format(beginning: bytes) -> str | None:
    """Return FFmpeg's name of a file that begins with a frame of its own, None if it does not."""
    if beginning.startswith(b"\x0bw"):
        return "eac3" if beginning[5:6] >= b"\x58" else "ac3"  # by bsid, its upper five bits
    names = {b"\xff\xf1": "aac", b"\xff\xf9": "aac", b"G@": "mpegts"}
    return names.get(beginning[:2], "mp3" if is_mpeg(beginning) else None)


def is_mpeg(beginning: bytes) -> bool:
    """Whether these bytes may begin a frame of MPEG audio: not of AAC, whose layer is 0, which MPEG has not."""
    return len(beginning) > 1 and beginning[0] == 0xFF and beginning[1] >= 0xE0 and beginning[1] & 6 != 0


def _waveform(frame: Any) -> Waveform:
    """Return a decoded frame as float32 [channels, samples], ±1 full scale."""
    if frame.format.is_planar and len(frame.layout.channels) >= ffmpeg.PLANES:
        frame = ffmpeg.rearranged(frame, planar=False)
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples * 2.0 ** (1 - 8 * samples.dtype.itemsize)
    return samples.astype(np.float32, copy=False)


def _with_channels(block: Waveform, channels: int) -> Waveform:
    """Return a block with so many channels: one becomes several, several become one, of more the last are dropped."""
    if len(block) == channels:
        return block
    if channels == 1:
        return block.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.concatenate([block, np.repeat(block[-1:], max(0, channels - len(block)), axis=0)])[:channels]


def _tags(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the tags that libsndfile knows as well, by its names."""
    found = {name.lower(): value for name, value in metadata.items()}
    return tuple(
        (ours, text(found[theirs].encode("utf-8", "surrogateescape")))
        for theirs, ours in TAGS.items()
        if found.get(theirs)
    )
