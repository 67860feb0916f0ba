"""What lies in a public corpus, or in folders of one's own: files found by their layout, and how long they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sbm_cli.data.corpora.layouts import LAYOUTS, Layout, Rule
from sbm_cli.data.corpus import sound_files
from sbm_cli.data.manifest import KINDS, SPLITS, Clip, identity, name_rank, read_manifest
from sbm_cli.errors import ConfigError


def find_clips(name: str, root: Path, licences: Sequence[str] = ()) -> list[Clip]:
    """List what the corpus `name` has under `root`: speech, noise and room responses. Only paths and tables are read.

    licences: take only files under these, names as in `layouts.LICENCES`.

    Raises ConfigError if root is no folder, holds nothing of that corpus or lacks its tables.
    """
    layout, root = LAYOUTS[name], root.resolve()
    if licences and not layout.licensed:
        raise ConfigError(f"{name} does not say the licence of each file", "Leave out --licence, and see docs/data.md.")
    if not root.is_dir():
        raise ConfigError(f"{root}: not a folder", f"Expected {layout.expected}")
    details = layout.details(root, licences) if layout.details else None
    clips = []
    for rule, clip, found in _fitting(layout, root):
        known = details(clip, found) if details else clip
        if known is not None:
            clips.append((rule, known))
    if not clips:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        which = f"{name} under {' or '.join(licences)}" if licences else name
        raise ConfigError(
            f"{root}: no file of {which}",
            f"Expected {layout.expected}\nFound {there}\nPoint --root at the folder that holds what was expected.",
        )
    return _hashed(clips)


def follow(clips: Sequence[Clip], manifests: Sequence[Path]) -> list[Clip]:
    """Give speakers and recordings that also stand in other manifests the split they have there."""
    splits: dict[tuple[str, str], str] = {}
    for clip in (clip for manifest in manifests for clip in read_manifest(manifest, present=False)):
        key = clip.kind, identity(clip)
        splits[key] = max(clip.split, splits.get(key, "train"), key=SPLITS.index)  # what is held out, stays so
    return [replace(clip, split=splits.get((clip.kind, identity(clip)), clip.split)) for clip in clips]


def thin(clips: Sequence[Clip], per_group: int) -> list[Clip]:
    """Keep at most `per_group` files of each group, chosen by the hash of their names."""
    taken: dict[tuple[str, str], int] = {}
    kept = set()
    for clip in sorted(clips, key=lambda clip: name_rank(Path(clip.path).name)):
        key = clip.kind, clip.group or clip.path
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= per_group:
            kept.add(clip.path)
    return [clip for clip in clips if clip.path in kept]


def _fitting(layout: Layout, root: Path) -> Iterator[tuple[Rule, Clip, dict[str, str]]]:
    """Yield each file that a rule fits, with that rule and the groups of its pattern."""
    skip = re.compile(layout.skip)
    rules = [
        (rule, re.compile(f"(?:^|/){rule.pattern.replace('{root}', re.escape(root.name))}$")) for rule in layout.rules
    ]
    for path in sound_files(root):
        stem = path.relative_to(root.parent).with_suffix("").as_posix()  # root's own name may be what a rule asks for
        if skip.search(stem):
            continue
        for rule, pattern in rules:
            if match := pattern.search(stem):
                found = {"root": root.name, **match.groupdict()}
                speaker, group, source = (text.format_map(found) for text in (rule.speaker, rule.group, rule.source))
                split = rule.split or "train"
                if not isinstance(split, str):
                    split = split.get(found["part"], "train")
                yield rule, Clip(str(path), rule.kind, source, speaker, group, split), found
                break


def _hashed(clips: Sequence[tuple[Rule, Clip]]) -> list[Clip]:
    """Split what its rule does not: 5 % `valid`, 5 % `report`, at least one name each where there are three."""
    splits: dict[tuple[str, str], str] = {}
    for kind in KINDS:
        names = {identity(clip) for rule, clip in clips if rule.split is None and clip.kind == kind}
        ranks = sorted(map(name_rank, names))
        # One for `valid` at least and, of three, one for `report`; one for `train` is always left.
        valid = min(max(0.05, ranks[0]), ranks[-min(len(ranks), 3)]) if len(ranks) > 1 else 0.0
        behind = [rank for rank in ranks if rank > valid]
        report = min(max(0.1, behind[0]), behind[-2]) if len(behind) > 1 and len(ranks) > 2 else 0.0
        for name in names:
            rank = name_rank(name)
            splits[kind, name] = "valid" if rank <= valid else "report" if rank <= report else "train"
    return [
        replace(clip, split=splits[clip.kind, identity(clip)]) if rule.split is None else clip for rule, clip in clips
    ]
