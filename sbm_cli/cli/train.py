"""`sbm train`: a model from a recipe and anybody's folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sbm_cli.cli import console
from sbm_cli.cli.options import Quiet, Verbose

if TYPE_CHECKING:
    from sbm_cli.training.loop import Outcome, Progress

FORGOTTEN_DB = 0.3  # SI-SDR lost on general noise from which on a fine-tuned model is said to forget


def train(
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="NAME|PATH", help="A recipe of sbm, such as sbm-tiny, or a YAML file."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|PATH",
            help="Fine-tune this model, named as for `sbm enhance`: by --config, or by the recipe finetune.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be repeated."),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Train from what `sbm data pack` wrote; same as data.pack.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write; runs/ and the model's name if none."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that lies in DIR.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many minutes, ready for --resume.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the network's products; same as loop.precision."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Share each batch between so many; one per core, or one GPU, if none."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model from folders of speech and noise, or fine-tune one.

    Mixtures are made while it trains, in simulated rooms and in yours. The recipe says which folders, which network
    and how long. The model is NAME.safetensors with NAME.json beside it, ready for `sbm enhance --model`; best/ has
    the one that did best on validation. For many GPUs start it by torchrun.

    \b
    Examples:
      sbm train --config sbm-tiny --set "data.speech=[voices]" --set "data.noise=[noises]"
      sbm train --config mine.yaml --output runs/mine --max-minutes 120
      sbm train --config mine.yaml --output runs/mine --resume
      sbm train --from sbm-tiny --set "data.speech=[voices]" --set "data.noise=[my-noise]"
      torchrun --nproc-per-node 8 -m sbm_cli train --config mine.yaml --pack packed --precision bfloat16
    """
    # Every process that torchrun starts comes by here; one speaks.
    console.adjust(quiet or os.environ.get("RANK", "0") != "0", verbose)
    if config is None and start is None:
        raise typer.BadParameter("a recipe, or --from a model to fine-tune, is needed", param_hint="--config")

    from sbm_cli import hub
    from sbm_cli.training.config import load_recipe
    from sbm_cli.training.loop import train as run
    from sbm_cli.training.state import tuned_model

    weights = hub.resolve(start) if start is not None else None
    changes = list(overrides or [])
    changes += [f"data.pack={json.dumps(str(pack))}"] if pack is not None else []
    changes += [f"loop.precision={precision}"] if precision is not None else []
    recipe = load_recipe(config or "finetune", changes, tuned_model(weights) if weights is not None else None)
    folder = output or Path("runs") / recipe.model.name
    console.note(f"{recipe.model.name}: {recipe.steps} steps of {recipe.batch} mixtures -> {folder}")
    outcome = run(
        recipe,
        folder,
        resume=resume,
        max_minutes=max_minutes,
        processes=processes,
        report=_report,
        start=weights,
        device=device,
    )
    if weights is not None:
        _compare(outcome)
    console.note(f"{folder / recipe.model.name}.safetensors")


# At module level: several processes are started afresh and import it by name.
def _report(progress: Progress) -> None:
    skipped = f"  {progress.skipped} steps skipped" if progress.skipped else ""
    console.note(
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.speed:.1f} s of audio per second  {_duration(progress.remaining)} left{skipped}"
    )
    for name, score in progress.valid.items():
        gain = score.si_sdr - score.noisy_si_sdr
        console.note(f"  {name}: loss {score.loss:.4f}  SI-SDR {score.si_sdr:.2f} dB ({gain:+.2f})")


def _compare(outcome: Outcome) -> None:
    """Say what fine-tuning changed, and warn where the model got worse at what it could do before."""
    for name, before in outcome.before.items():
        if name in outcome.after:
            after = outcome.after[name]
            console.note(f"{name}: SI-SDR {before.si_sdr:.2f} -> {after.si_sdr:.2f} dB")
            if name == "general" and after.si_sdr < before.si_sdr - FORGOTTEN_DB:
                console.warn(
                    f"the model forgets: {before.si_sdr - after.si_sdr:.2f} dB lost on general noise",
                    "Lower optimizer.rate, steps or data.own_share, or give more general noise.",
                )
    if "own" in outcome.before and "general" not in outcome.before:
        console.warn("nothing shows whether the model forgot other noise", "Give general noise: data.manifests.")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
