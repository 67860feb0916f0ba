"""What a sound file is made of, and what its cleaned copy shall be made of."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from sbm_cli.audio.resample import resampled_length
from sbm_cli.errors import AudioError

Waveform = NDArray[np.float32]  # [channels, samples], ±1 full scale

# First is what a suffix means, the others are kept when the input has them.
_CONTAINERS: dict[str, tuple[str, ...]] = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".wave": ("WAV", "WAVEX", "RF64"),
    ".rf64": ("RF64",),
    ".w64": ("W64",),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3",),
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
    ".aifc": ("AIFF",),
    ".caf": ("CAF",),
    ".au": ("AU",),
    ".snd": ("AU",),
    ".raw": ("RAW",),
}
SUFFIXES = tuple(suffix for suffix in _CONTAINERS if suffix != ".raw")  # of files that tell what they are made of

INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
INTEGER_BITS |= {f"ALAC_{bits}": bits for bits in (16, 20, 24, 32)}
# How much a subtype can hold, for the choice of the nearest: floats hold more than any integer.
_DEPTH = INTEGER_BITS | {"FLOAT": 33, "DOUBLE": 34}
SAMPLE_BYTES = {"ULAW": 1, "ALAW": 1, "FLOAT": 4, "DOUBLE": 8} | {
    name: bits // 8 for name, bits in INTEGER_BITS.items()
}
# Those that keep the number of samples. ADPCM, GSM and DWVW pad to whole blocks: they are read, not written.
_EXACT_LENGTH = {*SAMPLE_BYTES, "VORBIS", "OPUS", "MPEG_LAYER_III"}
_WITHOUT_FULL_SCALE = {"FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"}
_RATES = {
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
_MOST_CHANNELS = {"MP3": 2, "FLAC": 8}
_FOUR_GIB = 2**32 - 2**20  # the size fields of WAV, AIFF and AU have 32 bits; a megabyte is left for headers and tags


@dataclass(frozen=True)
class AudioFormat:
    """What a sound file is made of. Container, subtype and endian as libsndfile names them; tags are (name, text).

    samples: of each channel; None if only the end of the file will tell, as with what other programs wrote into pipes.
    """

    rate: int
    channels: int
    samples: int | None
    container: str
    subtype: str
    endian: str = "FILE"
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def seconds(self) -> float:
        """Duration, 0 if unknown."""
        return (self.samples or 0) / self.rate

    @property
    def has_full_scale(self) -> bool:
        """Whether samples beyond ±1 are lost: in integers and companded ones; floats and codecs hold them."""
        return self.subtype not in _WITHOUT_FULL_SCALE

    def converted(self, rate: int | None, mono: bool) -> "AudioFormat":
        """Return the format of the same recording at another rate, if one is given, and with one channel if mono."""
        rate = rate or self.rate
        samples = None if self.samples is None else resampled_length(self.samples, self.rate, rate)
        return replace(self, rate=rate, channels=1 if mono else self.channels, samples=samples)


def format_for(path: str | Path, source: AudioFormat, subtype: str | None = None) -> AudioFormat:
    """Return the format of an output named `path` for a recording in format `source`.

    The container follows the suffix of `path`. Within the source's container (and its family: WAV, WAVEX, RF64) the
    subtype stays; elsewhere it becomes the nearest one that loses nothing, or the best there is. Subtypes that
    pad to whole blocks (ADPCM, GSM) become the container's default, for the length must not change. A WAV that
    would, or could, outgrow 4 GiB becomes RF64. `subtype` overrides the choice.

    Raises AudioError for an unknown suffix, a subtype that the container does not have, and a rate, a channel count or
    a size that it cannot hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _CONTAINERS:
        shown = f"suffix {suffix}" if suffix else "a name without suffix"
        raise AudioError(f"{path}: no sound format for {shown}.", f"Use one of {' '.join(SUFFIXES)}")
    family = _CONTAINERS[suffix]
    container = source.container if source.container in family else family[0]
    odd = source.samples is None or source.samples * source.channels % 2 == 1
    choice = ["OPUS"] if suffix == ".opus" else subtypes(container, odd)
    if subtype is None:
        subtype = _nearest(source.subtype, choice, container)
    elif subtype.upper() not in choice:
        raise AudioError(f"{path}: {container} has no subtype {subtype}.", f"Use one of {', '.join(choice)}")
    subtype = subtype.upper()
    _check_limits(path, source, container, subtype)
    size = (source.samples or 0) * source.channels * SAMPLE_BYTES.get(subtype, 0)
    if container in ("WAV", "WAVEX") and (source.samples is None or size > _FOUR_GIB):
        container = "RF64"
    elif size > _FOUR_GIB and container in ("AIFF", "AU"):
        raise AudioError(
            f"{path}: {size / 2**30:.1f} GiB is too much for {container}.", "Use .wav, .w64, .caf or .flac."
        )
    endian = source.endian if container == source.container else "FILE"
    if (container, endian) == ("WAVEX", "BIG"):  # libsndfile reads it and cannot write it
        container = "WAV"
    return replace(source, container=container, subtype=subtype, endian=endian)


def storable(block: Waveform, format: AudioFormat) -> NDArray[np.float32 | np.int32]:
    """Return a block [channels, n] as libsndfile takes it, [n, channels]: integers rounded, and limited at full scale.

    Raises ValueError for another channel count or a sample that is not finite.
    """
    if block.ndim != 2 or block.shape[0] != format.channels:
        raise ValueError(f"expected a block [{format.channels}, samples], got shape {list(block.shape)}")
    if not np.isfinite(block).all():
        raise ValueError("a sample to be written is NaN or infinite")
    bits = INTEGER_BITS.get(format.subtype)
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


def _nearest(subtype: str, choice: list[str], container: str) -> str:
    if subtype in choice:
        return subtype
    linear = [name for name in choice if name in _DEPTH]
    if subtype not in _DEPTH or not linear:
        default = sf.default_subtype(container)
        return default if default in choice else choice[0]
    enough = [name for name in linear if _DEPTH[name] >= _DEPTH[subtype]]
    return min(enough, key=_DEPTH.__getitem__) if enough else max(linear, key=_DEPTH.__getitem__)


def _check_limits(path: Path, source: AudioFormat, container: str, subtype: str) -> None:
    rates = _RATES.get(subtype)
    if rates and source.rate not in rates:
        name = "Opus" if subtype == "OPUS" else container
        raise AudioError(
            f"{path}: {name} has no rate of {source.rate} Hz, only {', '.join(map(str, rates))}.",
            "Choose another format, such as .wav or .flac.",
        )
    most = _MOST_CHANNELS.get(container)
    if most and source.channels > most:
        raise AudioError(
            f"{path}: {container} holds {most} channels at most, the input has {source.channels}.",
            "Choose another format, such as .wav.",
        )
