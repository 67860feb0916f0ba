"""`sbm models`: list, download, find and verify models."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from sbm_cli import hub
from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Json
from sbm_cli.errors import ModelError, SbmError

app = typer.Typer(help="List, download, find and verify models.", rich_markup_mode=None)

Name = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Name from `sbm models list`; without one, the default model."),
]


@app.command("list")
def list_models(json: Json = False) -> None:
    """List all models: name, size, origin, licence. A star marks the default.

    \b
    Examples:
      sbm models list
      sbm models list --json
    """
    default = hub.default_name()
    models = list(hub.entries().values())
    lines = (
        f"{'*' if model.name == default else ' '} {model.name:<16}{model.bytes / 1e6:8.2f} MB  {_place(model):<14}"
        f"{model.license}"
        for model in models
    )
    console.result([_document(model, default) for model in models], lines, json)


@app.command("download")
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Models to download.", show_default="all published ones"),
    ] = None,
    json: Json = False,
) -> None:
    """Download models from Hugging Face and print their paths.

    Their digests are checked. `sbm enhance --model NAME` does so by itself. Models are kept in the Hugging Face cache:
    HF_HOME sets its folder, HF_HUB_OFFLINE=1 prevents network access, HF_TOKEN opens private repositories.

    \b
    Examples:
      sbm models download
      HF_HOME=/data/models sbm models download sbm-tiny
    """
    known = hub.entries()
    chosen = [hub.entry(name) for name in names] if names else [m for m in known.values() if m.source == "huggingface"]
    bundled = ", ".join(model.name for model in (chosen or known.values()) if model.source == "bundled")
    if not chosen:
        console.note("no model has been published for download yet")
    if bundled:
        console.note(f"bundled with the package: {bundled}")
    paths = {model.name: str(hub.resolve(model.name)) for model in chosen}
    console.result(paths, paths.values(), json)


@app.command("path")
def path(name: Name = None, json: Json = False) -> None:
    """Check the digests of a model and print its path. Nothing is downloaded.

    \b
    Examples:
      sbm models path
      cp "$(sbm models path sbm-tiny)" my-models/
    """
    found = str(hub.check(hub.entry(name)))
    console.result({"path": found}, [found], json)


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Models to verify.", show_default="all on this machine"),
    ] = None,
    json: Json = False,
) -> None:
    """Compare model files with their digests. The exit status is 1 if one is damaged.

    \b
    Examples:
      sbm models verify
      sbm models verify sbm-tiny
    """
    chosen = [hub.entry(name) for name in names] if names else [m for m in hub.entries().values() if hub.local_file(m)]
    if not chosen:
        raise ModelError("there is no model on this machine", "Run `sbm models list` to see all models.")
    damaged = set()
    for model in chosen:
        try:
            hub.check(model)
        except ModelError as fault:
            damaged.add(model.name)
            console.error(fault.message, fault.hint)
    results = [{"name": model.name, "ok": model.name not in damaged} for model in chosen]
    console.result(results, (f"{model.name}: ok" for model in chosen if model.name not in damaged), json)
    if damaged:
        raise typer.Exit(1)


@app.command("info")
def info(name: Name = None, json: Json = False) -> None:
    """Print what is known of a model, from its size to its latency.

    Its source, digests, licence, training data and scores are there too. The algorithmic latency of a stream is its
    window plus look-ahead; at other rates the resampler adds its own.

    \b
    Examples:
      sbm models info
      sbm models info sbm-tiny --json
    """
    model = hub.entry(name)
    document = _document(model, hub.default_name()) | {"latency": _latency(model)}
    lines = [line for key, value in document.items() for line in _lines(key, value)]
    width = max(len(label) for label, _ in lines) + 2
    console.result(document, (f"{label:<{width}}{text}" for label, text in lines), json)


def _document(model: hub.ModelEntry, default: str) -> dict[str, Any]:
    file = hub.local_file(model)
    return {
        **dataclasses.asdict(model),
        "default": model.name == default,
        "path": None if file is None else str(file),
    }


def _latency(model: hub.ModelEntry) -> dict[str, float] | None:
    """Return the parts of a stream's latency in milliseconds; None if the model is absent or damaged."""
    from sbm_cli.audio.resample import resampling_delay
    from sbm_cli.model import load_config

    path = hub.local_file(model)
    if path is None:
        return None
    try:
        config = load_config(path)
    except SbmError:
        return None
    window, hop = config.stft.window / config.rate, config.stft.hop / config.rate
    lookahead = config.network.lookahead * hop
    seconds = {
        "window": window,
        "hop": hop,
        "lookahead": lookahead,
        "algorithmic": window + lookahead,
        "resampler_48_khz": resampling_delay(48_000, config.rate, 48_000),
        "resampler_44_khz": resampling_delay(44_100, config.rate, 44_100),
    }
    return {f"{name}_ms": round(1e3 * value, 1) for name, value in seconds.items()}


def _place(model: hub.ModelEntry) -> str:
    if model.source == "bundled":
        return "bundled"
    return "downloaded" if hub.local_file(model) else "Hugging Face"


def _lines(key: str, value: object) -> list[tuple[str, str]]:
    """Return a value as lines of label and text; an empty value has none."""
    if value in ("", None):
        return []
    if isinstance(value, dict):
        return [line for inner, item in value.items() for line in _lines(f"{key}.{inner}", item)]
    if isinstance(value, list | tuple):
        return [(key if index == 0 else "", str(item)) for index, item in enumerate(value)]
    return [(key, str(value))]
