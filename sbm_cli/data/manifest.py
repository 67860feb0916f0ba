"""Manifests: tables that say of each recording what it is, who speaks, and in which split it stands."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from sbm_cli.atomic import write_atomically
from sbm_cli.cells import table, text_of
from sbm_cli.errors import AudioError, ConfigError

RATE = 16000
KINDS = ("speech", "noise", "rir")
SPLITS = ("train", "valid", "report")
COLUMNS = ("path", "kind", "source", "speaker", "seconds", "split", "snr_db", "decay_s", "rt60_s", "c50_db", "group")


@dataclass(frozen=True)
class Clip:
    """One recording of the corpus; `start` and `samples` are its place in the cache, `gain` turns int16 into ±1."""

    path: str
    kind: str
    source: str
    speaker: str = ""  # empty: unknown
    group: str = ""  # recordings cut from one original share it
    split: str = "train"
    snr_db: float | None = None
    rt60_s: float | None = None
    start: int = 0
    samples: int = 0
    gain: float = 0.0
    speed: float = 1.0  # of an utterance that is there at several

    @property
    def minutes(self) -> float:
        return self.samples / RATE / 60


def read_manifest(manifest: Path, present: bool = True) -> list[Clip]:
    """Read the rows of a manifest; nothing is decoded.

    present: every file must be there.

    Raises ConfigError for a manifest that does not hold together, AudioError for a file that is not there.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{manifest}: cannot be read as a manifest ({error})", "Give a CSV file in UTF-8.") from error
    unknown, missing = set(columns) - set(COLUMNS), {"path", "kind"} - set(columns)
    if unknown or missing:
        what = f"unknown column {sorted(unknown)[0]!r}" if unknown else f"column {sorted(missing)[0]!r} is missing"
        raise ConfigError(f"{manifest}: {what}", f"The columns are {', '.join(COLUMNS)}; path and kind are required.")
    return [_read_row(manifest, line, row, present) for line, row in enumerate(rows, start=2)]


def _read_row(manifest: Path, line: int, row: Mapping[str, str], present: bool) -> Clip:
    text = {key: text_of((row.get(key) or "").strip()) for key in COLUMNS}
    path, kind, split = manifest.parent / text["path"], text["kind"], text["split"] or "train"
    if kind not in KINDS or split not in SPLITS:
        what = f"kind {kind!r}" if kind not in KINDS else f"split {split!r}"
        raise ConfigError(
            f"{manifest}, line {line}: unknown {what}",
            f"A kind is one of {', '.join(KINDS)}, a split one of {', '.join(SPLITS)}.",
        )
    if present and not path.is_file():
        raise AudioError(f"{path}: no such file ({manifest}, line {line})", "Correct the path in the manifest.")
    try:
        snr_db, rt60_s = (float(text[key]) if text[key] else None for key in ("snr_db", "rt60_s"))
    except ValueError as error:
        raise ConfigError(f"{manifest}, line {line}: {error}", "snr_db and rt60_s are numbers, or empty.") from error
    source, group = text["source"] or manifest.stem, text["group"] or text["path"]
    return Clip(str(path), kind, source, text["speaker"], group, split, snr_db, rt60_s)


def write_manifest(path: Path, clips: Iterable[tuple[Clip, float | None]]) -> None:
    """Write clips and their seconds, if known, as a manifest; paths below its folder are relative to it."""
    folder = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[object]] = [COLUMNS]
    for clip, seconds in clips:
        place = Path(clip.path)
        place = place.relative_to(folder) if place.is_relative_to(folder) else place
        row = vars(clip) | {"path": place.as_posix(), "seconds": seconds and f"{seconds:.2f}"}
        rows.append([row.get(key) for key in COLUMNS])
    write_atomically(path, table(rows).encode())


def identity(clip: Clip) -> str:
    """Return the name that no two splits may share: the speaker, or else the original recording or the room."""
    return (clip.speaker if clip.kind == "speech" else "") or clip.group or clip.path


def name_rank(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone: splits made with it are the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def report_set() -> Mapping[str, frozenset[str]]:
    """Return the "speakers" and "noise_groups" set aside from `train` for published scores."""
    text = files("sbm_cli").joinpath("recipes/report_set.json").read_text(encoding="utf-8")
    found = json.loads(text)
    return {key: frozenset(found[key]) for key in ("speakers", "noise_groups")}


def set_aside(clip: Clip, report: Mapping[str, frozenset[str]]) -> Clip:
    """Return a clip of `train` that belongs to the report set with the split `report`, others as they are."""
    names = {"speech": (clip.speaker, "speakers"), "noise": (clip.group, "noise_groups")}
    name, key = names.get(clip.kind, ("", "speakers"))
    return replace(clip, split="report") if clip.split == "train" and name in report[key] else clip
