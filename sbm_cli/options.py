"""The options of enhancement, shared by command line, Python and the journal of a batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real
from typing import Literal, get_args

Sampler = Literal["ode", "sde", "heun", "jump"]
Dtype = Literal["float32", "bfloat16"]
ClipMode = Literal["clamp", "rescale", "none"]
LEAST_RATE, MOST_RATE = 1000, 768_000  # Hz of an output
LEAST_BIT_RATE = 1000  # bit/s
_NUMBERS = ("strength", "attenuation_limit", "dereverb", "rate", "loudness")


@dataclass(frozen=True)
class Options:
    """Everything that changes the sound, except the model.

    strength: share of enhanced sound in the output, 0 to 1; the rest is the input, sample for sample.
    attenuation_limit: instead of strength, in decibels: nothing is attenuated by more, because the input is mixed back
    in that many dB below itself (`--atten-lim` of DeepFilterNet); 0 is the input, None no limit.
    dereverb: share of the reverberation to remove, 0 to 1; below 1 only for models that were trained for it.
    steps: along the bridge. sampler: "ode"; "sde", whose noise follows from the seed; "heun", which calls the network
    twice per step; or "jump", only for models that were trained for it.
    dtype: of the network; bfloat16 is faster on processors that support it, and within -35 dB of float32.
    keep_high_band: pass on what lies above the model's band, attenuated like its uppermost octave, or leave it empty.
    rate: sampling rate of the output in Hz, None: that of the input. mono: mix all channels down to one first.
    replace_nan: replace NaN, infinity and samples beyond 1e12 with silence.

    For files only: subtype: sample format, None: that of the source. bit_rate: of a lossy codec in bit/s, None: that of
    the source, or the next higher one. clip_mode: for samples beyond full scale. loudness: integrated, in LUFS, with
    the true peak limited to -1 dB; None: as it comes. Those two take a pass of their own to know the whole file.
    audio_stream: number of the stream in a video, from 1, or "all"; None: the one that players choose. Other streams
    are copied.

    Raises ValueError for a value out of range, for both strength and attenuation limit, and for both clip mode
    "rescale" and loudness.
    """

    strength: float = 1.0
    attenuation_limit: float | None = None
    dereverb: float = 1.0
    steps: int = 1
    sampler: Sampler = "ode"
    seed: int = 0
    dtype: Dtype = "float32"
    keep_high_band: bool = True
    rate: int | None = None
    mono: bool = False
    subtype: str | None = None
    bit_rate: int | None = None
    clip_mode: ClipMode = "clamp"
    loudness: float | None = None
    replace_nan: bool = False
    audio_stream: int | Literal["all"] | None = None

    def __post_init__(self) -> None:
        for name, default in ((field.name, field.default) for field in fields(self)):
            value = getattr(self, name)
            if name in _NUMBERS and not (isinstance(value, Real) or value is default is None):
                raise ValueError(f"{name} must be a number, got {value!r}")
            if isinstance(default, bool) and not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 (the input) and 1 (all enhanced), got {self.strength}")
        if self.attenuation_limit is not None:
            if not self.attenuation_limit >= 0:
                raise ValueError(f"attenuation limit must be 0 dB or more, got {self.attenuation_limit}")
            if self.strength != 1:
                raise ValueError("strength and attenuation limit set the same thing: give only one of them")
        if not 0 <= self.dereverb <= 1:
            raise ValueError(f"dereverb must be between 0 and 1, got {self.dereverb}")
        if not all(hasattr(number, "__index__") for number in (self.steps, self.seed)):
            raise ValueError(f"steps and seed must be whole numbers, got {self.steps!r} and {self.seed!r}")
        if self.steps < 1 or self.seed < 0:
            raise ValueError(f"steps must be at least 1 and seed at least 0, got {self.steps} and {self.seed}")
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be one of {', '.join(get_args(Sampler))}, got {self.sampler!r}")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}")
        if self.clip_mode not in get_args(ClipMode):
            raise ValueError(f"clip mode must be one of {', '.join(get_args(ClipMode))}, got {self.clip_mode!r}")
        if self.bit_rate is not None and not (isinstance(self.bit_rate, int) and self.bit_rate >= LEAST_BIT_RATE):
            raise ValueError(f"bit rate must be a whole number of bit/s, such as 128000, got {self.bit_rate!r}")
        if self.loudness is not None:
            if not -70 < self.loudness <= 0:
                raise ValueError(f"loudness must be between -70 and 0 LUFS, such as -16, got {self.loudness}")
            if self.clip_mode == "rescale":
                raise ValueError("clip mode rescale and loudness set the same thing: give only one of them")
        if self.audio_stream not in (None, "all") and (isinstance(self.audio_stream, str) or self.audio_stream < 1):
            raise ValueError(f"audio stream must be a number from 1, or all, got {self.audio_stream!r}")
        if self.rate is not None:
            from sbm_cli.audio.samples import whole_rate

            object.__setattr__(self, "rate", whole_rate(self.rate))  # JSON takes no NumPy integer
            if not LEAST_RATE <= self.rate <= MOST_RATE:
                raise ValueError(f"rate must be between {LEAST_RATE} and {MOST_RATE} Hz, got {self.rate}")

    @property
    def needs_whole_file(self) -> bool:
        """Whether the gain of the output is known only when all of it has been heard."""
        return self.clip_mode == "rescale" or self.loudness is not None

    @property
    def share(self) -> float:
        """Share of enhanced sound in the output, from strength or attenuation limit."""
        return self.strength if self.attenuation_limit is None else 1 - 10 ** (-self.attenuation_limit / 20)


DEFAULTS = Options()
