"""What became of each file of a batch, told at once and summed up at the end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbm_cli.cli.shared import console, errors
from sbm_cli.cli.shared.options import BAND_NOTE

if TYPE_CHECKING:
    from sbm_cli.batch.plan import Job, Plan

SHOWN = 5  # names of files in a line


class Account:
    """Tells what becomes of each file, and sums up at the end."""

    def __init__(self, json_lines: bool, dry_run: bool) -> None:
        self.elapsed = 0.0
        self.failed: list[Path] = []
        self.outdated: dict[str, list[Path]] = {}  # outputs by reason
        self.dry_run = dry_run
        self._json_lines = json_lines
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0  # of audio enhanced
        self._clipped = 0  # samples
        self._limits: set[float] = set()  # Hz, at which outputs end
        self._not_carried: Counter[str] = Counter()  # what outputs have no room for, by name

    def begin(self, plan: Plan) -> None:
        """Report folders that cannot be read and files that are ignored."""
        for error in plan.unreadable:
            told = errors.describe(error).message
            if self._json_lines:
                console.data_line({"status": "failed", "source": str(error.filename), "reason": told})
            console.error(f"{told}: its files are left out")
        reason = "not a sound file by its suffix"
        for path in plan.ignored:
            if self._json_lines:
                console.data_line({"status": "ignored", "source": str(path), "reason": reason})
            else:
                (console.data if self.dry_run else console.detail)(f"ignored   {path}  ({reason})")
        if plan.ignored and not self.dry_run:
            names = ", ".join([*map(str, plan.ignored[:SHOWN]), *["…"] * (len(plan.ignored) > SHOWN)])
            console.note(f"{len(plan.ignored)} files ignored ({reason}): {names}")

    def tell(self, job: Job, status: str, reason: str = "", **report: Any) -> None:
        """Report a file as planned, skipped, outdated, done or failed; report: fields of its FileReport."""
        self._counts[status] += 1
        self._seconds += report.get("seconds", 0.0)
        self._clipped += report.get("clipped", 0)
        self._not_carried.update(report.get("not_carried", ()))
        if limit := report.get("band_limit"):
            self._limits.add(limit)
        for note in report.get("notes", ()):
            console.warn(f"{job.source}: {note}")
        if self._json_lines:
            record = {"status": status, "source": str(job.source), "target": str(job.target), **report}
            console.data_line(record | ({"reason": reason} if reason else {}))
        else:
            line = f"{status:8}  {job.source} -> {job.target}" + (f"  ({reason})" if reason else "")
            (console.data if self.dry_run else console.detail)(line)

    def fail(self, job: Job, error: Exception) -> None:
        self.failed.append(job.source)
        self.tell(job, "failed", errors.describe(error).message)
        errors.report(error, about=job.source)

    def sum_up(self, files: int) -> None:
        """Say what failed, what is outdated, and how much was done in which time."""
        if self._clipped:
            console.warn(
                f"{self._clipped} samples beyond full scale",
                "--clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.",
            )
        if self._not_carried:
            names = (f"{name} ({count})" for name, count in self._not_carried.items())
            console.warn(f"not carried over (from how many files): {', '.join(names)}")
        for limit in self._limits:
            console.note(BAND_NOTE.format(limit / 1000))
        for reason, paths in self.outdated.items():
            shown = ", ".join([*map(str, paths[:SHOWN]), *["…"] * (len(paths) > SHOWN)])
            console.error(
                f"{len(paths)} outdated {'output was' if len(paths) == 1 else 'outputs were'} kept: {reason}: {shown}",
                "Use --overwrite to redo them, --skip-existing to keep them, or another output folder.",
            )
        if self.failed:
            console.error(
                f"{len(self.failed)} of {files} files failed:",
                "\n".join(console.printable(str(path)) for path in self.failed),
            )
        summary = f"{files} files: " + ", ".join(f"{count} {status}" for status, count in self._counts.items())
        if left := files - self._counts.total():
            summary += f", {left} left: run the same command again"
        if self._seconds:
            summary += f"; {self._seconds:.1f} s of audio in {self.elapsed:.1f} s"
            summary += f" (RTF {self.elapsed / self._seconds:.3f})"
        console.note(summary)
