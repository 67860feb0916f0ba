"""From files and folders to a list of jobs: which file is read, and which one is written."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from sbm_cli.audio.format import SUFFIXES
from sbm_cli.audio.io import read_format
from sbm_cli.errors import SbmError

SOUND_FILES = tuple(f"*{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True)
class Job:
    """One file to enhance into another one; `replace` an output that is there."""

    source: Path
    target: Path
    replace: bool = False
    seconds: float = 0.0  # of audio, where it is known


@dataclass(frozen=True)
class Filter:
    """Which files of a folder are taken: those that match an `include` and no `exclude` pattern, in any case.

    Patterns are those of the shell. One with a slash matches the path inside the folder, another one the name; an
    `exclude` that matches a folder leaves out all that is in it.
    """

    include: Sequence[str] = SOUND_FILES
    exclude: Sequence[str] = ()

    def takes(self, path: Path) -> bool:
        return _matches(path, self.include) and not self.leaves_out(path)

    def leaves_out(self, path: Path) -> bool:
        return _matches(path, self.exclude)


@dataclass(frozen=True)
class Plan:
    """The jobs, and what of the folders is none.

    ignored: files that are not taken for their suffix; unreadable: folders, as errors that name them; empty: folders
    given in which nothing was found.
    """

    jobs: list[Job] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)


def expand(inputs: Sequence[str]) -> list[Path]:
    """Return the paths that were meant: patterns, which the Windows shell leaves to the program, become their files.

    Raises SbmError for a path that does not exist, or a pattern that nothing matches.
    """
    paths: list[Path] = []
    for name in inputs:
        found = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))
        if not found:
            raise SbmError(f"{name}: no such file or folder")
        paths += map(Path, found)
    return paths


def find_jobs(inputs: Sequence[Path], out: Path, filter: Filter = Filter(), suffix: str | None = None) -> Plan:
    """Return a job for every file given and every file in the folders given, in the order of their names.

    A file comes to stand in `out` under its name, one found in a folder under its path inside that folder; suffix
    replaces its own one (".flac"), and so its format: then files that are sound by their content are taken whatever
    they are called, unless patterns were given. Links to files are followed, those to folders and hidden names
    (macOS keeps its notes there: ._talk.wav) are not; nor is `out`, should it lie inside a folder given.

    Raises SbmError if two files would become one, or a file would be written over one that is read.
    """
    plan = Plan()
    jobs: dict[Path, Job] = {}
    for given in inputs:
        found = list(_files(given, out, filter, suffix is not None, plan))
        if not found:
            plan.empty.append(given)
        for source, path in found:
            target = out / (path if suffix is None else path.with_suffix(suffix))
            other = jobs.setdefault(target, Job(source, target)).source
            if other != source and not os.path.samefile(other, source):
                raise SbmError(
                    f"{other} and {source} would both become {target}.",
                    "Give the folder that holds both, keep their suffixes, or choose with --include and --exclude.",
                )
    sources = {os.path.realpath(job.source): job.source for job in jobs.values()}
    for target in jobs:
        if source_there := sources.get(os.path.realpath(target)):
            raise SbmError(f"{source_there} would be overwritten.", f"Choose an output folder other than {out}.")
    plan.jobs.extend(jobs[target] for target in sorted(jobs))
    plan.ignored.sort()
    return plan


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with their seconds, those with most to do first, so that no worker is left with a long one."""
    with ThreadPoolExecutor(8) as readers:  # waiting for a slow disc, eight at a time
        measured = list(readers.map(_measure, jobs))
    return [job for job, _ in sorted(measured, key=lambda pair: -pair[1])]


def _measure(job: Job) -> tuple[Job, float]:
    """Return a job with its seconds, and how much work it is."""
    try:
        form = read_format(job.source)
    except (SbmError, OSError):  # will be told when its turn comes
        return job, 0.0
    return replace(job, seconds=form.seconds), form.seconds * form.channels


def _files(given: Path, out: Path, filter: Filter, sniff: bool, plan: Plan) -> Iterator[tuple[Path, Path]]:
    """Yield the files below a folder, or the file itself, each with its path inside the output folder.

    sniff: where no suffix says so, let the content say what is sound. The plan notes what is passed over.
    """
    if not given.is_dir():
        yield given, Path(given.name)
        return
    own = os.path.realpath(out)
    if own == os.path.realpath(given):
        raise SbmError(
            f"{out} is also an input folder.", "Choose another output folder: the next batch would read these outputs."
        )
    by_suffix = filter.include == SOUND_FILES
    for root, folders, names in os.walk(given, onerror=plan.unreadable.append):
        below = Path(root).relative_to(given)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not filter.leaves_out(below / name)
            and os.path.realpath(Path(root, name)) != own
        ]
        for name in names:
            if name.startswith(".") or filter.leaves_out(below / name):
                continue
            if filter.takes(below / name) or (by_suffix and sniff and _is_sound(Path(root, name))):
                yield Path(root, name), below / name
            elif by_suffix:
                plan.ignored.append(Path(root, name))


def _is_sound(path: Path) -> bool:
    try:
        read_format(path)
    except (SbmError, OSError):
        return False
    return True


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    whole, name = path.as_posix().lower(), path.name.lower()
    for pattern in patterns:
        pattern = pattern.lower().rstrip("/")
        if fnmatchcase(whole if "/" in pattern else name, pattern):
            return True
    return False
