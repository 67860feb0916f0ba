"""`sbm export`: a model for programs without PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from sbm_cli import hub
from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Json, check_writable
from sbm_cli.errors import exists_error
from sbm_cli.options import Knob, Options


def export(
    output: Annotated[Path, Knob("Where to write the graph.", "FILE.onnx", short="o")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PATH]",
            help="A name of `sbm models list`, or a .safetensors file; the default model if none is given.",
        ),
    ] = None,
    *,
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        Knob("Of the weights; with int8 of the products too, which is less exact."),
    ] = "float32",
    spectra: Annotated[bool, Knob("Leave the STFT out: the graph takes and returns the spectra of frames.")] = False,
    options: Annotated[Options, ("dereverb",)],
    check: Annotated[
        Path | None, Knob("Recording to check the graph with; speech-like noise if none is given.", "FILE")
    ] = None,
    overwrite: Annotated[bool, Knob("Replace FILE.onnx if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write a model as an ONNX graph that cleans hop by hop.

    It takes and returns a hop of samples. The graph is checked before it is written: onnxruntime enhances a recording
    with it, and the result must hardly differ from our own. docs/export.md says how to run it; examples/onnx_stream.py
    does.

    \b
    Examples:
      sbm export sbm-live -o sbm-live.onnx
      sbm export -o small.onnx --dtype int8 --check talk.wav
    """
    if output.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"{output}: the graph is ONNX, so name it .onnx", param_hint="--output")
    if output.exists() and not overwrite:
        raise exists_error(output)
    check_writable(output)
    from sbm_cli.export import export as write
    from sbm_cli.model import Model

    entry = hub.entries().get(name or hub.default_name())
    model = Model.load(hub.resolve(name)).to("cpu")
    console.note(f"{model.config.name}: exporting and checking, which takes up to a minute")
    written = write(
        model,
        output,
        check,
        dtype=dtype,
        spectra=spectra,
        dereverb=options.dereverb,
        license=entry.license if entry else "",
    )
    if json:
        console.data_json(dataclasses.asdict(written))
    console.note(
        f"{written.path}: {written.dtype}, {written.bytes / 1e6:.2f} MB, {written.delay} samples late; "
        f"at most {written.difference:.1g} from our own output, {written.difference_db:.0f} dB"
    )
