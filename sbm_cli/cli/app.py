"""The Typer application, the options that every command shares, and the entry point."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbm_cli import __version__
from sbm_cli.cli import batch, data, doctor, enhance, evaluate, export, live, models, rtf, serve, train
from sbm_cli.cli.shared import console, errors, process
from sbm_cli.cli.shared.options import Quiet, Verbose, for_typer

# rich_markup_mode=None: plain help starts in half the time, and every Tab completion starts the program.
app = typer.Typer(
    name="sbm",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("enhance")(for_typer(enhance.enhance))
app.command("batch")(for_typer(batch.batch))
app.command("live")(for_typer(live.live))
app.command("serve")(for_typer(serve.serve))
app.add_typer(data.app, name="data")
app.command("train")(for_typer(train.train))
app.command("evaluate")(for_typer(evaluate.evaluate))
app.command("rtf")(for_typer(rtf.rtf))
app.command("benchmark-rtf", hidden=True)(for_typer(rtf.rtf))
app.command("export")(for_typer(export.export))
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.data("\n".join([f"sbm {__version__}", *doctor.version_lines()]))
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Show the versions of sbm, torch, numba and the scans, and exit.",
        ),
    ] = False,
) -> None:
    """Clean noisy and reverberant speech recordings in a single network step.

    \b
    Examples:
      sbm enhance noisy.wav -o clean.wav
      sbm batch recordings/ -o cleaned/
      sbm models list
      sbm doctor
    """
    console.configure(quiet, verbose)
    if context.invoked_subcommand is None:
        console.data(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run `sbm` on arguments, those of the process if None, and exit with its status."""
    process.fill_closed_streams()
    try:
        # Not standalone: Typer would print usage errors in its own style, and exit before we can translate the rest.
        status = app(arguments, prog_name="sbm", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(errors.report(error))
    if status == errors.INTERRUPTED:  # Typer turns a KeyboardInterrupt into this number
        sys.exit(errors.report(KeyboardInterrupt()))
    sys.exit(status)
