"""Options that several commands share, each described once."""

import contextlib
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import typer

from sbm_cli.errors import DependencyError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")]

# How a recording is enhanced
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|PATH", help="A name of `sbm models list`, or a .safetensors file."),
]
Strength = Annotated[
    float, typer.Option(min=0, max=1, help="1 is the enhanced sound, 0 the input, between them both are mixed.")
]
AttenuationLimit = Annotated[
    float | None,
    typer.Option(min=0, metavar="DB", help="The same in decibels, as in DeepFilterNet: lower nothing by more than DB."),
]
Dereverb = Annotated[
    float, typer.Option(min=0, max=1, help="How much of the reverberation to remove; less than 1 by sbm-small alone.")
]
KeepRoom = Annotated[bool, typer.Option("--keep-room", help="Remove the noise and keep the room, as --dereverb 0.")]
Steps = Annotated[int, typer.Option(min=1, metavar="N", help="Steps along the bridge, each a call of the network.")]
Sampler = Annotated[Literal["ode", "sde"], typer.Option(help="Of several steps: the flow, or with noise of --seed.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise of --sampler sde.")]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of the network's products: bfloat16 is faster on processors that know it, and less exact."),
]
KeepHighBand = Annotated[
    bool,
    typer.Option(
        "--keep-high-band", help="Pass through what lies above 8 kHz, lowered as the model lowers the octave below."
    ),
]
BAND_NOTE = "nothing above {:g} kHz comes out; --keep-high-band passes it through, lowered as the octave below"
Rate = Annotated[int | None, typer.Option(min=1, metavar="HZ", help="Sampling rate of the output, if not INPUT's.")]
Mono = Annotated[bool, typer.Option("--mono", help="Mix the channels into one.")]
Subtype = Annotated[
    str | None,
    typer.Option(metavar="SUBTYPE", help="Sample format, such as PCM_24 or FLOAT; that of INPUT if not given."),
]
Ext = Annotated[
    str | None, typer.Option(metavar="EXT", help="Suffix and so format of outputs that have no name yet, such as flac.")
]
ClipMode = Annotated[
    Literal["clamp", "rescale", "none"],
    typer.Option(help="What to do with samples beyond full scale, in integer formats."),
]
AudioStream = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Of several audio streams in a film: which, from 1, or all; the one that players play if not given.",
    ),
]
ReplaceNan = Annotated[
    bool, typer.Option("--replace-nan", help="Take samples that are not numbers as silence, instead of failing.")
]


def suffix_of(ext: str | None, more: tuple[str, ...] = ()) -> str | None:
    """Return the suffix that --ext means, refusing all but those of sound files and `more`."""
    from sbm_cli.audio.format import OUTPUT_SUFFIXES

    suffix = None if ext is None else f".{ext.lower().lstrip('.')}"
    if suffix not in (None, *OUTPUT_SUFFIXES, *more):
        known = " ".join(OUTPUT_SUFFIXES + more)
        raise typer.BadParameter(f"no sound format {ext}; known: {known}", param_hint="--ext")
    return suffix


def stream_of(text: str | None) -> int | Literal["all"] | None:
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
