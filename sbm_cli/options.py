"""The options of enhancement, shared by command line, Python and the journal of a batch."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from sbm_cli.config import did_you_mean

Sampler = Literal["ode", "sde", "heun", "jump"]
Dtype = Literal["float32", "bfloat16"]
ClipMode = Literal["clamp", "rescale", "none"]
LEAST_RATE, MOST_RATE = 1000, 768_000  # Hz of an output
LEAST_BIT_RATE = 1000  # bit/s
MOST_STEPS = 1000
FOR_FILES = ("subtype", "bit_rate", "clip_mode", "loudness", "audio_stream")  # of no use to arrays and streams
_NUMBERS = ("strength", "attenuation_limit", "dereverb", "rate", "loudness")


@dataclass(frozen=True)
class Knob:
    """What is said of an option wherever it is offered: on the command line, in Python, on the page of `sbm serve`.

    unit: of its value, in capitals; least, most: the numbers between which it lies. absent: what None stands for.
    short: its letter on the command line.
    """

    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    absent: str = ""
    short: str = ""


@dataclass(frozen=True)
class Options:
    """Everything that changes the sound, except the model; each option is described beside it.

    Strength is exact: the rest of the output is the input, sample for sample. For files only: subtype, bit_rate,
    clip_mode, loudness and audio_stream; arrays and streams refuse them. Rescaling and loudness take a pass of
    their own to know the whole file.

    Raises TypeError for an unknown name, ValueError for a value out of range, for both strength and attenuation limit,
    and for both clip mode "rescale" and loudness.
    """

    strength: Annotated[float, Knob("Share of enhanced sound, 0 to 1; the rest is the input.", "SHARE", 0, 1)] = 1.0
    attenuation_limit: Annotated[
        float | None,
        Knob("Attenuate nothing by more than so many dB: strength in decibels, as in DeepFilterNet.", "DB", 0),
    ] = None
    dereverb: Annotated[
        float, Knob("Share of the reverberation to remove; sbm-tiny always removes all.", "SHARE", 0, 1)
    ] = 1.0
    steps: Annotated[int, Knob("Steps along the bridge; each calls the network once.", "N", 1, MOST_STEPS)] = 1
    sampler: Annotated[
        Sampler,
        Knob("Sampler for several steps: ode, sde (random, see seed), heun (two network calls per step), or jump."),
    ] = "ode"
    seed: Annotated[int, Knob("Random seed for the sampler sde and for flows.", "N", 0)] = 0
    dtype: Annotated[
        Dtype, Knob("Precision of the network; bfloat16 is less exact, and faster on processors that support it.")
    ] = "float32"
    keep_high_band: Annotated[
        bool, Knob("Keep what lies above 8 kHz, attenuated like the octave below, or nothing of it.")
    ] = True
    link_channels: Annotated[
        bool | None,
        Knob("Keep the stereo image by one gain for all channels, not one for each.", absent="for two channels"),
    ] = None
    warm_up: Annotated[
        bool | None,
        Knob(
            "Hear the first two seconds twice, so that the first words come out as clean as the rest.",
            absent="for files and arrays, not for streams",
        ),
    ] = None
    rate: Annotated[int | None, Knob("Output sampling rate.", "HZ", LEAST_RATE, MOST_RATE, "the input's")] = None
    mono: Annotated[bool, Knob("Mix all channels down to one.")] = False
    subtype: Annotated[
        str | None, Knob("Output sample format or codec, such as PCM_24.", "SUBTYPE", absent="the input's")
    ] = None
    bit_rate: Annotated[
        int | None,
        Knob(
            "Bit rate of a lossy codec, such as 128k.", "RATE", LEAST_BIT_RATE, absent="the input's, or the next higher"
        ),
    ] = None
    clip_mode: Annotated[
        ClipMode, Knob("For samples beyond full scale in integer formats; rescale lowers the whole file.")
    ] = "clamp"
    loudness: Annotated[
        float | None,
        Knob("Loudness of the output, such as -16 for podcasts; its true peak is limited to -1 dB.", "LUFS", -70, 0),
    ] = None
    replace_nan: Annotated[
        bool, Knob("Replace NaN, infinity and samples beyond 1e12 with silence instead of failing.")
    ] = False
    audio_stream: Annotated[
        int | Literal["all"] | None,
        Knob(
            "Audio stream of a video to enhance, counted from 1, or all.", "N|all", absent="the one that players choose"
        ),
    ] = None

    def __post_init__(self) -> None:
        for name, default in ((field.name, field.default) for field in fields(self)):
            value = getattr(self, name)
            if name in _NUMBERS and not (isinstance(value, Real) or value is default is None):
                raise ValueError(f"{name} must be a number, got {value!r}")
            is_switch = isinstance(default, bool) or (name in ("link_channels", "warm_up") and value is not None)
            if is_switch and not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 (the input) and 1 (all enhanced), got {self.strength}")
        if self.attenuation_limit == math.inf:
            object.__setattr__(self, "attenuation_limit", None)  # JSON has no infinity
        if self.attenuation_limit is not None:
            if not self.attenuation_limit >= 0:
                raise ValueError(f"attenuation limit must be 0 dB or more, got {self.attenuation_limit}")
            if self.strength != 1:
                raise ValueError("strength and attenuation limit set the same thing: give only one of them")
        if not 0 <= self.dereverb <= 1:
            raise ValueError(f"dereverb must be between 0 and 1, got {self.dereverb}")
        if not all(hasattr(number, "__index__") for number in (self.steps, self.seed)):
            raise ValueError(f"steps and seed must be whole numbers, got {self.steps!r} and {self.seed!r}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be between 1 and {MOST_STEPS}, got {self.steps}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        for name, choices in (("sampler", Sampler), ("dtype", Dtype), ("clip_mode", ClipMode)):
            if (value := getattr(self, name)) not in (known := get_args(choices)):
                raise ValueError(f"{name.replace('_', ' ')} must be one of {', '.join(known)}, got {value!r}")
        if self.bit_rate is not None and not (isinstance(self.bit_rate, int) and self.bit_rate >= LEAST_BIT_RATE):
            raise ValueError(f"bit rate must be a whole number of bit/s, such as 128000, got {self.bit_rate!r}")
        if self.loudness is not None:
            if not -70 <= self.loudness <= 0:
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
    def for_files(self) -> list[str]:
        """Names of the options that are set and for files only."""
        return [name for name in FOR_FILES if getattr(self, name) != getattr(DEFAULTS, name)]

    def for_recordings(self) -> Options:
        """Return the options for files and arrays, of which all is there from the start."""
        return replace(self, warm_up=True) if self.warm_up is None else self

    @property
    def needs_whole_file(self) -> bool:
        """Whether the gain of the output is known only when all of it has been heard."""
        return self.clip_mode == "rescale" or self.loudness is not None

    @property
    def share(self) -> float:
        """Share of enhanced sound in the output, from strength or attenuation limit."""
        return self.strength if self.attenuation_limit is None else 1 - 10 ** (-self.attenuation_limit / 20)


def _checking_names(init: Callable[..., None]) -> Callable[..., None]:
    """Return the initialiser of the options with words of our own for an unknown name."""

    @functools.wraps(init)
    def checked(self: Options, *values: Any, **named: Any) -> None:
        known = [field.name for field in fields(self)]
        if unknown := [name for name in named if name not in known]:
            hint = ": it is dereverb=0" if unknown[0] == "keep_room" else did_you_mean(unknown[0], known)
            raise TypeError(f"unknown option {unknown[0]!r}{hint}")
        init(self, *values, **named)

    return checked


Options.__init__ = _checking_names(Options.__init__)  # type: ignore[method-assign]


def chosen_options(named: Mapping[str, Any]) -> Options:
    """Return the options that somebody names, who may say keep_room for dereverb 0."""
    chosen = dict(named)
    if chosen.pop("keep_room", False):
        chosen["dereverb"] = 0.0
    return Options(**chosen)


def parse_bit_rate(text: str) -> int:
    """Return a bit rate in bit/s, which people give as 128k or 128000. Raises ValueError."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kK]?)", text):
        rate = round(float(found[1]) * (1000 if found[2] else 1))
        if rate >= LEAST_BIT_RATE:
            return rate
    raise ValueError(f"expected 128k or 128000 (bit/s), for example, got {text!r}")


DEFAULTS = Options()
FOR_LIVE = ("strength", "attenuation_limit", "dereverb", "keep_room")  # those that live sound takes, frame by frame


def check_options(options: object) -> None:
    """Raise ValueError for anything but options, such as a dictionary."""
    if not isinstance(options, Options):
        raise ValueError(f"options must be an Options, such as Options(strength=0.8), got {options!r}")


def knobs() -> dict[str, tuple[Any, Knob]]:
    """Return type and description of every option by its name."""
    hints = get_type_hints(Options, include_extras=True)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}


@functools.cache
def offered() -> dict[str, tuple[Any, Knob]]:
    """Return what is offered to those who write no Python: every option, and keep_room."""
    found: dict[str, tuple[Any, Knob]] = {}
    for name, described in knobs().items():
        found[name] = described
        if name == "dereverb":
            found["keep_room"] = bool, Knob("Remove noise but keep the reverberation: dereverb 0.")
    return found


Options.__doc__ = f"{Options.__doc__}\n" + "\n".join(f"    {name}: {knob.help}" for name, (_, knob) in knobs().items())
