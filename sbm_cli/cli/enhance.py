"""`sbm enhance`: one recording in, one clean recording out."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sbm_cli.cli import console
from sbm_cli.cli.options import Json, Quiet, Verbose
from sbm_cli.errors import DependencyError

if TYPE_CHECKING:
    from sbm_cli.enhancer import FileReport


def enhance(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A recording: WAV, FLAC, OGG, MP3, AIFF, …")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUTPUT", help="The clean file, or a folder to put it into.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace OUTPUT if it exists.")] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="A name of `sbm models list`, or a .safetensors file."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more help on an idle machine only.")] = 1,
    subtype: Annotated[
        str | None,
        typer.Option(metavar="SUBTYPE", help="Sample format, such as PCM_24 or FLOAT; that of INPUT if not given."),
    ] = None,
    clip_mode: Annotated[
        Literal["clamp", "rescale", "none"],
        typer.Option(help="What to do with samples beyond full scale, in integer formats."),
    ] = "clamp",
    replace_nan: Annotated[
        bool, typer.Option("--replace-nan", help="Take samples that are not numbers as silence, instead of failing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise and reverberation from one recording.

    The output has the rate, channels, length and sample format of the input. What lies above 8 kHz is not restored.

    \b
    Examples:
      sbm enhance noisy.wav -o clean.wav
      sbm enhance talk.flac -o cleaned/            the name is kept
      sbm enhance talk.wav -o talk.wav --overwrite replaced only when complete
      sbm enhance talk.wav -o clean.wav --json | jq .rtf
    """
    console.adjust(quiet or json, verbose)
    if source.is_dir():
        raise typer.BadParameter(
            f"{source} is a folder, and enhance takes one file. For all files of a folder: "
            f'for f in {source}/*.wav; do sbm enhance "$f" -o cleaned/; done',
            param_hint="INPUT",
        )
    _check_device(device)
    target = _target(source, output)

    from sbm_cli.enhancer import Enhancer

    enhancer = Enhancer.load(model, device=device, threads=threads)
    with console.progress(source.name) as progress:
        report = enhancer.enhance_file(
            source,
            target,
            overwrite=overwrite,
            subtype=subtype,
            clip_mode=clip_mode,
            replace_nan=replace_nan,
            progress=progress,
        )
    if json:
        console.data_json(dataclasses.asdict(report))
    _summarise(report)


def _target(source: Path, output: str) -> Path:
    """Name the output: inside a folder, and `name/` says that a folder is meant, it keeps the input's name."""
    path = Path(output)
    if output.endswith(("/", os.sep)) and source.exists():
        path.mkdir(parents=True, exist_ok=True)
    return path / source.name if path.is_dir() else path


def _check_device(device: str) -> None:
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


def _summarise(report: FileReport) -> None:
    if report.clipped:
        console.warn(
            f"{report.target}: {report.clipped} samples beyond full scale",
            "--clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.",
        )
    console.note(
        f"{report.source} -> {report.target}  "
        f"{report.seconds:.1f} s of audio in {report.elapsed:.1f} s (RTF {report.rtf:.2f})"
    )
