"""`sbm batch`: all recordings of folders into another folder, resumable, on all cores."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sbm_cli.cli.shared import console, errors
from sbm_cli.cli.shared.account import Account, check_report
from sbm_cli.cli.shared.options import (
    Model,
    NameInFolder,
    announce_compiling,
    check_existing,
    chosen_device,
    naming_of,
    wrong_usage,
)
from sbm_cli.cli.shared.process import ending_signals
from sbm_cli.hardware import cores, gpus
from sbm_cli.options import Knob, Options

if TYPE_CHECKING:
    from sbm_cli.batch.journal import Journal
    from sbm_cli.batch.local import Workers
    from sbm_cli.batch.plan import Job
    from sbm_cli.batch.ray import RayWorkers


def batch(
    inputs: Annotated[list[str], typer.Argument(metavar="DIR", help="Folders of recordings, or single files.")],
    output: Annotated[Path, Knob("Output folder.", "OUT", short="o")],
    *,
    include: Annotated[
        list[str] | None,
        Knob("Take only files that match, such as 'day1/*.wav'; may be repeated.", "PATTERN", absent="all sound files"),
    ] = None,
    exclude: Annotated[
        list[str] | None, Knob("Leave out files and folders that match; may be repeated.", "PATTERN")
    ] = None,
    overwrite: Annotated[bool, Knob("Redo outdated outputs.", short="y")] = False,
    skip_existing: Annotated[bool, Knob("Keep every existing output, outdated or not.", short="n")] = False,
    ext: Annotated[str | None, Knob("Output format by suffix, such as flac.", "EXT", absent="the input's")] = None,
    name: NameInFolder = None,
    fail_fast: Annotated[bool, Knob("Start no more files after a failure.")] = False,
    dry_run: Annotated[bool, Knob("List on stdout what would be done, and do nothing.")] = False,
    json_lines: Annotated[bool, Knob("Print one line of JSON per file on stdout.")] = False,
    report: Annotated[
        Path | None, Knob("Write a CSV table of the files that failed or are outdated, and why.", "FILE")
    ] = None,
    shard: Annotated[
        str | None, Knob("Do one of N parts, such as 2/8: one on each machine of a cluster, into the same OUT.", "I/N")
    ] = None,
    workers: Annotated[int | None, Knob("Worker processes.", "N", 1, absent="one per core or GPU")] = None,
    batch_size: Annotated[
        int | None,
        Knob("Files of similar length that a worker enhances together.", "N", 1, absent="32 on a GPU, 1 on a CPU"),
    ] = None,
    threads: Annotated[int, Knob("CPU threads per worker.", "N", 1)] = 1,
    device: Annotated[
        str, Knob("Device to run on: auto, cpu, cuda, or several GPUs: cuda:0,cuda:1.", "DEVICE")
    ] = "auto",
    engine: Annotated[Literal["local", "ray"], Knob("Where to work: on this machine, or on a Ray cluster.")] = "local",
    address: Annotated[
        str | None, Knob("Address of the Ray cluster.", "ADDRESS", absent="RAY_ADDRESS, or auto")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, Knob("GPU, or share of one, for each worker on a Ray cluster.", "SHARE", 0.01, 1)
    ] = None,
    options: Options,
    model: Model = None,
) -> None:
    """Remove noise and reverberation from all recordings in folders.

    Each output keeps its place inside DIR and, without --name, the name of its input. To resume, run the same command
    again: finished files are skipped. Outputs whose input, model or options have changed since are outdated: they are
    kept and reported with exit status 1, unless --overwrite or --skip-existing says what to do with them.

    A file that fails does not stop the others. Ctrl-C lets the files in progress finish; a second one stops at once.

    \b
    Examples:
      sbm batch recordings/ -o cleaned/
      sbm batch recordings/ -o clean/ --include '*.wav' --exclude drafts --dry-run
      sbm batch day1/ day2/talk.wav -o cleaned/ --ext flac --strength 0.8
      sbm batch recordings/ -o cleaned/ --name '{stem}-clean{ext}'
      sbm batch recordings/ -o cleaned/ --json-lines \\
        | jq -r 'select(.status == "failed") | .source'
    """
    check_existing(overwrite, skip_existing)
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; expected a folder", param_hint="--output")
    if engine == "local":
        if address is not None or gpus_per_worker is not None:
            raise typer.BadParameter("needs --engine ray", param_hint="--address" if address else "--gpus-per-worker")
        devices = _devices(device, workers, threads)
    elif device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"expected auto, cpu or cuda with --engine ray, got {device!r}", param_hint="--device")

    from sbm_cli import hub
    from sbm_cli.batch.journal import Journal
    from sbm_cli.batch.plan import SOUND_FILES, WHOLE, Shard, expand, find_jobs
    from sbm_cli.batch.work import Work

    with wrong_usage("--shard"):
        part = Shard.parse(shard) if shard else WHOLE

    naming = naming_of(name, ext)
    weights = hub.resolve(model)
    plan = find_jobs(expand(inputs), output, include or SOUND_FILES, exclude or (), naming)
    jobs = [job for job in plan.jobs if part.takes(job.target.relative_to(output))]
    account = Account(json_lines, dry_run)
    if report and part != WHOLE:
        report = report.with_stem(f"{report.stem}-{part.index}-of-{part.count}")  # else the last shard's alone stays
        console.note(f"the report of this shard is {report}")
    if report:
        check_report(report)
        if dry_run:
            console.note(f"{report} is written by the batch itself, not by a dry run")
        else:
            if output in report.parents:
                report.parent.mkdir(parents=True, exist_ok=True)
            account.write_report(report)  # now, to fail before the work and not after it
    account.begin(plan)
    for folder in plan.empty:
        console.error(f"no recordings found in {folder}", f"Looked for {' '.join(include or SOUND_FILES)}")
    if not plan.jobs:
        raise typer.Exit(errors.FAILED)
    work = Work(weights, options, threads, batch_size)
    journal = Journal(output, work.model, work.options, part, console.note)

    def processes(most: int) -> Workers | RayWorkers:
        if engine == "ray":
            from sbm_cli.batch.ray import RayWorkers

            share = gpus_per_worker or 1.0
            return RayWorkers(work, journal.path, most, workers, address, device, share, console.note)
        from sbm_cli.batch.local import Workers

        return Workers(work, devices[:most], announce_compiling)

    interrupted = False
    try:
        with contextlib.nullcontext() if dry_run else journal:
            todo, seconds = _sort(jobs, journal, account, overwrite, skip_existing)
            if renamed := journal.renamed(todo):
                again = f"{console.count(len(renamed), 'output')}, such as {renamed[0]}"
                console.warn(f"made again under other names: {again}", "The last run had another --name or --ext.")
            if dry_run:
                _list_plan(todo, account)
            elif todo:
                interrupted = _enhance(list(todo), seconds, processes(len(todo)), journal, account, fail_fast)
    finally:
        if report and not dry_run:
            account.write_report(report)
    account.sum_up(len(jobs), fail_fast)
    if interrupted:
        raise KeyboardInterrupt
    if plan.empty or plan.unreadable or (not dry_run and (account.failed or account.outdated)):
        raise typer.Exit(errors.FAILED)


def _devices(device: str, workers: int | None, threads: int) -> list[str]:
    """Name the device of each worker."""
    names = [chosen_device(name) for name in device.split(",")]
    if device == "auto" and names != ["cpu"]:
        names = [f"cuda:{index}" for index in range(gpus())]
    count = workers or (max(1, cores() // threads) if names == ["cpu"] else len(names))
    return [names[i % len(names)] for i in range(count)]


def _sort(
    jobs: list[Job], journal: Journal, account: Account, overwrite: bool, skip_existing: bool
) -> tuple[dict[Job, str], float]:
    """Return the jobs to do, each with why it is done again, and the seconds of audio that are done already.

    Accounts for the other jobs.
    """
    todo, seconds = {}, 0.0
    with console.progress("checking", "files") as progress:
        for number, job in enumerate(jobs):
            progress(number, len(jobs))
            state, reason = journal.state(job)
            if state == "new" or (state == "outdated" and overwrite):
                todo[replace(job, replace=state == "outdated")] = reason
            elif state == "outdated" and not skip_existing:
                account.outdated.setdefault(reason, []).append(job.target)
                account.add(job, "outdated", reason)
            else:
                account.add(job, "skipped", reason)
                seconds += journal.seconds(job)
    return todo, seconds


def _list_plan(todo: dict[Job, str], account: Account) -> None:
    """Report what would be done, with the length of each file."""
    from sbm_cli.batch.plan import measured

    with console.progress("measuring", "files") as progress:
        for number, (job, _, error) in enumerate(measured(todo)):
            progress(number, len(todo))
            if error:
                account.add(job, "unreadable", errors.describe(error).message)
            else:
                account.add(job, "planned", todo[replace(job, seconds=0.0)], seconds=job.seconds)


def _enhance(
    todo: list[Job], before: float, engine: Workers | RayWorkers, journal: Journal, account: Account, fail_fast: bool
) -> bool:
    """Do the jobs; return whether there was an interrupt. before: seconds of audio that are done already."""
    from sbm_cli.batch.plan import longest_first
    from sbm_cli.batch.work import Begun, Done, Failed, Progress

    def stopping() -> bool:
        return interrupted() or (fail_fast and bool(account.failed))

    start, announced, working = time.monotonic(), False, 0.0
    with _held_interrupt() as interrupted, engine as workers, console.progress("batch", before=before) as progress:
        progress(before, 0, "loading the model")
        todo = longest_first(todo)  # meanwhile
        done, total = before, before + sum(job.seconds for job in todo)
        running: dict[Job, float] = {}
        try:
            for event in workers.run(todo, stopping):
                match event:
                    case Begun(job, process):
                        journal.begin(job, process)
                        running[job] = 0.0
                        working = working or time.monotonic()
                    case Progress(job, seconds):
                        running[job] = seconds
                    case Done(job, report, sha256, size):
                        journal.finish(job, sha256, report["seconds"], size)
                        account.add(job, "done", **report)
                    case Failed(job, error):
                        if job in running:
                            journal.fail(job)
                        account.fail(job, error)
                if isinstance(event, Done | Failed):
                    done += event.job.seconds
                    del running[event.job]
                if stopping() and running and not announced:
                    announced = True
                    how = "; press Ctrl-C again to stop at once" if interrupted() else ""
                    console.note(f"finishing {console.count(len(running), 'file')} before stopping{how}")
                now = done + sum(running.values())
                if now > before:
                    progress(now, total, f"RTF {(time.monotonic() - working) / (now - before):.3f}")
        except KeyboardInterrupt:
            return True
        finally:
            account.left, account.elapsed = total - done, time.monotonic() - start
    return interrupted()


@contextlib.contextmanager
def _held_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; a second one, SIGTERM or SIGHUP interrupt at once."""
    held = False

    def hold(number: int, _: object) -> None:
        nonlocal held
        if held or number != signal.SIGINT:
            raise KeyboardInterrupt
        held = True

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, *ending_signals())}
    try:
        yield lambda: held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
