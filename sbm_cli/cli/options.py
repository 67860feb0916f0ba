"""Options that several commands share, each described once."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import typer

from sbm_cli.errors import DependencyError
from sbm_cli.options import DEFAULTS, ClipMode, Dtype, Options, Sampler

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")]

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|PATH", help="A name of `sbm models list`, or a .safetensors file."),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
Ext = Annotated[
    str | None, typer.Option(metavar="EXT", help="Suffix and so format of outputs that have no name yet, such as flac.")
]
BAND_NOTE = "nothing above {:g} kHz comes out; --keep-high-band passes it through, lowered as the octave below"


def _options(
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="1 is the enhanced sound, 0 the input, between them both are mixed.")
    ] = DEFAULTS.strength,
    attenuation_limit: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DB", help="The same in decibels, as in DeepFilterNet: lower nothing by more than DB."
        ),
    ] = DEFAULTS.attenuation_limit,
    dereverb: Annotated[
        float,
        typer.Option(min=0, max=1, help="How much of the reverberation to remove; less than 1 by sbm-small alone."),
    ] = DEFAULTS.dereverb,
    keep_room: Annotated[
        bool, typer.Option("--keep-room", help="Remove the noise and keep the room, as --dereverb 0.")
    ] = False,
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Steps along the bridge, each a call of the network.")
    ] = DEFAULTS.steps,
    sampler: Annotated[
        Sampler,
        typer.Option(
            help="For several steps: ode, sde (adds noise, see --seed), heun (calls the network twice) or jump."
        ),
    ] = DEFAULTS.sampler,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise of --sampler sde and of flows.")] = DEFAULTS.seed,
    dtype: Annotated[
        Dtype,
        typer.Option(help="Of the network's products: bfloat16 is faster on processors that know it, and less exact."),
    ] = DEFAULTS.dtype,
    keep_high_band: Annotated[
        bool,
        typer.Option(
            "--keep-high-band", help="Pass through what lies above 8 kHz, lowered as the model lowers the octave below."
        ),
    ] = DEFAULTS.keep_high_band,
    rate: Annotated[
        int | None, typer.Option(min=1, metavar="HZ", help="Sampling rate of the output, if not INPUT's.")
    ] = DEFAULTS.rate,
    mono: Annotated[bool, typer.Option("--mono", help="Mix the channels into one.")] = DEFAULTS.mono,
    subtype: Annotated[
        str | None,
        typer.Option(metavar="SUBTYPE", help="Sample format, such as PCM_24 or FLOAT; that of INPUT if not given."),
    ] = DEFAULTS.subtype,
    clip_mode: Annotated[
        ClipMode, typer.Option(help="What to do with samples beyond full scale, in integer formats.")
    ] = DEFAULTS.clip_mode,
    replace_nan: Annotated[
        bool, typer.Option("--replace-nan", help="Take samples that are not numbers as silence, instead of failing.")
    ] = DEFAULTS.replace_nan,
    audio_stream: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Of several audio streams in a film: which, from 1, or all; the one that players play if not given.",
        ),
    ] = None,
) -> Options:
    """Return what the options of a command that enhances mean together."""
    with wrong_usage():
        return Options(
            strength=strength,
            attenuation_limit=attenuation_limit,
            dereverb=0.0 if keep_room else dereverb,
            steps=steps,
            sampler=sampler,
            seed=seed,
            dtype=dtype,
            keep_high_band=keep_high_band,
            rate=rate,
            mono=mono,
            subtype=subtype,
            clip_mode=clip_mode,
            replace_nan=replace_nan,
            audio_stream=_stream(audio_stream),
        )


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let the parameter `options` of a command stand for the options of `_options`, in its place in the help."""
    shared = inspect.signature(_options).parameters
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        parameters += shared.values() if parameter.name == "options" else [parameter]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        options = _options(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    wrapper.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in by_name}
    return wrapper


def check_existing(overwrite: bool, skip_existing: bool) -> None:
    """Refuse to do both with outputs that exist."""
    if overwrite and skip_existing:
        raise typer.BadParameter("either replace or keep what exists", param_hint="--overwrite, --skip-existing")


def suffix_of(ext: str | None, more: tuple[str, ...] = ()) -> str | None:
    """Return the suffix that --ext means, refusing all but those of sound files and `more`."""
    from sbm_cli.audio.format import OUTPUT_SUFFIXES

    suffix = None if ext is None else f".{ext.lower().lstrip('.')}"
    if suffix not in (None, *OUTPUT_SUFFIXES, *more):
        known = " ".join(OUTPUT_SUFFIXES + more)
        raise typer.BadParameter(f"no sound format {ext}; known: {known}", param_hint="--ext")
    return suffix


def _stream(text: str | None) -> int | Literal["all"] | None:
    """Return what --audio-stream means."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not re.fullmatch(r"[1-9]\d*", text):
        raise typer.BadParameter(f"{text!r} is neither a number from 1 nor all", param_hint="--audio-stream")
    return int(text)


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """Tell options that do not go together, which a record of them refuses, as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def check_device(device: str) -> None:
    """Refuse what is no device, or none that is here, before anything is loaded."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise typer.BadParameter(f"{device!r} is none of auto, cpu, cuda, cuda:N", param_hint="--device")
    if device.startswith("cuda"):
        import torch

        count, wanted = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
        if wanted >= count:
            raise DependencyError(
                f"--device {device}: torch can use {count} NVIDIA GPUs here",
                "Use --device cpu; `sbm doctor` shows what torch sees.",
            )
