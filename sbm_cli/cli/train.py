"""`sbm train`: a model from a recipe and anybody's folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli.cli import console
from sbm_cli.cli.options import Quiet, Verbose

if TYPE_CHECKING:
    from sbm_cli.training.loop import Progress


def train(
    config: Annotated[
        str,
        typer.Option("--config", "-c", metavar="NAME|PATH", help="A recipe of sbm, such as sbm-tiny, or a YAML file."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write; runs/ and the model's name if none."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that lies in DIR.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many minutes, ready for --resume.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Share each batch between so many; one per core if not given.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model from folders of speech and noise.

    Mixtures are made while it trains, in simulated rooms and in yours. The recipe says which folders, which network
    and how long. The model is NAME.safetensors with NAME.json beside it, ready for `sbm enhance --model`.

    \b
    Examples:
      sbm train --config sbm-tiny --set "data.speech=[voices]" --set "data.noise=[noises]"
      sbm train --config mine.yaml --output runs/mine --max-minutes 120
      sbm train --config mine.yaml --output runs/mine --resume
    """
    console.adjust(quiet, verbose)

    from sbm_cli.training.config import load_recipe
    from sbm_cli.training.loop import train as run

    recipe = load_recipe(config, overrides)
    folder = output or Path("runs") / recipe.model.name
    console.note(f"{recipe.model.name}: {recipe.steps} steps of {recipe.batch} mixtures -> {folder}")
    run(recipe, folder, resume=resume, max_minutes=max_minutes, processes=processes, report=_report)
    console.note(f"{folder / recipe.model.name}.safetensors")


# At module level: several processes are started afresh and import it by name.
def _report(progress: Progress) -> None:
    console.note(
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.speed:.1f} s of audio per second  {_duration(progress.remaining)} left"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
