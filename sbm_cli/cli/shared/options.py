"""Options that several commands share, each described once."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sbm_cli.options import DEFAULTS, LEAST_BIT_RATE, LEAST_RATE, MOST_RATE, ClipMode, Dtype, Options, Sampler

if TYPE_CHECKING:
    from sbm_cli.audio.format import AudioFormat

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="Name from `sbm models list`, .safetensors file or its folder.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Device to run on: auto, cpu, cuda or cuda:N.")]
Ext = Annotated[
    str | None,
    typer.Option(metavar="EXT", help="Output format by suffix, such as flac, for folders and stdout."),
]
Raw = Annotated[
    str | None,
    typer.Option(
        metavar="RATE[:CHANNELS[:SUBTYPE]]",
        help="Read raw little-endian samples from stdin; 16000 means 16000:1:PCM_16.",
    ),
]
PIPE = "-"  # standard input or output, where a file's name would stand


def _strength(text: str) -> float:
    """Return the value of --strength."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise typer.BadParameter(
        f"expected 0 (the input) to 1 (all enhanced), such as 0.7, got {text!r}; "
        "--attenuation-limit says it in decibels, and --model NAME takes another model (sbm models list)"
    )


def _bit_rate(text: str) -> int:
    """Return the value of --bit-rate in bit/s."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kK]?)", text):
        rate = round(float(found[1]) * (1000 if found[2] else 1))
        if rate >= LEAST_BIT_RATE:
            return rate
    raise typer.BadParameter(f"expected 128k or 128000 (bit/s), for example, got {text!r}")


# The fields of `Options`, by their names and with their defaults, and --keep-room, in the order of the help.
_OPTIONS: dict[str, Any] = {
    "strength": Annotated[
        float,
        typer.Option(parser=_strength, metavar="SHARE", help="Share of enhanced sound, 0 to 1; the rest is the input."),
    ],
    "attenuation_limit": Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DB", help="Attenuate nothing by more than DB: --strength in decibels, as in DeepFilterNet."
        ),
    ],
    "dereverb": Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Share of the reverberation to remove; below 1 needs sbm-small."
        ),
    ],
    "keep_room": Annotated[
        bool, typer.Option("--keep-room", help="Remove noise but keep the reverberation; same as --dereverb 0.")
    ],
    "steps": Annotated[
        int, typer.Option(min=1, metavar="N", help="Steps along the bridge; each calls the network once.")
    ],
    "sampler": Annotated[
        Sampler,
        typer.Option(
            help="Sampler for several steps: ode, sde (random, see --seed), heun (two network calls per step), or jump."
        ),
    ],
    "seed": Annotated[int, typer.Option(min=0, metavar="N", help="Random seed for --sampler sde and for flows.")],
    "dtype": Annotated[
        Dtype,
        typer.Option(
            help="Precision of the network; bfloat16 is less exact, and faster on processors that support it."
        ),
    ],
    "keep_high_band": Annotated[
        bool,
        typer.Option(
            "--keep-high-band/--no-keep-high-band",
            help="Keep what lies above 8 kHz, attenuated like the octave below, or nothing of it.",
        ),
    ],
    "rate": Annotated[
        int | None,
        typer.Option(
            min=LEAST_RATE, max=MOST_RATE, metavar="HZ", help="Output sampling rate.", show_default="the input's"
        ),
    ],
    "mono": Annotated[bool, typer.Option("--mono", help="Mix all channels down to one.")],
    "subtype": Annotated[
        str | None,
        typer.Option(
            metavar="SUBTYPE", help="Output sample format or codec, such as PCM_24.", show_default="the input's"
        ),
    ],
    "bit_rate": Annotated[
        int | None,
        typer.Option(
            parser=_bit_rate,
            metavar="RATE",
            help="Bit rate of a lossy codec, such as 128k.",
            show_default="the input's, or the next higher",
        ),
    ],
    "clip_mode": Annotated[
        ClipMode, typer.Option(help="For samples beyond full scale in integer formats; rescale lowers the whole file.")
    ],
    "loudness": Annotated[
        float | None,
        typer.Option(
            metavar="LUFS", help="Loudness of the output, such as -16 for podcasts; its true peak is limited to -1 dB."
        ),
    ],
    "replace_nan": Annotated[
        bool, typer.Option("--replace-nan", help="Replace NaN and infinite samples with silence instead of failing.")
    ],
    "audio_stream": Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Audio stream of a video to enhance, counted from 1, or all.",
            show_default="the one that players choose",
        ),
    ],
}


def takes_options(command: Callable[..., None], names: Collection[str] = tuple(_OPTIONS)) -> Callable[..., None]:
    """Expand the parameter `options` of a command into those of `_OPTIONS` that are named, at its place in the help."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            parameters += [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=getattr(DEFAULTS, name, False),
                    annotation=_OPTIONS[name],
                )
                for name in names
            ]
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in names}
        if chosen.pop("keep_room"):
            chosen["dereverb"] = 0.0
        chosen["audio_stream"] = _stream(chosen.get("audio_stream"))
        with wrong_usage():
            options = Options(**chosen)
        command(options=options, **given)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def check_existing(overwrite: bool, skip_existing: bool) -> None:
    """Refuse to both replace and keep existing outputs."""
    if overwrite and skip_existing:
        raise typer.BadParameter("give only one of them", param_hint="--overwrite, --skip-existing")


def suffix_of(ext: str | None, more: tuple[str, ...] = ()) -> str | None:
    """Return the suffix that --ext stands for: one of a sound file, or of `more`."""
    from sbm_cli.audio.format import OUTPUT_SUFFIXES

    suffix = None if ext is None else f".{ext.lower().lstrip('.')}"
    if suffix not in (None, *OUTPUT_SUFFIXES, *more):
        known = " ".join(OUTPUT_SUFFIXES + more)
        raise typer.BadParameter(f"unknown format {ext!r}; choose one of {known}", param_hint="--ext")
    return suffix


def raw_format(text: str) -> "AudioFormat":
    """Return the format that RATE[:CHANNELS[:SUBTYPE]] describes."""
    from sbm_cli.audio.format import AudioFormat, subtypes

    found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*)(?::(\w+))?)?", text)
    subtype = (found and found[3] or "PCM_16").upper()
    if found is None or subtype not in subtypes("RAW"):
        raise typer.BadParameter(
            f"expected RATE[:CHANNELS[:SUBTYPE]], such as 16000:1:PCM_16, got {text!r}; "
            f"choose SUBTYPE from {', '.join(subtypes('RAW'))}",
            param_hint="--raw",
        )
    return AudioFormat(int(found[1]), int(found[2] or 1), None, "RAW", subtype)


def _stream(text: str | None) -> int | Literal["all"] | None:
    """Return the value of --audio-stream."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not re.fullmatch(r"[1-9]\d*", text):
        raise typer.BadParameter(f"expected a number from 1, or all, got {text!r}", param_hint="--audio-stream")
    return int(text)


@contextlib.contextmanager
def wrong_usage(option: str | None = None) -> Iterator[None]:
    """Report a ValueError, of an option or of several that do not go together, as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def chosen_device(device: str) -> str:
    """Return the device that --device stands for, before anything is loaded."""
    from sbm_cli import hardware

    with wrong_usage("--device"):
        return hardware.chosen_device(device)
