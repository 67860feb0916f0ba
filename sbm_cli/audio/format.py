"""What a sound file is made of, and what its cleaned copy shall be made of."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from sbm_cli.audio import ffmpeg
from sbm_cli.audio.ffmpeg import av
from sbm_cli.audio.resample import resampled_length
from sbm_cli.errors import AudioError

Waveform = NDArray[np.float32]  # [channels, samples], ±1 full scale

# Of libsndfile. First is what a suffix means, the others are kept when the input has them.
_FAMILIES = {
    ("WAV", "WAVEX", "RF64"): ".wav .wave",
    ("RF64",): ".rf64",
    ("W64",): ".w64",
    ("FLAC",): ".flac",
    ("OGG",): ".ogg .oga .opus",
    ("MP3",): ".mp3",
    ("AIFF",): ".aif .aiff .aifc",
    ("CAF",): ".caf",
    ("AU",): ".au .snd",
    ("NIST",): ".sph .nist",
    ("RAW",): ".raw",
}
_CONTAINERS = {suffix: family for family, suffixes in _FAMILIES.items() for suffix in suffixes.split()}
# Of files that tell what they are made of: those that are written, and all that are read.
OUTPUT_SUFFIXES = (*(suffix for suffix in _CONTAINERS if suffix != ".raw"), *ffmpeg.CONTAINERS)
SUFFIXES = (*(suffix for suffix in OUTPUT_SUFFIXES if suffix != ".ts"), *ffmpeg.READ_ONLY)  # .ts is TypeScript too

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
INTEGER_BITS |= {f"ALAC_{bits}": bits for bits in (16, 20, 24, 32)}
SAMPLE_BYTES = {"ULAW": 1, "ALAW": 1, "FLOAT": 4, "DOUBLE": 8} | {
    name: bits // 8 for name, bits in INTEGER_BITS.items()
}
# Those that keep the number of samples. ADPCM, GSM and DWVW pad to whole blocks: they are read, not written.
_EXACT_LENGTH = {*SAMPLE_BYTES, "VORBIS", "OPUS", "MPEG_LAYER_III"}
_WITHOUT_FULL_SCALE = {"FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III", "WAVPACK_FLOAT"}
_RATES = {
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
_MOST_CHANNELS = {"MP3": 2, "FLAC": 8, "VOC": 2}
_KIN = (
    {"MP4", "M4A", "MOV", "3GP", "3G2", "F4V"},
    {"MATROSKA", "MKA", "WEBM"},
    {"ASF", "WMA"},
    {"MP3", "MP2"},
    {"MPEG", "VOB"},
    {"OGG", "OGV"},
)
_VORBIS_RATES = range(8000, 50_001)  # Hz at which each quality of Vorbis has a bit rate
_FOUR_GIB = 2**32 - 2**20  # the size fields of WAV, AIFF and AU have 32 bits; a megabyte is left for headers and tags


@dataclass
class Origin:
    """The file, open, that a sound was decoded from: pictures, chapters and tags are copied from it.

    stream: which of its audio streams the sound is, from 0. start: seconds of its first sample on the clock of the
    other streams, known once that is read.
    """

    path: Path
    file: BinaryIO
    stream: int
    start: float = 0.0


@dataclass(frozen=True)
class AudioFormat:
    """What a sound file is made of. Container, subtype and endian as libsndfile names them; tags are (name, text).

    samples: of each channel; None if only the end of the file will tell, as with codecs, whose headers estimate it, and
    with what other programs wrote into pipes. duration: such an estimate in seconds, 0 if there is none.
    layout: of the channels, as FFmpeg names it ("5.1(side)"), "" if unknown; channel_map: the same by libsndfile.
    valid_bits: of a sample, if fewer than it has. bit_rate: of a codec in bit/s, 0 if unknown; variable: whether its
    frames differ in it. source_delay: when the source tells how much its encoder put before the sound, as
    `ffmpeg.Muxer` has it, if that was of the same codec. suffix: of a file's name, which may lie.
    """

    rate: int
    channels: int
    samples: int | None
    container: str
    subtype: str
    endian: str = "FILE"
    tags: tuple[tuple[str, str], ...] = ()
    duration: float = field(default=0.0, compare=False)
    layout: str = field(default="", compare=False)
    channel_map: tuple[int, ...] = field(default=(), compare=False)
    valid_bits: int = field(default=0, compare=False)
    bit_rate: int = field(default=0, compare=False)
    variable: bool = field(default=False, compare=False)
    source_delay: str = field(default="always", compare=False)
    suffix: str = field(default="", compare=False)
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def seconds(self) -> float:
        """Duration, 0 if unknown."""
        return self.duration if self.samples is None else self.samples / self.rate

    @property
    def is_encoded(self) -> bool:
        """Whether FFmpeg writes it, and not libsndfile."""
        return self.container in ffmpeg.MUXERS and self.subtype in ffmpeg.MUXERS[self.container].subtypes

    @property
    def is_lossy(self) -> bool:
        """Whether its codec keeps less than it is given."""
        return not _depth(self.subtype)

    @property
    def takes_bit_rate(self) -> bool:
        """Whether its encoder can be told a bit rate."""
        if self.is_encoded:
            return ffmpeg.ENCODERS[self.subtype].bit_rate > 0
        return self.subtype in ("MPEG_LAYER_III", "OPUS") or (self.subtype == "VORBIS" and self.rate in _VORBIS_RATES)

    @property
    def integer_bits(self) -> int | None:
        """Bits of its samples, None if they are no integers."""
        return (ffmpeg.INTEGER_BITS if self.is_encoded else INTEGER_BITS).get(self.subtype)

    @property
    def has_full_scale(self) -> bool:
        """Whether samples beyond ±1 are lost: in integers and companded ones; floats and codecs hold them."""
        return self.subtype not in _WITHOUT_FULL_SCALE

    def converted(self, rate: int | None, mono: bool) -> "AudioFormat":
        """Return the format of the same recording at another rate, if one is given, and with one channel if mono."""
        rate = rate or self.rate
        samples = None if self.samples is None else resampled_length(self.samples, self.rate, rate)
        channels = 1 if mono else self.channels
        layout = self.layout if channels == self.channels else ""
        return replace(self, rate=rate, channels=channels, samples=samples, layout=layout)


def raw_format(text: str) -> AudioFormat:
    """Return the format of bare samples that RATE[:CHANNELS[:SUBTYPE]] describes, such as 16000:1:PCM_16.

    Raises ValueError for another text.
    """
    found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*)(?::(\w+))?)?", text)
    if found is None:
        raise ValueError(f"expected RATE[:CHANNELS[:SUBTYPE]], such as 16000:1:PCM_16, got {text!r}")
    subtype = (found[3] or "PCM_16").upper()
    if subtype not in subtypes("RAW"):
        raise ValueError(f"unknown SUBTYPE {found[3]!r}; choose one of {', '.join(subtypes('RAW'))}")
    return AudioFormat(int(found[1]), int(found[2] or 1), None, "RAW", subtype)


def format_for(
    path: str | Path, source: AudioFormat, subtype: str | None = None, bit_rate: int | None = None
) -> AudioFormat:
    """Return the format of an output named `path` for a recording in format `source`.

    The container follows the suffix of `path`. Within the source's container (and its family: WAV, WAVEX, RF64) the
    subtype stays; elsewhere it becomes the nearest one that loses nothing, or the best there is. Subtypes that
    pad to whole blocks (ADPCM, GSM) become the container's default, for the length must not change. A WAV that
    would, or could, outgrow 4 GiB becomes RF64. `subtype` overrides the choice, and `bit_rate`, in bit/s, that of the
    next bit rate from the source's upwards.

    Raises AudioError for an unknown suffix, a subtype that the container does not have, a bit rate for one that takes
    none, and a rate, a channel count or a size that it cannot hold.
    """
    path = Path(path)
    if bit_rate is None:
        return _format_for(path, replace(source, bit_rate=0 if _depth(source.subtype) else source.bit_rate), subtype)
    found = _format_for(path, replace(source, bit_rate=bit_rate, variable=False), subtype)
    if not found.takes_bit_rate:
        fits = subtype is not None and _format_for(path, source, None).takes_bit_rate
        raise AudioError(
            f"{path}: {found.container} {found.subtype} at {found.rate} Hz has no bit rate to choose.",
            f"Leave out `bit_rate`, or {'`subtype`' if fits else 'write .mp3, .m4a or .opus'}.",
        )
    return found


def _format_for(path: Path, source: AudioFormat, subtype: str | None) -> AudioFormat:
    suffix = path.suffix.lower()
    if suffix in ffmpeg.READ_ONLY:
        raise _without_encoder(path, ffmpeg.READ_ONLY[suffix])
    if suffix in ffmpeg.CONTAINERS:
        return _encoded(path, ffmpeg.CONTAINERS[suffix], source, subtype)
    if suffix not in _CONTAINERS:
        shown = f"suffix {suffix}" if suffix else "a name without suffix"
        raise AudioError(f"{path}: no sound format for {shown}.", f"Use one of {' '.join(OUTPUT_SUFFIXES)}")
    # What only FFmpeg writes, in containers that are else libsndfile's.
    wanted = (subtype or source.subtype).upper()
    if suffix in (".ogg", ".oga") and source.container == "OGG" and wanted in ffmpeg.MUXERS["OGG"].subtypes:
        return _encoded(path, "OGG", source, subtype)
    if suffix == ".mp3" and wanted == "MPEG_LAYER_II":
        return _encoded(path, "MP2", source, subtype)
    family = _CONTAINERS[suffix]
    container = source.container if source.container in family else family[0]
    odd = source.samples is None or source.samples * source.channels % 2 == 1
    choice = ["OPUS"] if suffix == ".opus" else subtypes(container, odd)
    subtype = _subtype(path, source, container, subtype, choice, sf.default_subtype(container))
    _check_rate(path, "Opus" if subtype == "OPUS" else container, source.rate, _RATES.get(subtype, ()))
    _check_channels(path, source, container)
    samples = round(source.seconds * source.rate) if source.samples is None else source.samples
    size = samples * source.channels * SAMPLE_BYTES.get(subtype, 0)
    # An estimate may be wrong, by less than that.
    is_sure = size <= (_FOUR_GIB if source.samples is not None else _FOUR_GIB // 4 if source.duration else -1)
    if container in ("WAV", "WAVEX") and not is_sure:
        container = "RF64"
    elif size > _FOUR_GIB and container in ("AIFF", "AU"):
        raise AudioError(
            f"{path}: {size / 2**30:.1f} GiB is too much for {container}.", "Use .wav, .w64, .caf or .flac."
        )
    endian = source.endian if container == source.container else "FILE"
    if (container, endian) == ("WAVEX", "BIG"):  # libsndfile reads it and cannot write it
        container = "WAV"
    return replace(source, container=container, subtype=subtype, endian=endian)


def check_room(path: str | Path, streams: int) -> None:
    """Refuse an output `path` that does not hold so many streams of sound: AudioError."""
    container = ffmpeg.CONTAINERS.get(Path(path).suffix.lower())
    if streams > 1 and (container is None or not ffmpeg.MUXERS[container].video):
        raise AudioError(
            f"{path}: has room for only one of the {streams} audio streams.",
            "Choose it with `audio_stream`, or write a video, such as .mp4 or .mkv.",
        )


def changes(path: str | Path, source: AudioFormat, target: AudioFormat, ignore_subtype: bool = False) -> list[str]:
    """Say what of the source's format an output `path` of the same kind, or with the same suffix, does not keep.

    ignore_subtype: somebody asked for another one.
    """
    changed = []
    if source.valid_bits and (source.container, source.subtype) == (target.container, target.subtype):
        changed.append(f"{source.valid_bits} valid bits per sample become {target.integer_bits}")
    suffix = Path(path).suffix.lower()
    family = _CONTAINERS.get(suffix, (target.container,))
    is_same = source.container in family or any({source.container, target.container} <= kin for kin in _KIN)
    if (is_same or source.suffix == suffix) and source.subtype != target.subtype and not ignore_subtype:
        lies = "" if is_same else f": the input is {source.container} despite its suffix"
        changed.append(f"{source.subtype} becomes {target.subtype}{lies}")
    if source.layout and target.layout not in ("", source.layout) and source.channels == target.channels:
        changed.append(f"the channels {source.layout} become {target.layout}")
    return changed


def _encoded(path: Path, container: str, source: AudioFormat, subtype: str | None) -> AudioFormat:
    """Return the format of an output that FFmpeg writes, which its encoder was asked about."""
    choice = [name for name in ffmpeg.MUXERS[container].subtypes if ffmpeg.is_available(name)]
    if not choice:
        raise _without_encoder(path, ffmpeg.MUXERS[container].subtypes[0])
    subtype = _subtype(path, source, container, subtype, choice)
    _check_channels(path, source, container)
    bit_rate = _bit_rate(source, subtype)
    only = ffmpeg.ENCODERS[subtype].rate
    if only and (source.rate, source.channels) != (only, 1):
        raise AudioError(
            f"{path}: {subtype} is mono at {only} Hz; the input has {source.channels} channels at {source.rate} Hz.",
            f"Use `mono=True, rate={only}`, or choose another format, such as .wav or .flac.",
        )
    usual = ffmpeg.layout_of(source.channels)
    muxer = ffmpeg.MUXERS.get("MP2" if source.container == "MP3" else source.container)
    for layout in dict.fromkeys([source.layout or usual, usual]):
        try:
            ffmpeg.encoder(subtype, source.rate, layout, bit_rate)
        except (av.FFmpegError, ValueError):
            continue
        return replace(
            source,
            container=container,
            subtype=subtype,
            endian="FILE",
            bit_rate=bit_rate,
            layout=layout,
            source_delay=muxer.delay if muxer and subtype == source.subtype else "always",
        )
    _check_rate(path, subtype, source.rate, av.Codec(ffmpeg.ENCODERS[subtype].name, "w").audio_rates or ())
    raise AudioError(
        f"{path}: {container} {subtype} with {source.channels} channels at {source.rate} Hz cannot be written.",
        "Choose another format, such as .wav or .flac, or `mono` and `rate`.",
    )


def _without_encoder(path: Path, name: str) -> AudioError:
    return AudioError(
        f"{path}: {name} can be read but not written.",
        "Choose another format: name the output .flac or .m4a, or use --ext flac.",
    )


def _subtype(
    path: Path, source: AudioFormat, container: str, wanted: str | None, choice: list[str], default: str = ""
) -> str:
    """Return the subtype that is wanted, else the source's, or what comes nearest.

    That is one of its family, else the default, or the first, unless that would lose what the source has.
    """
    if wanted is not None and wanted.upper() not in choice:
        raise AudioError(f"{path}: {container} has no subtype {wanted}.", f"Use one of {', '.join(choice)}")
    subtype = source.subtype if wanted is None else wanted.upper()
    if subtype in choice:
        return subtype
    default = default if default in choice else choice[0]
    depth, family = _depth(subtype), "FLOAT" if subtype == "DOUBLE" else subtype.partition("_")[0]
    related = [name for name in choice if depth and name.partition("_")[0] == family]
    lossless = related or [name for name in choice if _depth(name)]
    if depth and (related or _depth(default)):
        enough = [name for name in lossless if _depth(name) >= depth]
        return min(enough, key=_depth) if enough else max(lossless, key=_depth)
    return default


def _bit_rate(source: AudioFormat, subtype: str) -> int:
    """Return the bit rate of an output: the source's or the next higher that there is, 0 where that does not count."""
    kind = ffmpeg.ENCODERS[subtype]
    if not kind.bit_rate:
        return 0
    wanted = source.bit_rate or kind.bit_rate * source.channels
    if subtype == "AAC":
        wanted = min(wanted, 6 * source.channels * source.rate)  # 6144 bits for a frame of 1024 samples
    elif subtype == "OPUS":
        wanted = min(wanted, 256_000 * source.channels)
    elif subtype == "MPEG_LAYER_III":
        wanted = min(wanted, 8 * source.rate)  # a frame of more bytes than samples counts twice in AVI
    return next((rate for rate in kind.bit_rates if rate >= wanted), max(kind.bit_rates, default=wanted))


