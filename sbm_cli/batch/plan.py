"""From files and folders to a list of jobs: which file is read and which one is written."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from string import Formatter

from sbm_cli.audio.format import SUFFIXES
from sbm_cli.audio.io import read_format
from sbm_cli.errors import SbmError

SOUND_FILES = tuple(f"*{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True)
class Job:
    """One file to enhance into another; replace: whether to replace an existing output."""

    source: Path
    target: Path
    replace: bool = False
    seconds: float = 0.0  # of audio, if known


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a batch, counted from 1, of about as many files each.

    The path of an output decides, and nothing else: machines that know nothing of each other agree, also after files
    were added.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that "2/8" stands for. Raises ValueError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"expected I/N, such as 1/8 to 8/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def takes(self, output: PurePath) -> bool:
        """Whether an output, given by its path in the output folder, is of this shard."""
        digest = hashlib.sha256(os.fsencode(output.as_posix())).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


WHOLE = Shard()


@dataclass(frozen=True)
class Naming:
    """What outputs are called: a template in which {stem} and {ext} stand for those parts of the input's name.

    suffix: what {ext} becomes instead (".flac"), and so the format; None keeps it.

    Raises ValueError for another template: one that does not end in {ext}, or names another field or a folder.
    """

    template: str = "{stem}{ext}"
    suffix: str | None = None

    def __post_init__(self) -> None:
        try:
            parsed = list(Formatter().parse(self.template))
        except ValueError:  # a brace without its other half
            parsed = [("", "", "", "")]
        fields = {f"{field}{spec}{conversion or ''}" for _, field, spec, conversion in parsed if field is not None}
        plain = fields <= {"stem", "ext"} and Path(self.template).name == self.template
        if not plain or not self.template.endswith("{ext}"):
            raise ValueError(
                f"expected a name with no fields but {{stem}} and, at its end, {{ext}}, like {{stem}}-clean{{ext}}; "
                f"got {self.template!r}"
            )

    def __call__(self, path: Path) -> Path:
        """Return the path of the output for that of an input."""
        return path.with_name(self.template.format(stem=path.stem, ext=self.suffix or path.suffix))


@dataclass(frozen=True)
class Plan:
    """The jobs, and everything in the folders that is none.

    ignored: files left out because of their suffix. unreadable: folders, as errors that name them. empty: given folders
    in which nothing was found.
    """

    jobs: list[Job] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)


def expand(inputs: Sequence[str]) -> list[Path]:
    """Return the paths of the inputs, with patterns expanded: the Windows shell leaves that to the program.

    Raises SbmError for a path that does not exist or a pattern that matches nothing.
    """
    paths: list[Path] = []
    for index, name in enumerate(inputs):
        found = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))
        if not found:
            raise SbmError(f"{name}: no such file or folder", _spaces_hint(inputs, index))
        paths += map(Path, found)
    return paths


def _spaces_hint(inputs: Sequence[str], missing: int) -> str:
    """Return what to do about a missing input that is a part of a name with spaces, "" if it is none."""
    for start in range(missing + 1):
        for end in range(missing + 1, len(inputs) + 1):
            name = " ".join(inputs[start:end])
            if os.path.lexists(name):
                return f"Put a name with spaces in quotes: {shlex.quote(name)}"
    return ""


def find_jobs(
    inputs: Sequence[Path],
    out: Path,
    include: Sequence[str] = SOUND_FILES,
    exclude: Sequence[str] = (),
    naming: Naming = Naming(),
) -> Plan:
    """Return a job for every file among the inputs and in the folders among them, in the order of their names.

    Of a folder those are taken that match an `include` and no `exclude` pattern of the shell, ignoring case. With a
    slash a pattern is for the path inside the folder, without one for the name. An `exclude` that matches a folder
    leaves out everything in it.

    The output in `out` keeps the path of a file inside its folder; its name is up to the naming. If that sets a suffix
    and there are no patterns, files without a known suffix count if their content is sound. Links to files are
    followed, links to folders are not. Hidden names (macOS keeps notes in ._talk.wav) are left out, and so is `out` if
    it lies inside a folder.

    Raises SbmError if two files would become one, or an output would replace an input.
    """
    plan = Plan()
    jobs: dict[Path, Job] = {}
    for given in inputs:
        found = list(_files(given, out, include, exclude, naming.suffix is not None, plan))
        if not found:
            plan.empty.append(given)
        for source, path in found:
            target = out / naming(path)
            other = jobs.setdefault(target, Job(source, target)).source
            if other != source and not os.path.samefile(other, source):
                hint = "Give one at a time, or the folder that holds both to `sbm batch`."
                if any(path.is_dir() for path in inputs):
                    hint = "Give the folder that holds both, keep their names, or choose with --include and --exclude."
                raise SbmError(f"{other} and {source} would both become {target}.", hint)
    sources = {os.path.realpath(job.source): job.source for job in jobs.values()}
    for target in jobs:
        if source_there := sources.get(os.path.realpath(target)):
            raise SbmError(f"{source_there} would be overwritten.", f"Choose an output folder other than {out}.")
    plan.jobs.extend(jobs[target] for target in sorted(jobs))
    plan.ignored.sort()
    return plan


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with their seconds, longest first, so that no worker is left with a long one at the end.

    Those whose length nobody knows go before all: they fail at once, or may be long.
    """
    return [job for job, _, _ in sorted(measured(jobs), key=lambda found: -found[1])]


def measured(jobs: Iterable[Job]) -> Iterator[tuple[Job, float, Exception | None]]:
    """Yield the jobs with their seconds, each with its amount of work, inf if unknown, and why it cannot be read."""
    with ThreadPoolExecutor(8) as readers:  # hides the latency of a slow disk
        yield from readers.map(_measure, jobs)


def _measure(job: Job) -> tuple[Job, float, Exception | None]:
    try:
        form = read_format(job.source)
    except (SbmError, OSError) as error:  # will be reported when its turn comes
        return job, math.inf, error
    return replace(job, seconds=form.seconds), form.seconds * form.channels or math.inf, None


def _files(
    given: Path, out: Path, include: Sequence[str], exclude: Sequence[str], sniff: bool, plan: Plan
) -> Iterator[tuple[Path, Path]]:
    """Yield the files below a folder, or the file itself, each with its path inside the output folder.

    sniff: judge files without a known suffix by their content. The plan records what is left out.
    """
    if not given.is_dir():
        yield given, Path(given.name)
        return
    own = os.path.realpath(out)
    if own == os.path.realpath(given):
        raise SbmError(
            f"{out} is also an input folder.", "Choose another output folder: the next batch would read these outputs."
        )
    by_suffix = include == SOUND_FILES
    for root, folders, names in os.walk(given, onerror=plan.unreadable.append):
        below = Path(root).relative_to(given)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not _matches(below / name, exclude)
            and os.path.realpath(Path(root, name)) != own
        ]
        for name in names:
            if name.startswith(".") or _matches(below / name, exclude):
                continue
            if _matches(below / name, include) or (by_suffix and sniff and _is_sound(Path(root, name))):
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
    lowered = (pattern.lower().rstrip("/") for pattern in patterns)
    return any(fnmatchcase(whole if "/" in pattern else name, pattern) for pattern in lowered)
