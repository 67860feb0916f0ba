"""The frames of MPEG audio (MP3, MP2, AAC without a container), and the streams that were joined of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from sbm_cli.audio.segments import CHUNK, Bytes, Segment, sniff, tag_length

AAC_RATES = dict(enumerate((96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)))
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
KBPS = {  # by whether it is MPEG-1, and the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MARKS = re.compile(rb"\xff|ID3|TAG|APETAGEX|LYRICSBEGIN")  # how frames and tags begin


def mpeg_segments(file: BinaryIO) -> tuple[list[Segment], int]:
    """Cut joined MPEG audio (MP3, MP2) where a frame says, as the first of an encoder's, how many follow.

    Return the streams, and how many bytes between and behind them are no tag.
    """
    bytes_ = Bytes(file)
    segments: list[Segment] = []
    place = strange = 0
    start, frames, seconds, kbps, kbits = -1, 0, 0.0, set[int](), 0.0
    promised: tuple[int, int] | None = None

    def close(end: int) -> None:
        nonlocal start, frames, seconds, kbps, kbits, promised
        if start >= 0:
            missing = 0.0
            if promised and frames and promised[0] > frames + 1 and (not promised[1] or promised[1] > end - start):
                missing = (promised[0] - frames) * seconds / frames
            bit_rate = round(1000 * kbits / seconds) if seconds else 0
            segments.append(Segment(start, end, missing, seconds, bit_rate, len(kbps) > 1))
        start, frames, seconds, kbps, kbits, promised = -1, 0, 0.0, set(), 0.0, None

    end = 0
    while place < bytes_.size:
        frame = _frame_at(bytes_.read(place, 4))
        if frame and (start >= 0 or frames or _follows(bytes_, place, frame)):
            count = _count_in(bytes_.read(place, min(frame.length, 200)))
            if count is not None:
                close(end)
            if start < 0:
                start = place if segments or strange else 0  # with the tags
            if count is not None:
                promised = count
            elif place + frame.length <= bytes_.size:
                frames, seconds = frames + 1, seconds + frame.seconds
                kbps.add(frame.kbps)
                kbits += frame.kbps * frame.seconds
            place += frame.length
            end = min(place, bytes_.size)
            if bytes_.size - end == 128 and bytes_.read(end, 3) == b"TAG":
                end = bytes_.size
        elif tag := tag_length(bytes_, place):
            place += tag
        else:
            found = _next_frame(bytes_, place + 1)
            if not bytes_.are_zero(place, found):
                strange += max(0, found - place - _items_before(bytes_, found))
            place = found
    close(end)
    return segments, strange


def aac_segments(file: BinaryIO) -> list[Segment]:
    """Return AAC without a container (ADTS) as one segment, whose length nothing tells but its frames."""
    bytes_, sync = Bytes(file), sniff(file)[:2]
    place = size = 0
    seconds = 0.0
    while place < bytes_.size:
        head = bytes_.read(place, 7)
        length = int.from_bytes(head[3:6], "big") >> 5 & 0x1FFF
        rate = AAC_RATES.get(head[2] >> 2 & 15) if is_aac(head) and len(head) == 7 else None
        if rate and length > 7:
            seconds += 1024 * ((head[6] & 3) + 1) / rate
            size += length
        else:
            length = tag_length(bytes_, place) or bytes_.find(sync, place + 1) - place
        place += length
    return [Segment(0, bytes_.size, seconds=seconds, bit_rate=round(8 * size / seconds))] if seconds else []


def is_aac(beginning: bytes) -> bool:
    """Whether these bytes may begin a frame of AAC (ADTS)."""
    return len(beginning) > 1 and beginning[0] == 0xFF and beginning[1] & 0xF6 == 0xF0


@dataclass(frozen=True)
class _Frame:
    length: int
    seconds: float
    kbps: int


def _frame_at(head: bytes) -> _Frame | None:
    """Read the header of a frame of MPEG audio, None if it is none, or of a free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rates, bits = _RATES.get(version), head[2] >> 4
    if rates is None or layer == 4 or bits in (0, 15) or (rate := head[2] >> 2 & 3) == 3:
        return None
    kbps, padding = KBPS[version == 3, layer][bits - 1], head[2] >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    if layer == 1:
        length = (12000 * kbps // rates[rate] + padding) * 4
    else:
        length = samples // 8 * 1000 * kbps // rates[rate] + padding
    return _Frame(length, samples / rates[rate], kbps)


def _count_in(frame: bytes) -> tuple[int, int] | None:
    """Return how many frames and bytes follow by what the encoder left in a first frame, None if it is no such one."""
    for magic, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        found = frame.find(magic, 4, 44)
        if found < 0 or any(frame[6:found]):  # but for a checksum, zeros stand before it
            continue
        if magic == b"VBRI":
            size, count = (int.from_bytes(frame[found + at : found + at + 4], "big") for at in (10, 14))
            return count, size
        flags, place = frame[found + 7], found + 8
        count = int.from_bytes(frame[place : place + 4], "big") if flags & 1 else 0
        place += 4 * (flags & 1)
        return count, int.from_bytes(frame[place : place + 4], "big") if flags & 2 else 0
    return None


def _follows(file: Bytes, place: int, frame: _Frame) -> bool:
    """Whether a frame is followed by another one, a tag, or nothing: chance looks like a first header."""
    after = place + frame.length
    return after >= file.size or _frame_at(file.read(after, 4)) is not None or tag_length(file, after) > 0


def _next_frame(file: Bytes, place: int) -> int:
    """Return where the next frame or tag begins, or the file ends."""
    while place < file.size:
        block = file.read(place, CHUNK)
        for found in _MARKS.finditer(block):
            index = found.start()
            frame = _frame_at(block[index : index + 4] if index + 4 <= len(block) else file.read(place + index, 4))
            if (frame and _follows(file, place + index, frame)) or tag_length(file, place + index):
                return place + index
        place += len(block)
    return file.size


def _items_before(file: Bytes, place: int) -> int:
    """Return how many bytes of a tag stand before its footer: the first APE tags had no header."""
    head = file.read(place, 32)
    is_footer = head[:8] == b"APETAGEX" and len(head) == 32 and not head[23] & 0x20
    return int.from_bytes(head[12:16], "little") - 32 if is_footer else 0
