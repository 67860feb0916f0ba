"""`sbm evaluate`: what a model is worth, in numbers with intervals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from sbm_cli.cli import console
from sbm_cli.cli.options import Json, Quiet, Verbose


def evaluate(
    manifest: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Corpora, as for `sbm train`.")],
    split: Annotated[
        Literal["valid", "report"],
        typer.Option(help="valid chooses between models; report, which chooses nothing, gives the published numbers."),
    ] = "valid",
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME|PATH", help="As for `sbm enhance`.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Mixtures; half with noise alone, half also in rooms.")] = 160,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="si_sdr, estoi, pesq, sig, bak, ovrl, p808; all that work here if none."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that score; one per core if not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads that enhance.")] = 1,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Where decoded corpora are kept.")] = Path("runs/cache"),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score a model on seeded mixtures of speech and noise that training never saw.

    The mixtures are made from the manifests' split. Every metric is given for the noisy input, for the output and as
    their paired difference with its bootstrap 95 % interval.

    \b
    Examples:
      sbm evaluate corpus.csv
      sbm evaluate corpus.csv --split report --json > scores.json
      sbm evaluate corpus.csv --model runs/mine/sbm-tiny.safetensors --metrics si_sdr,estoi
    """
    console.adjust(quiet or json, verbose)

    from sbm_cli.enhancer import Enhancer
    from sbm_cli.evaluation.metrics import available_metrics
    from sbm_cli.evaluation.report import evaluate as run
    from sbm_cli.evaluation.report import to_json, to_markdown
    from sbm_cli.evaluation.sets import evaluation_set
    from sbm_cli.training.data import open_corpus

    available = available_metrics()
    wanted = [name.strip() for name in metrics.split(",")] if metrics else list(available)
    if unknown := [name for name in wanted if name not in available]:
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(available)}", param_hint="--metrics")
    absent = [name for name in wanted if available[name]]
    for name in absent:
        console.warn(f"{name} is absent", available[name])
    enhancer = Enhancer.load(model, threads=threads)
    mixtures = list(evaluation_set(open_corpus(cache, manifest), split, count))
    present = [name for name in wanted if name not in absent]
    with console.progress(f"{enhancer.config.name} on {split}") as progress:
        rows = run(
            enhancer,
            mixtures,
            present,
            workers or os.cpu_count() or 1,
            lambda done: progress(5.0 * done, 10.0 * len(mixtures)),  # about 5 s each, noisy and enhanced
        )
    if json:
        console.data_json(
            {"model": enhancer.config.name, "split": split, "count": count, "scores": to_json(rows), "absent": absent}
        )
    else:
        console.data(to_markdown(rows, absent))
