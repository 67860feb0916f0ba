"""What is done to a recording, in one record: the command line, Python and a batch's journal share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Sampler = Literal["ode", "sde", "heun", "jump"]
Dtype = Literal["float32", "bfloat16"]
ClipMode = Literal["clamp", "rescale", "none"]


@dataclass(frozen=True)
class Options:
    """Everything that makes a difference to the sound, beside the model.

    strength: share of the enhanced sound in the output, 0 to 1; the rest is the input, sample for sample.
    attenuation_limit: the same in decibels, instead of strength: nothing is lowered by more, for the input is mixed
    back in that many dB below itself (`--atten-lim` of DeepFilterNet); 0 is the input, None no limit.
    dereverb: how much of the reverberation is removed, 0 to 1: at 0 the noise alone goes and the room stays. Less than
    1 is only for models that were trained for it.
    steps: of the bridge, each a call of the network; sampler: "ode", "sde", whose noise follows from the seed,
    "heun", which calls the network twice a step, or "jump", only for models that were trained for it.
    dtype: of the network's products; bfloat16 is faster on processors that know it, and within -35 dB of float32.
    keep_high_band: pass through what lies above the model's band, lowered as the model lowers its uppermost octave.
    rate: sampling rate of the output in Hz, that of the input if None. mono: mix the channels into one before all else.

    replace_nan: take NaN, infinity and samples beyond 1e12 as silence.

    Of files only, subtype: sample format, that of the source if None. clip_mode: what becomes of samples beyond full
    scale. audio_stream: which of several in a film, from 1, or "all"; the one that players play if None, and the others
    are copied.

    Raises ValueError for a value out of range, or a strength and an attenuation limit at once.
    """

    strength: float = 1.0
    attenuation_limit: float | None = None
    dereverb: float = 1.0
    steps: int = 1
    sampler: Sampler = "ode"
    seed: int = 0
    dtype: Dtype = "float32"
    keep_high_band: bool = False
    rate: int | None = None
    mono: bool = False
    subtype: str | None = None
    clip_mode: ClipMode = "clamp"
    replace_nan: bool = False
    audio_stream: int | Literal["all"] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")
        if self.attenuation_limit is not None:
            if not self.attenuation_limit >= 0:
                raise ValueError(f"attenuation limit must be 0 dB or more, got {self.attenuation_limit}")
            if self.strength != 1:
                raise ValueError("strength and attenuation limit are one thing in two units: give one of them")
        if not 0 <= self.dereverb <= 1:
            raise ValueError(f"dereverb must be between 0 and 1, got {self.dereverb}")
        if self.steps < 1 or self.seed < 0:
            raise ValueError(f"steps must be at least 1 and seed 0, got {self.steps} and {self.seed}")
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be one of {', '.join(get_args(Sampler))}, got {self.sampler!r}")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}")
        if self.audio_stream not in (None, "all") and (isinstance(self.audio_stream, str) or self.audio_stream < 1):
            raise ValueError(f"audio stream must be a number from 1, or all, got {self.audio_stream!r}")
        if self.rate is not None:
            from sbm_cli.audio.samples import whole_rate

            object.__setattr__(self, "rate", whole_rate(self.rate))  # a NumPy integer is none in JSON

    @property
    def share(self) -> float:
        """Share of the enhanced sound in the output, whichever way it was given."""
        return self.strength if self.attenuation_limit is None else 1 - 10 ** (-self.attenuation_limit / 20)


DEFAULTS = Options()
