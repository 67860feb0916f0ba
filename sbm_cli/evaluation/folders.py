"""Test sets in folders: noisy recordings and, if a set has them, their clean references."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sbm_cli.audio.resample import StreamResampler
from sbm_cli.audio.samples import Samples
from sbm_cli.data.corpus import sound_files
from sbm_cli.errors import AudioError, SbmError
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.timing.clips import read_clip


@dataclass(frozen=True)
class Item:
    """One recording of a test set; subset: the part of the set that it belongs to.

    load: returns noisy and clean (None without a reference), float32 [samples] at 16 kHz; may raise AudioError.
    """

    id: str
    subset: str
    load: Callable[[], tuple[Samples, Samples | None]]


@dataclass(frozen=True)
class Layout:
    """Where a set keeps its files, below the given folder or one of `roots` in it.

    A noisy and a clean file belong together if group 1 of their patterns is the same. A pattern must match the whole
    path below `noisy` or `clean`, with slashes and without suffix. clean None: a set without references. source: where
    it is published, "" if it is the user's.
    """

    says: str
    source: str = ""
    noisy: str = "noisy"
    clean: str | None = "clean"
    roots: tuple[str, ...] = (".",)
    noisy_name: str = "(.+)"
    clean_name: str = "(.+)"


_DNS = "https://github.com/microsoft/DNS-Challenge/tree/interspeech2020/master"


def _dns(reverb: str) -> Layout:
    roots = tuple(
        f"{above}{reverb}" for above in ("", "synthetic/", "test_set/synthetic/", "datasets/test_set/synthetic/")
    )
    return Layout(
        f"noisy/…_fileid_N.wav and clean/clean_fileid_N.wav, there or in {reverb}/ or synthetic/{reverb}/",
        _DNS,
        roots=(".", *roots),
        noisy_name=r"(?:.*_)?fileid_(\d+)",
        clean_name=r"clean_fileid_(\d+)",
    )


LAYOUTS = {
    "dns2020-no-reverb": _dns("no_reverb"),
    "dns2020-with-reverb": _dns("with_reverb"),
    "dns2020-real": Layout(
        "recordings in the folder, or in real_recordings/ or test_set/real_recordings/ in it",
        _DNS,
        noisy=".",
        clean=None,
        roots=("real_recordings", "test_set/real_recordings", "datasets/test_set/real_recordings", "."),
    ),
    "voicebank-demand": Layout(
        "noisy_testset_wav/NAME.wav and clean_testset_wav/NAME.wav",
        "https://datashare.ed.ac.uk/handle/10283/2791",
        "noisy_testset_wav",
        "clean_testset_wav",
    ),
    "ears-wham": Layout(
        "noisy/SPEAKER/ID_SNRdB.wav and clean/SPEAKER/ID.wav, there or in test/ (generate_ears_wham.py --copy_clean)",
        "https://github.com/sp-uhh/ears_benchmark",
        roots=(".", "test", "EARS-WHAM/test", "EARS-WHAM_v2/test"),
        noisy_name=r"(.+/\d+)_-?\d+\.\ddB",
    ),
    "pair": Layout("the same names in two folders, or in noisy/ and clean/ of one"),
    "folder": Layout("recordings", noisy=".", clean=None),
}


@dataclass(frozen=True)
class Found:
    """The items of a set in the order of their names, and the files in its folders that belong to none."""

    items: tuple[Item, ...]
    unmatched: tuple[str, ...]
    has_clean: bool


def find_set(name: str, paths: Sequence[Path]) -> Found:
    """Return the recordings of a set, unread; an item's id is its path below the noisy folder, without suffix.

    name: of `LAYOUTS`. paths: the folder of the set, or the noisy and the clean folder of a "pair".

    Raises SbmError if the folders do not exist or nothing in them matches.
    """
    layout = LAYOUTS[name]
    noisy_folder, clean_folder = _folders(name, layout, paths)
    noisy, odd = _by_key(noisy_folder, layout.noisy_name)
    if clean_folder is None:
        clean: dict[str, Path] = {}
        keys = list(noisy)
    else:
        clean, more = _by_key(clean_folder, layout.clean_name)
        keys = [key for key in noisy if key in clean]
        odd += more + [
            path for files, other in ((noisy, clean), (clean, noisy)) for key, path in files.items() if key not in other
        ]
    if not keys:
        places = " and ".join(str(folder) for folder in (noisy_folder, clean_folder) if folder is not None)
        raise SbmError(f"{places}: no recordings of {name} found.", f"Looked for {layout.says}.")
    items = (
        Item(_stem(noisy[key], noisy_folder), name, partial(read_pair, noisy[key], clean.get(key))) for key in keys
    )
    return Found(tuple(sorted(items, key=lambda item: item.id)), tuple(map(str, sorted(odd))), clean_folder is not None)


def read_pair(noisy: Path, clean: Path | None) -> tuple[Samples, Samples | None]:
    """Return a recording and its reference, read by `read_mono`.

    Raises AudioError if one cannot be read, or if their lengths differ by more than one sample, as resampling rounds.
    """
    samples = read_mono(noisy)
    if clean is None:
        return samples, None
    reference = read_mono(clean)
    length = min(samples.size, reference.size)
    if max(samples.size, reference.size) > length + 1:
        raise AudioError(
            f"{noisy}: lasts {samples.size / RATE:.3f} s, but its reference {clean} {reference.size / RATE:.3f} s."
        )
    return samples[:length], reference[:length]


def read_mono(path: Path) -> Samples:
    """Return a recording as [samples] at 16 kHz, the rate for which all metrics are defined.

    Of several channels the first is taken: the mean of distant microphones would be comb-filtered.

    Raises AudioError if it cannot be read or holds no sound.
    """
    clip = read_clip(path)
    resampler = StreamResampler(clip.rate, RATE, 1, "VHQ")
    return np.concatenate([resampler.feed(clip.samples[:1]), resampler.flush()], axis=1)[0]


def named_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the sound files below a folder, in order, each with its path in it, with slashes and without suffix."""
    return [(_stem(path, folder), path) for path in sorted(sound_files(folder))]


def _folders(name: str, layout: Layout, paths: Sequence[Path]) -> tuple[Path, Path | None]:
    """Return the noisy and the clean folder of a set."""
    if name == "pair" and len(paths) == 2:
        candidates: list[tuple[Path, Path | None]] = [(paths[0], paths[1])]
    elif len(paths) == 1:
        roots = [paths[0] / root for root in layout.roots]
        candidates = [(root / layout.noisy, root / layout.clean if layout.clean else None) for root in roots]
    else:
        raise SbmError(f"{len(paths)} folders given for {name}.", f"Expected {layout.says}.")
    for noisy, clean in candidates:
        if noisy.is_dir() and (clean is None or clean.is_dir()):
            return noisy, clean
    raise SbmError(f"{' and '.join(map(str, paths))}: no {name} found.", f"Looked for {layout.says}.")


def _by_key(folder: Path, pattern: str) -> tuple[dict[str, Path], list[Path]]:
    """Return the files that match the pattern by their group 1, and the others."""
    fits: dict[str, Path] = {}
    odd = []
    for stem, path in named_files(folder):
        match = re.fullmatch(pattern, stem)
        if match is None or fits.setdefault(match[1], path) != path:
            odd.append(path)
    return fits, odd


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
