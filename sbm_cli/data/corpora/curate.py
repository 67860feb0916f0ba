"""Speech made fit to be a target: cleaned, scored, and left out where it stays poor.

A network cannot learn what its targets do not have: what hisses in them, hisses in its output.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbm_cli.atomic import write_atomically
from sbm_cli.audio.samples import Samples
from sbm_cli.cells import read_table, table, text_of
from sbm_cli.config import parse_json
from sbm_cli.data.corpus import decode_mono
from sbm_cli.data.manifest import RATE, Clip, read_manifest, report_set, set_aside, write_manifest
from sbm_cli.errors import ConfigError, SbmError

MANIFEST, SCORES, SETTINGS = "manifest.csv", "scores.csv", "curate.json"
COLUMNS = ("path", "before", "after")


@dataclass(frozen=True)
class Utterance:
    """What became of a recording; before, after: its scores, NaN if it was not scored; kept: for training."""

    clip: Clip
    before: float
    after: float
    kept: bool


def curate(
    manifests: Sequence[Path],
    output: Path,
    clean: Callable[[str, Samples], Samples] | None,
    score: Callable[[Samples], float] | None,
    *,
    how: str = "",
    limit_db: float = 12.0,
    least: float = 0.0,
    without: Sequence[str] = (),
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Utterance]:
    """Write the speech of manifests into `output`, cleaned, and a manifest of what is good enough to be a target.

    clean: given the path below its manifest and float32 [samples] at 16 kHz, returns as many; None leaves the speech
    where and as it is. how: what that is; an output goes on with nothing else. limit_db: nothing is lowered by more,
    for the recording is mixed back in that many dB below itself: an enhancer takes speech as well. score: of samples,
    higher is better; an utterance of `train` below `least` is left out, and so are the sources `without`. What is
    validated and reported on all stays, noise and responses are not touched, and nothing is done twice.

    Raises ConfigError for a manifest that does not hold together or lies in `output`, an output of other settings, or a
    source that is not there; AudioError for a file that cannot be decoded; what `clean` raises, with the file's name.
    """
    _check_output(manifests, output, {"how": how, "limit_db": limit_db})
    folders = {manifest.resolve().parent for manifest in manifests}
    clips, report = [clip for manifest in manifests for clip in read_manifest(manifest)], report_set()
    clips = [set_aside(replace(clip, path=os.path.abspath(clip.path)), report) for clip in clips]
    clips = list({clip.path: clip for clip in reversed(clips)}.values())[::-1]  # the same file in two manifests
    if missing := set(without) - {clip.source for clip in clips if clip.kind == "speech"}:
        raise ConfigError(f"no speech of {', '.join(sorted(missing))} to leave out", "Give sources of the manifests.")
    speech = [
        clip for clip in clips if clip.kind == "speech" and not (clip.split == "train" and clip.source in without)
    ]
    scored = read_table(output / SCORES)
    known = {text_of(row["path"]): (float(row["before"]), float(row["after"])) for row in scored}

    def treat(clip: Clip) -> Utterance:
        target = output.resolve() / "speech" / f"{_name(clip)}.flac" if clean is not None else Path(clip.path)
        unscored = score is not None and math.isnan(known.get(clip.path, (math.nan,))[0])
        is_new = not target.is_file() or target.stat().st_mtime < os.path.getmtime(clip.path)
        if clip.path not in known or unscored or is_new:
            samples = decode_mono(clip)
            before = after = math.nan if score is None else score(samples)
            if clean is not None:
                path = Path(clip.path)
                name = next((path.relative_to(f) for f in folders if path.is_relative_to(f)), path).with_suffix("")
                try:
                    cleaned = clean(name.as_posix(), samples)
                except SbmError as error:
                    raise type(error)(f"{clip.path}: {error.message}", error.hint) from error
                wet = np.float32(1 - 10 ** (-limit_db / 20))
                samples = samples + wet * (cleaned - samples)
                _write(target, samples)
                after = math.nan if score is None else score(samples)
            known[clip.path] = before, after
        before, after = known[clip.path]
        return Utterance(replace(clip, path=str(target)), before, after, clip.split != "train" or not after < least)

    found: list[Utterance] = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            for utterance in pool.map(treat, speech):
                found.append(utterance)
                progress(len(found), len(speech))
    finally:
        rows = ((name, f"{before:.3f}", f"{after:.3f}") for name, (before, after) in sorted(known.items()))
        write_atomically(output / SCORES, table([COLUMNS, *rows]).encode())
    rest = [clip for clip in clips if clip.kind != "speech"]
    write_manifest(output / MANIFEST, [(clip, None) for clip in [*(one.clip for one in found if one.kept), *rest]])
    return found


def _check_output(manifests: Sequence[Path], output: Path, settings: dict[str, object]) -> None:
    """Make the folder, or refuse one that is not of this work."""
    path = output / SETTINGS
    if any(output.resolve() in manifest.resolve().parents for manifest in manifests):
        raise ConfigError(f"{output}: a manifest to curate lies in it", "Name another --output.")
    if path.is_file():
        if parse_json(path.read_text(encoding="utf-8")) != settings:
            raise ConfigError(f"{output}: its speech was cleaned in another way", f"Name another --output; see {path}.")
    elif (output / SCORES).exists() or (output / MANIFEST).exists():
        raise ConfigError(f"{output}: holds other files of these names", "Name another --output.")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settings).encode())


def _name(clip: Clip) -> str:
    """Return a name below a folder that no other recording has."""
    digest = hashlib.sha256(clip.path.encode()).hexdigest()[:8]
    return f"{clip.source.replace('/', '-')}/{Path(clip.path).stem}-{digest}"


def _write(path: Path, samples: Samples) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    soundfile.write(data, samples.clip(-1, 1), RATE, "PCM_16", format="FLAC")
    write_atomically(path, data.getvalue())
