"""What FFmpeg's libraries, through PyAV, read and write: their names and ours."""

from __future__ import annotations

import importlib
import shlex
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sbm_cli.audio.mpeg import KBPS


class _PyAV:
    """PyAV, imported where it is first used: that takes longer than to enhance a short WAV, which does without."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("av"), name)


av: Any = _PyAV()
SKIP_SAMPLES = 11  # by number, what a packet says beside its data of samples that are no sound
SKIP = struct.Struct("<IIBB")  # and what it says: how many before, how many behind, and why
PLANES = 8  # channels, each in an array of its own, from which on PyAV reads beyond them, and crashes

# Containers of sound and video that are read. Not among them: playlists and scripts, which name other files and
# addresses, raw streams without any header, and pictures.
DEMUXERS = (
    "3dostr,aac,ac3,act,adx,aea,aiff,amr,ape,apm,asf,ast,au,avi,avr,bfstm,bonk,brstm,caf,daud,dsf,dss,dts,dtshd,dv,"
    "eac3,epaf,flac,flv,fsb,g722,gsm,gxf,hca,iff,ilbc,ircam,iss,ivf,kux,lmlm4,loas,matroska,webm,mca,mlp,mlv,mmf,mov,mp4,"
    "m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mxf,nc,nistsphere,nsv,nut,ogg,oma,osq,paf,pvf,qcp,qoa,rka,rm,rso,sds,"
    "sdx,shn,sln,sol,sox,swf,tak,truehd,tta,vag,vividas,vivo,voc,vqf,w64,wav,wavarc,wsd,wsaud,wtv,wv,wve,xa,xvag,xwma"
)
# Those that have no header and so nothing to be known by but their suffix, and what FFmpeg calls them.
BARE = {".g722": "g722", ".gsm": "gsm"}

_SUBTYPES = {
    "mp1": "MPEG_LAYER_I",
    "mp2": "MPEG_LAYER_II",
    "mp3": "MPEG_LAYER_III",
    "pcm_u8": "PCM_U8",
    "pcm_s8": "PCM_S8",
    "pcm_f32le": "FLOAT",
    "pcm_f32be": "FLOAT",
    "pcm_f64le": "DOUBLE",
    "pcm_f64be": "DOUBLE",
    "pcm_mulaw": "ULAW",
    "pcm_alaw": "ALAW",
    "adpcm_g722": "G722",
}
LOSSLESS = {"alac", "ape", "flac", "mlp", "shorten", "tak", "truehd", "tta", "wavpack", "wmalossless", "als", "osq"}


def subtype_of(codec: str, sample_format: str, extradata: bytes) -> str:
    """Return our name of a codec: as libsndfile has it, with the bits of a sample where nothing is lost."""
    if codec in _SUBTYPES:
        return _SUBTYPES[codec]
    bits = {"u8": 8, "s16": 16, "s64": 32}.get(sample_format.rstrip("p"), 32)
    if codec.startswith("pcm_"):
        return f"PCM_{24 if 's24' in codec else bits}"
    if codec not in LOSSLESS:
        return codec.upper()
    if sample_format.startswith(("flt", "dbl")):
        return f"{codec.upper()}_FLOAT"
    if bits == 32 and codec == "alac" and len(extradata) > 17:
        bits = extradata[17]
    elif bits == 32 and codec == "flac" and len(extradata) > 13:
        bits = ((extradata[12] & 1) << 4 | extradata[13] >> 4) + 1
    elif bits == 32 and codec != "wavpack":
        bits = 24  # none of the others is written with more
    return f"{codec.upper()}_{bits}"


@dataclass(frozen=True)
class Encoder:
    """An encoder: its name, the samples it takes, the default bit rate of a channel, the bit rates that there are.

    bits: of integers, where they are fewer than the samples have. rate: the only one that there is, of one channel.
    delay: samples that it puts before the sound without saying so. leads: whether decoders drop a frame more than it
    puts there.
    """

    name: str
    samples: str
    bit_rate: int = 0
    bit_rates: tuple[int, ...] = ()
    bits: int = 0
    rate: int = 0
    delay: int = 0
    leads: bool = False


_AC3_RATES = tuple(1000 * kbps for kbps in (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640))
_MP2_RATES, _MP3_RATES = (tuple(1000 * kbps for kbps in KBPS[True, layer]) for layer in (2, 3))
ENCODERS = {
    "AAC": Encoder("aac", "fltp", 80_000),
    "OPUS": Encoder("libopus", "flt", 64_000),
    "MPEG_LAYER_III": Encoder("libmp3lame", "fltp", 96_000, _MP3_RATES),
    "MPEG_LAYER_II": Encoder("mp2", "s16", 128_000, _MP2_RATES),
    "AC3": Encoder("ac3", "fltp", 96_000, _AC3_RATES),
    "EAC3": Encoder("eac3", "fltp", 96_000, _AC3_RATES),
    "WMAV1": Encoder("wmav1", "fltp", 64_000, leads=True),
    "WMAV2": Encoder("wmav2", "fltp", 64_000, leads=True),
    "AMR_NB": Encoder(
        "libopencore_amrnb", "s16", 12_200, (4750, 5150, 5900, 6700, 7400, 7950, 10_200, 12_200), rate=8000
    ),
    "G722": Encoder("g722", "s16", rate=16_000, delay=22),
    "ALAC_16": Encoder("alac", "s16p"),
    "ALAC_24": Encoder("alac", "s32p", bits=24),
    "FLAC_16": Encoder("flac", "s16"),
    "FLAC_24": Encoder("flac", "s32", bits=24),
    "WAVPACK_8": Encoder("wavpack", "u8p"),
    "WAVPACK_16": Encoder("wavpack", "s16p"),
    "WAVPACK_32": Encoder("wavpack", "s32p"),
    "WAVPACK_FLOAT": Encoder("wavpack", "fltp"),
    "TTA_8": Encoder("tta", "u8"),
    "TTA_16": Encoder("tta", "s16"),
    "TTA_24": Encoder("tta", "s32", bits=24),
    "PCM_U8": Encoder("pcm_u8", "u8"),
    "PCM_16": Encoder("pcm_s16le", "s16"),
    "PCM_24": Encoder("pcm_s24le", "s32", bits=24),
    "PCM_32": Encoder("pcm_s32le", "s32"),
    "FLOAT": Encoder("pcm_f32le", "flt"),
    "ULAW": Encoder("pcm_mulaw", "s16"),
    "ALAW": Encoder("pcm_alaw", "s16"),
}
SAMPLE_BITS = {"u8": 8, "s16": 16, "s32": 32}
INTEGER_BITS = {
    subtype: encoder.bits or SAMPLE_BITS[encoder.samples.rstrip("p")]
    for subtype, encoder in ENCODERS.items()
    if encoder.samples.rstrip("p") in SAMPLE_BITS
}


@dataclass(frozen=True)
class Muxer:
    """A container that is written: its name, its suffixes, the subtypes it takes (a new one is of the first).

    video: it takes other streams along. delay: whether players are told how much the encoder put before the sound; "at
    0" only if the sound begins with the file; "beside" only by when other streams begin. exact: whether it says how
    much of the last frame is sound. brand: what an MP4 calls itself.
    """

    name: str
    suffixes: str
    subtypes: tuple[str, ...]
    video: bool = False
    delay: Literal["always", "at 0", "beside", "never"] = "always"
    exact: bool = True
    brand: str = ""


_PCM = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")
_FLAC, _ALAC = ("FLAC_16", "FLAC_24"), ("ALAC_16", "ALAC_24")
_MP4 = ("AAC", *_ALAC, *_FLAC, "OPUS", "MPEG_LAYER_III", "MPEG_LAYER_II", "AC3", "EAC3")
_MATROSKA = ("AAC", *_FLAC, *_PCM, *_ALAC, "OPUS", "MPEG_LAYER_III", "MPEG_LAYER_II", "AC3", "EAC3")
_MOV = ("AAC", *_PCM, "PCM_U8", "ULAW", "ALAW", *_ALAC, "MPEG_LAYER_III", "AC3")
_AVI = ("MPEG_LAYER_III", "PCM_16", "MPEG_LAYER_II", "AC3")
_TS = ("AAC", "MPEG_LAYER_II", "MPEG_LAYER_III", "AC3", "EAC3")
_NUT = ("AAC", "MPEG_LAYER_III", "MPEG_LAYER_II", *_PCM, "AC3")
MUXERS = {
    # Of its own muxer, "ipod", PyAV believes that it has no room for a cover.
    "M4A": Muxer("mp4", ".m4a .m4b .m4r", ("AAC", *_ALAC, "AC3"), delay="at 0", brand="M4A "),
    "MP4": Muxer("mp4", ".mp4 .m4v", _MP4, video=True, delay="at 0"),
    "MOV": Muxer("mov", ".mov .qt", _MOV, video=True, delay="at 0"),
    "3GP": Muxer("3gp", ".3gp .3gpp .3ga", ("AAC", "AMR_NB"), video=True, delay="at 0"),
    "3G2": Muxer("3g2", ".3g2", ("AAC", "AMR_NB"), video=True, delay="at 0"),
    "MATROSKA": Muxer("matroska", ".mkv", _MATROSKA, video=True),
    "MKA": Muxer("matroska", ".mka", _MATROSKA),
    "WEBM": Muxer("webm", ".webm .weba", ("OPUS",), video=True),
    "OGV": Muxer("ogv", ".ogv", ("OPUS", *_FLAC), video=True),
    "AVI": Muxer("avi", ".avi .divx", _AVI, video=True, delay="never", exact=False),
    "MPEGTS": Muxer("mpegts", ".ts .mts .m2ts .m2t", _TS, video=True, delay="beside", exact=False),
    "MPEG": Muxer("mpeg", ".mpg .mpeg", ("MPEG_LAYER_II", "AC3"), video=True, delay="beside", exact=False),
    "VOB": Muxer("vob", ".vob", ("AC3", "MPEG_LAYER_II", "MPEG_LAYER_III"), video=True, delay="beside", exact=False),
    "NUT": Muxer("nut", ".nut", _NUT, video=True, delay="beside", exact=False),
    "FLV": Muxer("flv", ".flv", ("AAC", "MPEG_LAYER_III"), video=True, delay="beside", exact=False),
    "F4V": Muxer("f4v", ".f4v", ("AAC", "MPEG_LAYER_III"), video=True, delay="beside"),
    "WMA": Muxer("asf", ".wma", ("WMAV2", "WMAV1"), exact=False),
    "ASF": Muxer("asf", ".wmv .asf", ("WMAV2", "WMAV1"), video=True, exact=False),
    "AAC": Muxer("adts", ".aac .adts", ("AAC",), delay="never", exact=False),
    "MP2": Muxer("mp2", ".mp2 .m2a .mpa", ("MPEG_LAYER_II",), delay="never", exact=False),
    "AC3": Muxer("ac3", ".ac3", ("AC3",), delay="never", exact=False),
    "EAC3": Muxer("eac3", ".eac3 .ec3", ("EAC3",), delay="never", exact=False),
    "AMR": Muxer("amr", ".amr", ("AMR_NB",), delay="never", exact=False),
    "G722": Muxer("g722", ".g722", ("G722",), delay="never", exact=False),
    "WV": Muxer("wv", ".wv", ("WAVPACK_16", "WAVPACK_8", "WAVPACK_32", "WAVPACK_FLOAT")),
    "TTA": Muxer("tta", ".tta", ("TTA_16", "TTA_8", "TTA_24")),
    "VOC": Muxer("voc", ".voc", ("PCM_16", "PCM_U8", "ULAW", "ALAW")),
    "OGG": Muxer("ogg", "", _FLAC),  # Vorbis and Opus are libsndfile's
}
CONTAINERS = {suffix: container for container, muxer in MUXERS.items() for suffix in muxer.suffixes.split()}
READ_ONLY = {  # for whose sound there is no encoder, or whose muxer drops what outlasts the picture (MXF)
    ".ape": "Monkey's Audio",
    ".awb": "AMR-WB",
    ".dts": "DTS",
    ".dv": "DV",
    ".gsm": "GSM 06.10",
    ".mpc": "Musepack",
    ".mxf": "MXF",
    ".ra": "RealAudio",
    ".rm": "RealMedia",
    ".rmvb": "RealMedia",
    ".shn": "Shorten",
    ".spx": "Speex",
    ".tak": "TAK",
    ".wtv": "Windows Recorded TV",
}


# Tags about the file itself, which a new one gets anew.
OWN_TAGS = {"encoder", "software", "major_brand", "minor_version", "compatible_brands", "duration", "_statistics_tags"}


def salvage(path: Path, *options: str) -> str:
    """Return the command that decodes what can be decoded of a file, into another beside it."""
    name = f"{path.stem}-salvaged.wav".lstrip("-")  # of stdin, too, no option
    return shlex.join(["ffmpeg", *options, "-i", str(path), str(path.with_name(name))])


def is_still(stream: Any) -> bool:
    """Whether a video stream is one picture, as that of an album."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def others(container: Any, sound: Any) -> list[Any]:
    """Return the streams beside the sound, but for the one in which an MP4 has its chapters."""
    has_chapters = bool(container.chapters())
    return [
        stream for stream in container.streams if stream is not sound and not (has_chapters and stream.type == "data")
    ]