def _depth(subtype: str) -> int:
    """Return how much a subtype can hold, for the choice of the nearest; 0 of codecs that lose something."""
    if subtype in INTEGER_BITS:
        return INTEGER_BITS[subtype]
    name, _, size = subtype.rpartition("_")
    if subtype == "DOUBLE":
        return 34
    if subtype == "FLOAT" or size == "FLOAT":
        return 33  # floats hold more than any integer
    return int(size) if size.isdigit() and name.lower() in ffmpeg.LOSSLESS else 0


def storable(block: Waveform, format: AudioFormat) -> NDArray[np.float32 | np.int32]:
    """Return a block [channels, n] as libsndfile takes it, [n, channels]: integers rounded, and limited at full scale.

    Raises ValueError for another channel count or a sample that is not finite.
    """
    if block.ndim != 2 or block.shape[0] != format.channels:
        raise ValueError(f"expected a block [{format.channels}, samples], got shape {list(block.shape)}")
    if not np.isfinite(block).all():
        raise ValueError("a sample to be written is NaN or infinite")
    bits = format.integer_bits
    frames: NDArray[np.float32 | np.int32] = (block if bits is None else _to_integers(block, bits)).T
    return np.ascontiguousarray(frames)


def _to_integers(block: Waveform, bits: int) -> NDArray[np.int32]:
    """Round to `bits` and limit at full scale; the result stands in the upper bits of int32."""
    # libsndfile would round a float down, and so make -1 step of -1e-9, which is our silence.
    scale = 2.0 ** (bits - 1)
    wide = block.astype(np.float64) if bits > 24 else block
    steps = np.clip(np.rint(wide * scale), -scale, scale - 1)
    return steps.astype(np.int32) << (32 - bits)


def subtypes(container: str, odd: bool = False) -> list[str]:
    """List what the container holds without changing the number of samples; odd: if that is an odd one."""
    # libsndfile pads an AIFF of an odd number of bytes by a sample.
    names = [name for name in sf.available_subtypes(container) if name in _EXACT_LENGTH]
    if container == "AIFF" and odd:
        return [name for name in names if SAMPLE_BYTES[name] > 1]
    return names if container == "MP3" else [name for name in names if name != "MPEG_LAYER_III"]


def _check_rate(path: Path, name: str, rate: int, rates: Collection[int]) -> None:
    if rates and rate not in rates:
        raise AudioError(
            f"{path}: {name} does not support {rate} Hz, only {', '.join(map(str, sorted(rates)))}.",
            "Choose one with `rate`, or another format, such as .wav or .flac.",
        )


def _check_channels(path: Path, source: AudioFormat, container: str) -> None:
    most = _MOST_CHANNELS.get(container)
    if most and source.channels > most:
        raise AudioError(
            f"{path}: {container} holds at most {most} channels; the input has {source.channels}.",
            "Choose another format, such as .wav.",
        )
