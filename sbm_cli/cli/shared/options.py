"""Options that several commands share, each described once."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from sbm_cli.cli.shared import console
from sbm_cli.options import DEFAULTS, Knob, Options, chosen_options, offered, parse_bit_rate

if TYPE_CHECKING:
    from sbm_cli.audio.format import AudioFormat
    from sbm_cli.batch.plan import Naming
    from sbm_cli.enhancer import Enhancer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")]

Model = Annotated[
    str | None, Knob("Name from `sbm models list`, .safetensors file or its folder.", "NAME|PATH", short="m")
]
Device = Annotated[str, Knob("Device to run on: auto, cpu, cuda or cuda:N.", "DEVICE")]
_TEMPLATE = "What outputs are called, such as '{stem} (quiet){ext}'."
Name = Annotated[
    str | None, Knob(_TEMPLATE, "TEMPLATE", absent="{stem}{ext} in a folder, {stem}-clean{ext} beside the input")
]
NameInFolder = Annotated[str | None, Knob(_TEMPLATE, "TEMPLATE", absent="{stem}{ext}")]
Raw = Annotated[
    str | None,
    Knob("Read raw little-endian samples from stdin; 16000 means 16000:1:PCM_16.", "RATE[:CHANNELS[:SUBTYPE]]"),
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
    with wrong_usage():
        return parse_bit_rate(text)


def _audio_stream(text: str) -> int | str:
    """Return the value of --audio-stream."""
    if text != "all" and not re.fullmatch(r"[1-9]\d*", text):
        raise typer.BadParameter(f"expected a number from 1, or all, got {text!r}")
    return text if text == "all" else int(text)


# How the command line reads what Typer's own types do not, or do not explain.
_PARSERS = {"strength": _strength, "bit_rate": _bit_rate, "audio_stream": _audio_stream}


def for_typer(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command as Typer takes it: its knobs as options, with --quiet and --verbose at the end of its help.

    A parameter `options` becomes those of enhancement at its place in the help: all, or those that `Annotated` names.
    """
    parameters: list[inspect.Parameter] = []
    names: Collection[str] = ()
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            _, names = get_args(parameter.annotation) or (Options, tuple(offered()))
            for name in names:
                kind, knob = offered()[name]
                default = getattr(DEFAULTS, name, False)
                parameters.append(parameter.replace(name=name, default=default, annotation=Annotated[kind, knob]))
        else:
            parameters.append(parameter)
    for name, kind in (("quiet", Quiet), ("verbose", Verbose)):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind))
    parameters = [_option(parameter) for parameter in parameters]

    @functools.wraps(command)
    def wrapper(*, quiet: bool, verbose: bool, **given: Any) -> None:
        is_data = given.get("json", False) or given.get("json_lines", False)
        console.adjust(quiet or is_data, verbose)
        if names:
            with wrong_usage():
                given["options"] = chosen_options({name: given.pop(name) for name in names})
        command(**given)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter that a knob describes with an option of Typer's instead, any other as it is."""
    kind, knob = (*get_args(parameter.annotation), None, None)[:2]
    if not isinstance(knob, Knob):
        return parameter
    name, how = parameter.name, dict[str, Any](help=knob.help, show_default=knob.absent or True)
    flags = [f"--{name.replace('_', '-')}", *([f"-{knob.short}"] if knob.short else [])]
    if bool in (kind, *get_args(kind)):
        if parameter.default is not False:  # a --no-… only where it has an effect
            flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
    elif name in _PARSERS:
        kind, how = str | None, how | {"metavar": knob.unit, "parser": _PARSERS[name]}
    else:
        how |= {"metavar": knob.unit or None, "min": knob.least, "max": knob.most}
    return parameter.replace(annotation=Annotated[kind, typer.Option(*flags, **how)])


def check_existing(overwrite: bool, skip_existing: bool) -> None:
    """Refuse to both replace and keep existing outputs."""
    if overwrite and skip_existing:
        raise typer.BadParameter("give only one of them", param_hint="--overwrite, --skip-existing")


def check_writable(path: Path) -> None:
    """Raise OSError if a file cannot be made, before the work whose result it will have."""
    from sbm_cli.atomic import new_part

    new_part(path).unlink()


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


def load_enhancer(model: str | None, device: str, threads: int = 1) -> "Enhancer":
    """Return the enhancer that --model, --device and --threads stand for."""
    from sbm_cli.enhancer import Enhancer

    return Enhancer.load(model, device, threads, before_compiling=announce_compiling)


def announce_compiling() -> None:
    """Say what takes so long on a machine where nothing is compiled yet."""
    console.note("compiling kernels for this processor: ten seconds, once")
