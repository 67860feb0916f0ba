"""Options that several commands share, each described once."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from sbm_cli.cli.shared import console
from sbm_cli.options import DEFAULTS, KEEP_ROOM, LEAST_BIT_RATE, Knob, Options, knobs

if TYPE_CHECKING:
    from sbm_cli.audio.format import AudioFormat
    from sbm_cli.batch.plan import Naming

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
_TEMPLATE = {"metavar": "TEMPLATE", "help": "What outputs are called, such as '{stem} (quiet){ext}'."}
Name = Annotated[
    str | None,
    typer.Option(show_default="{stem}{ext} in a folder, {stem}-clean{ext} beside the input", **_TEMPLATE),
]
NameInFolder = Annotated[str | None, typer.Option(show_default="{stem}{ext}", **_TEMPLATE)]
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
        "--attenuation-limit says it in decibels"
    )


def _bit_rate(text: str) -> int:
    """Return the value of --bit-rate in bit/s."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kK]?)", text):
        rate = round(float(found[1]) * (1000 if found[2] else 1))
        if rate >= LEAST_BIT_RATE:
            return rate
    raise typer.BadParameter(f"expected 128k or 128000 (bit/s), for example, got {text!r}")


# How the command line reads what Typer's own types do not, or do not explain.
_PARSERS = {"strength": _strength, "bit_rate": _bit_rate}


def _option(kind: Any, knob: Knob, name: str) -> Any:
    """Return the annotation that offers an option as Typer wants it."""
    if bool in (kind, *get_args(kind)):  # a --no-… only where it has an effect
        flag = name.replace("_", "-")
        names = f"--{flag}" if getattr(DEFAULTS, name, False) is False else f"--{flag}/--no-{flag}"
        return Annotated[kind, typer.Option(names, help=knob.help, show_default=knob.absent or True)]
    how: dict[str, Any] = {"help": knob.help, "metavar": knob.unit or None, "show_default": knob.absent or True}
    if name in _PARSERS:
        return Annotated[kind, typer.Option(**how, parser=_PARSERS[name])]
    if name == "audio_stream":  # a number or a word
        kind = str | None
    return Annotated[kind, typer.Option(**how, min=knob.least, max=knob.most)]


def _offered() -> dict[str, Any]:
    """Return the options by their names, and --keep-room, in the order of the help."""
    offered: dict[str, Any] = {}
    for name, (kind, knob) in knobs().items():
        offered[name] = _option(kind, knob, name)
        if name == "dereverb":
            offered["keep_room"] = _option(bool, KEEP_ROOM, "keep_room")
    return offered


_OPTIONS = _offered()


def takes_options(command: Callable[..., None], names: Collection[str] = tuple(_OPTIONS)) -> Callable[..., None]:
    """Expand the parameter `options` of a command into those of `_OPTIONS` that are named, at its place in the help."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            parameters += [
                parameter.replace(name=name, default=getattr(DEFAULTS, name, False), annotation=_OPTIONS[name])
                for name in names
            ]
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in names}
        if chosen.pop("keep_room", False):
            chosen["dereverb"] = 0.0
        chosen["audio_stream"] = _stream(chosen.get("audio_stream"))
        with wrong_usage():
            options = Options(**chosen)
        command(options=options, **given)

    return _with_parameters(wrapper, parameters)


def takes_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --quiet and --verbose at the end of its help; a result as JSON makes it quiet, too."""
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())
    for name, kind in (("quiet", Quiet), ("verbose", Verbose)):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind))

    @functools.wraps(command)
    def wrapper(*, quiet: bool, verbose: bool, **given: Any) -> None:
        console.adjust(quiet or given.get("json", False) or given.get("json_lines", False), verbose)
        command(**given)

    return _with_parameters(wrapper, parameters)


def _with_parameters(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Let Typer see these parameters of a command."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


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


def naming_of(name: str | None, ext: str | None, default: str = "{stem}{ext}") -> "Naming":
    """Return the naming that --name and --ext stand for."""
    from sbm_cli.batch.plan import Naming

    with wrong_usage("--name"):
        return Naming(default if name is None else name, suffix_of(ext))


def raw_format(text: str) -> "AudioFormat":
    """Return the format that --raw describes."""
    from sbm_cli.audio import format

    with wrong_usage("--raw"):
        return format.raw_format(text)


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
