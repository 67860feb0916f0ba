"""From files and folders to a list of jobs: which file is read, and which one is written."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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


def find_jobs(inputs: Sequence[Path], out: Path, filter: Filter = Filter(), suffix: str | None = None) -> list[Job]:
    """Return a job for every file given and every file in the folders given, in the order of their names.

    A file comes to stand in `out` under its name, one found in a folder under its path inside that folder; suffix
    replaces its own one (".flac"), and so its format. Links to files are followed, those to folders and hidden names
    (macOS keeps its notes there: ._talk.wav) are not; nor is `out`, should it lie inside a folder given.

    Raises SbmError if two files would become one, or a file would be written over one that is read.
    """
    jobs: dict[Path, Job] = {}
    for given in inputs:
        for source, path in _files(given, out, filter):
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
            raise SbmError(f"{source_there} would be written over.", f"Name another output folder than {out}.")
    return [jobs[target] for target in sorted(jobs)]


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


def _files(given: Path, out: Path, filter: Filter) -> Iterator[tuple[Path, Path]]:
    """Yield the files below a folder, or the file itself, each with its path inside the output folder."""
    if not given.is_dir():
        yield given, Path(given.name)
        return
    own = os.path.realpath(out)
    if own == os.path.realpath(given):
        raise SbmError(f"{out} is the folder that is read.", "Name another one: its files would be read the next time.")
    for root, folders, names in os.walk(given, onerror=_refuse):
        below = Path(root).relative_to(given)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not filter.leaves_out(below / name)
            and os.path.realpath(Path(root, name)) != own
        ]
        for name in names:
            if not name.startswith(".") and filter.takes(below / name):
                yield Path(root, name), below / name


def _refuse(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that it may not read


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    whole, name = path.as_posix().lower(), path.name.lower()
    for pattern in patterns:
        pattern = pattern.lower().rstrip("/")
        if fnmatchcase(whole if "/" in pattern else name, pattern):
            return True
    return False
