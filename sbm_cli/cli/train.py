"""`sbm train`: a model from a recipe and your own folders."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.errors import WrongUsage
from sbm_cli.cli.shared.process import interrupted_by_signals
from sbm_cli.options import Knob

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig
    from sbm_cli.training.loop import Outcome, Progress

FORGOTTEN_DB = 0.3  # loss of SI-SDR on general noise that is worth a warning


def train(
    config: Annotated[
        str | None, Knob("Built-in recipe, such as sbm-tiny, or a YAML file.", "NAME|PATH", short="c")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|PATH",
            help="Model to fine-tune, with the recipe finetune unless --config names another.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe; may be repeated."),
    ] = None,
    pack: Annotated[Path | None, Knob("Train from a pack of `sbm data pack`; same as data.pack.", "DIR")] = None,
    output: Annotated[Path | None, Knob("Output folder.", "DIR", absent="runs/NAME", short="o")] = None,
    resume: Annotated[bool, Knob("Resume the training in the output folder, if there is one.")] = False,
    max_minutes: Annotated[float | None, Knob("Stop after this time, ready for --resume.", "MINUTES", 0)] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Knob("Device to train on; auto takes a GPU if there is one.")
    ] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, Knob("Precision of the network; same as loop.precision.")
    ] = None,
    processes: Annotated[
        int | None, Knob("Processes that share each batch.", "N", 1, absent="one per core, or one GPU")
    ] = None,
    dry_run: Annotated[bool, Knob("List on stdout what would be done, and train nothing.")] = False,
) -> None:
    """Train a model on folders of speech and noise, or fine-tune one.

    Mixtures are made during training, in simulated rooms and in yours. The recipe sets the data, the network and the
    number of steps. The result is NAME.safetensors with NAME.json beside it, ready for `sbm enhance --model`; best/
    holds the model with the best validation score, or else the last. For several GPUs, start it with torchrun.

    \b
    Examples:
      sbm train -c sbm-tiny --set "data.speech=[voice]" --set "data.noise=[noise]"
      sbm train --config mine.yaml --dry-run           # check it in seconds
      sbm train --config mine.yaml --output runs/mine --max-minutes 120
      sbm train --config mine.yaml --output runs/mine --resume
      sbm train --from sbm-tiny \\
        --set "data.speech=[my-voices]" --set "data.noise=[my-noise]"
      torchrun --nproc-per-node 8 -m sbm_cli train \\
        --config mine.yaml --pack packed --precision bfloat16
    """
    # Every process of torchrun runs this; only one speaks.
    console.adjust(os.environ.get("RANK", "0") != "0", False)
    if config is None and start is None:
        raise typer.BadParameter("give a recipe, or --from a model to fine-tune", param_hint="--config")

    from sbm_cli import hub
    from sbm_cli.data.sources import check_data
    from sbm_cli.model import load_config
    from sbm_cli.training.config import OverrideError, load_recipe
    from sbm_cli.training.logs import draw_losses
    from sbm_cli.training.loop import check_output
    from sbm_cli.training.loop import train as run
    from sbm_cli.training.state import saved_step

    weights = hub.resolve(start) if start is not None else None
    changes = list(overrides or [])
    changes += [f"data.pack={json.dumps(str(pack))}"] if pack is not None else []
    changes += [f"loop.precision={precision}"] if precision is not None else []
    model = load_config(weights) if weights is not None else None
    tuned = replace(model, name=f"{model.name}-tuned") if model is not None else None
    try:
        recipe = load_recipe(config or "finetune", changes, tuned)
    except OverrideError as error:
        raise WrongUsage(error.message, error.hint) from error
    folder = output or Path("runs") / recipe.model.name
    check_output(recipe, folder, resume, weights)
    absent = check_data(recipe.data) if os.environ.get("RANK", "0") == "0" else []
    if absent and recipe.loop.validate_every:
        console.warn(
            f"nothing is validated, and best/ will hold the last model: no {' or '.join(absent)} in the valid split",
            "Of several files in a folder, one at least is held out to validate on; a manifest says which.",
        )
    step = saved_step(folder)
    done = step is not None and step >= recipe.steps
    begins = "nothing to resume; the training starts from the beginning" if resume else ""
    if step is not None:
        begins = f"{'complete already, after' if done else 'goes on after'} {console.count(step, 'step')}"
    if dry_run:
        _foresee(recipe, folder, begins, weights, device, processes)
        return
    if begins:
        console.note(f"{folder}: {begins}")
    if not done:
        steps, mixtures = console.count(recipe.steps, "step"), console.count(recipe.batch, "mixture")
        console.note(f"{recipe.model.name}: {steps} of {mixtures} -> {folder}")
    try:
        with interrupted_by_signals():
            outcome = run(
                recipe,
                folder,
                resume=resume,
                max_minutes=max_minutes,
                processes=processes,
                report=_report,
                start=weights,
                device=device,
                bars=None if console.voice.quiet else console.progress,
            )
    except KeyboardInterrupt:
        saved = saved_step(folder)
        console.note(f"{folder}: nothing was saved yet" if saved is None else _unfinished(folder, saved, recipe.steps))
        raise
    if outcome.step < recipe.steps:
        console.note(_unfinished(folder, outcome.step, recipe.steps))
    if weights is not None and not done:
        _compare(outcome)
    if os.environ.get("RANK", "0") == "0" and (picture := draw_losses(folder)):
        console.note(f"{picture} shows the loss")
    console.note(f"{folder / recipe.model.name}.safetensors")


def _unfinished(folder: Path, step: int, steps: int) -> str:
    return f"{folder}: saved after step {step} of {steps}; --resume goes on"


def _foresee(
    recipe: TrainConfig, folder: Path, begins: str, start: Path | None, device: str, processes: int | None
) -> None:
    """Say what a training would do; begins: where in its folder, if that is worth a word."""
    from sbm_cli.training.dry_run import dry_run

    found = dry_run(recipe, start, device, processes, console.progress)
    if os.environ.get("RANK", "0") != "0":
        return

    def amount(kind: str, split: str) -> str:
        seconds = found.seconds.get((kind, split), [])
        if not seconds:
            return "the same" if kind == "noise" and recipe.data.own_share else "none"
        return f"{console.duration(sum(seconds))} in {console.count(len(seconds), 'file')}"

    step = recipe.batch * recipe.mix.segment_seconds
    beginning = f", beginning with {start.stem}" if start is not None else ""
    for name, text in (
        ("model", f"{recipe.model.name}, {found.parameters / 1e6:.2f} million parameters{beginning}"),
        ("speech", f"{amount('speech', 'train')} to train on, {amount('speech', 'valid')} to validate on"),
        ("noise", f"{amount('noise', 'train')} to train on, {amount('noise', 'valid')} to validate on"),
        ("steps", f"{recipe.steps} of {step:g} s each, {console.duration(recipe.steps * step)} of audio in all"),
        ("device", f"{found.device}, {found.processes} process{'es' * (found.processes > 1)}, {recipe.loop.precision}"),
        ("output", f"{folder}: {begins}" if begins else str(folder)),
    ):
        console.data(f"{name:8}{text}")


# At module level: spawned processes import it by name.
def _report(progress: Progress) -> None:
    skipped = f"  {progress.skipped} steps skipped" if progress.skipped else ""
    console.note(
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.speed:.1f} s of audio per second  {console.duration(progress.remaining)} left{skipped}"
    )
    for name, score in progress.valid.items():
        gain = score.si_sdr - score.noisy_si_sdr
        console.note(f"  {name}: loss {score.loss:.4f}  SI-SDR {score.si_sdr:.2f} dB ({gain:+.2f})")


def _compare(outcome: Outcome) -> None:
    """Say what fine-tuning changed, and warn if the model got worse on general noise."""
    for name, before in outcome.before.items():
        if name in outcome.after:
            after = outcome.after[name]
            console.note(f"{name}: SI-SDR {before.si_sdr:.2f} -> {after.si_sdr:.2f} dB")
            if name == "general" and after.si_sdr < before.si_sdr - FORGOTTEN_DB:
                console.warn(
                    f"the model got {before.si_sdr - after.si_sdr:.2f} dB worse on general noise",
                    "Lower optimizer.rate, steps or data.own_share, or add general noise to data.manifests.",
                )
    if "own" in outcome.before and "general" not in outcome.before:
        console.warn("without general noise, nothing shows what the model forgot", "Add some to data.manifests.")