def named(streams: Iterable[Any], chapters: int = 0) -> list[str]:
    """Say which streams these are, and how many chapters: "2 subtitle streams (subrip, ass)"."""
    found: dict[str, list[str]] = {}
    for stream in streams:
        kind = stream.type if stream.type == "attachment" else f"{stream.type} stream"
        kind = "cover picture" if is_still(stream) else kind
        context = stream.codec_context
        found.setdefault(kind, []).append(context.codec.canonical_name if context else "")
    words = []
    for kind, codecs in (found | {"chapter": [""] * chapters}).items():
        shown = ", ".join(dict.fromkeys(filter(None, codecs)))
        plural = "s" if len(codecs) > 1 else ""
        words += [f"{len(codecs)} {kind}{plural}" + (f" ({shown})" if shown else "")] if codecs else []
    return words


def raw_tags() -> dict[str, Any]:
    """Return the arguments by which PyAV leaves tags in other encodings as they are: from 19 on it always does."""
    return {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}


def is_available(subtype: str) -> bool:
    """Whether FFmpeg was built with an encoder for it."""
    try:
        av.Codec(ENCODERS[subtype].name, "w")
    except (KeyError, av.codec.codec.UnknownCodecError):
        return False
    return True


def encoder(subtype: str, rate: int, layout: str, bit_rate: int) -> Any:
    """Return an open encoder. Raises av.FFmpegError if it does not take such sound."""
    context: Any = av.CodecContext.create(ENCODERS[subtype].name, "w")
    configure(context, subtype, rate, layout, bit_rate)
    context.open()
    return context


