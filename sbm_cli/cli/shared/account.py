"""What became of each file of a batch, reported at once and summed up at the end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbm_cli.atomic import write_atomically
from sbm_cli.cells import table
from sbm_cli.cli.shared import console, errors
from sbm_cli.errors import OutputExistsError

if TYPE_CHECKING:
    from sbm_cli.batch.plan import Job, Plan

COLUMNS = ("status", "source", "target", "reason", "hint")  # of the report

_WIDTH = len("unreadable")  # of the longest status


class Account:
    """Reports what becomes of each file, and sums up at the end."""

    def __init__(self, json_lines: bool, dry_run: bool) -> None:
        self.elapsed = 0.0
        self.left = 0.0  # seconds of audio still to do
        self.failed: list[Path] = []
        self.outdated: dict[str, list[Path]] = {}  # outputs by reason
        self.dry_run = dry_run
        self._json_lines = json_lines
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0  # of audio enhanced
        self._bytes_left = 0  # of planned inputs
        self._clipped = 0  # samples
        self._not_carried: Counter[str] = Counter()  # what outputs have no room for, by name
        self._rows: list[tuple[str, ...]] = []  # of the report

    def begin(self, plan: Plan) -> None:
        """Report folders that cannot be read and files that are ignored."""
        for error in plan.unreadable:
            message = errors.describe(error).message
            if self._json_lines:
                console.data_line({"status": "failed", "source": str(error.filename), "reason": message})
            self._rows.append(("failed", str(error.filename), "", message, ""))
            console.error(f"{message}: its files are left out")
        reason = "not a sound file by its suffix"
        for path in plan.ignored:
            record = {"status": "ignored", "source": str(path), "reason": reason}
            self._tell(record, f"{'ignored':{_WIDTH}}  {path}  ({reason})")
        if plan.ignored and not self.dry_run:
            files = console.count(len(plan.ignored), "file")
            console.note(f"{files} ignored ({reason}): {console.listed(plan.ignored)}")

    def add(self, job: Job, status: str, reason: str = "", hint: str = "", **report: Any) -> None:
        """Report a file as planned, unreadable, skipped, outdated, done or failed; report: fields of its FileReport."""
        if status in ("failed", "outdated"):
            self._rows.append((status, str(job.source), str(job.target), reason, hint))
        self._counts[status] += 1
        if status == "planned":
            self.left += report["seconds"]
            self._bytes_left += job.source.stat().st_size if job.source.exists() else 0
        else:
            self._seconds += report.get("seconds", 0.0)
        self._clipped += report.get("clipped", 0)
        self._not_carried.update(report.get("not_carried", ()))
        for note in report.get("notes", ()):
            console.warn(f"{job.source}: {note}")
        record = {"status": status, "source": str(job.source), "target": str(job.target), **report}
        why = reason.removeprefix(f"{job.source}: ")
        line = f"{status:{_WIDTH}}  {job.source} -> {job.target}" + (f"  ({why})" if why else "")
        self._tell(record | ({"reason": reason} if reason else {}), line)

    def _tell(self, record: dict[str, Any], line: str) -> None:
        if self._json_lines:
            console.data_line(record)
        else:
            (console.data if self.dry_run else console.detail)(console.printable(line))

    def fail(self, job: Job, error: Exception) -> None:
        self.failed.append(job.source)
        described = errors.describe(error)
        self.add(job, "failed", described.message, described.hint)
        errors.report(error, about=job.source)

    def write_report(self, path: Path) -> None:
        """Write what failed or is outdated so far as a table."""
        write_atomically(path, table([COLUMNS, *self._rows], "\r\n").encode("utf-8", "backslashreplace"))

    def sum_up(self, files: int, fail_fast: bool) -> None:
        """Say what failed, what is outdated, and how much was done in which time."""
        if self._clipped:
            console.warn(
                f"{self._clipped} samples beyond full scale",
                "--clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.",
            )
        if self._not_carried:
            names = (f"{name} ({count})" for name, count in self._not_carried.items())
            console.warn(f"not carried over (from how many files): {', '.join(names)}")
        for reason, paths in self.outdated.items():
            kept = "would be" if self.dry_run else "was" if len(paths) == 1 else "were"
            console.error(
                f"{console.count(len(paths), 'outdated output')} {kept} kept: {reason}: {console.listed(paths)}",
                "Use --overwrite to redo them, --skip-existing to keep them, or another output folder.",
            )
        if self.failed:
            console.error(
                f"{len(self.failed)} of {files} files failed:",
                "\n".join(console.printable(str(path)) for path in self.failed),
            )
        parts = [f"{count} {status}" for status, count in self._counts.items()]
        if left := files - self._counts.total():
            amount = f" ({_amount(self.left)} of audio)" if self.left else ""
            failed = "mend or --exclude what failed, or leave out --fail-fast, and run the command again"
            again = failed if fail_fast and self.failed else "run the same command again"
            parts.append(f"{left} left{amount}: {again}")
        summary = f"{console.count(files, 'file')}: {', '.join(parts) or 'nothing to do'}"
        if self._bytes_left:
            summary += f"; {_amount(self.left)} of audio, {self._bytes_left / 1e6:.1f} MB to read"
        if self._seconds:
            summary += f"; {_amount(self._seconds)} of audio in {_amount(self.elapsed)}"
            summary += f" (RTF {self.elapsed / self._seconds:.3f})"
        console.note(summary)


def check_report(path: Path) -> None:
    """Refuse to write a report in place of anything but an older one, or an empty file."""
    head = ",".join(COLUMNS).encode()
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(head)) in (b"", head):
                return
    if path.exists():
        raise OutputExistsError(f"{path} exists, and is no report of sbm batch.", "Choose another file for the report.")


def _amount(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else console.duration(seconds)