def configure(context: Any, subtype: str, rate: int, layout: str, bit_rate: int) -> None:
    """Set up the context of an encoder that is not open yet."""
    kind = ENCODERS[subtype]
    context.sample_rate, context.time_base = rate, Fraction(1, rate)
    context.layout, context.format = layout, kind.samples
    context.options = {"bits_per_raw_sample": str(kind.bits)} if kind.bits else {}
    if subtype == "OPUS":
        context.options, bit_rate = {"vbr": "constrained"}, opus_target(bit_rate)
    if bit_rate:
        context.bit_rate = bit_rate


def opus_target(bit_rate: int) -> int:
    """Return what libopus is to be asked for: under 64 kbit/s it stays a fifth below that."""
    return max(bit_rate, min(bit_rate * 5 // 4, 64_000))


def layout_of(channels: int) -> str:
    """Return the layout of so many channels where a file does not tell."""
    known = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    return known.get(channels, f"{channels} channels")


def frame_of(samples: NDArray[Any], format: str, layout: str, rate: int) -> Any:
    """Return samples [n, channels] as a frame in a format of FFmpeg's whose type they have."""
    planar = format.endswith("p")
    if planar and samples.shape[1] < PLANES:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format=format, layout=layout)
    else:
        row = np.ascontiguousarray(samples).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(row, format=format.rstrip("p"), layout=layout)
    frame.sample_rate = rate
    return rearranged(frame, planar=True) if planar and not frame.format.is_planar else frame


def rearranged(frame: Any, planar: bool) -> Any:
    """Return a frame with its channels one after the other (planar) or sample by sample."""
    wanted = frame.format.planar if planar else frame.format.packed
    (other,) = av.AudioResampler(format=wanted, layout=frame.layout, rate=frame.sample_rate).resample(frame)
    return other
