"""Systems to evaluate: models of ours, other programs, and folders of enhanced files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import AudioError, SbmError
from sbm_cli.evaluation.folders import named_files, read_mono
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.options import DEFAULTS, Options
from sbm_cli.timing.clips import Clip, write_clip
from sbm_cli.timing.commands import Command

NOISY = "noisy"  # the input, which every table shows beside the systems
SLACK = 0.05  # s; programs that work in frames end a little early or late


class System:
    """Something that enhances; timed: whether the time of a call is a measure of its speed."""

    name: str
    timed = True

    def enhance(self, id: str, noisy: Samples) -> Samples:
        """Return the output for an item of a set, [samples] at 16 kHz; may raise SbmError, OSError or ValueError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Model(System):
    """A model of ours with its options."""

    name: str
    enhancer: Enhancer
    options: Options = DEFAULTS

    def enhance(self, id: str, noisy: Samples) -> Samples:
        return self.enhancer.enhance(noisy, RATE, self.options)


class Program(System):
    """Another program, which gets a WAV in 16 bits at 16 kHz, never clipped, and may write one at any rate."""

    def __init__(self, command: Command, threads: int = 1) -> None:
        self.name, self._command, self._threads = command.name, command, threads

    def enhance(self, id: str, noisy: Samples) -> Samples:
        with TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.wav", Path(folder) / "out.wav"
            scale = write_clip(source, Clip(id, noisy[None], RATE))
            self._command.run(source, target, self._threads)
            return read_mono(target) * np.float32(scale)


class Folder(System):
    """Files enhanced before, found by the id of an item or by its name, if only one file and one of `ids` has it.

    ids: of the items of the set; without them, ids alone match.
    """

    timed = False

    def __init__(self, name: str, folder: Path, ids: Iterable[str] = ()) -> None:
        self.name, self._folder = name, folder
        files = named_files(folder)
        self._files = dict(files)
        alone = _unique_names(id for id, _ in files) & _unique_names(ids)
        self._alone = {Path(id).name: path for id, path in files if Path(id).name in alone}
        if not files:
            raise SbmError(f"{folder}: no sound files found.", "Pass the folder that holds the enhanced files.")

    def enhance(self, id: str, noisy: Samples) -> Samples:
        path = self._files.get(id) or self._alone.get(Path(id).name)
        if path is None:
            raise AudioError(f"{self._folder}: no enhanced file for {id}")
        return read_mono(path)


def _unique_names(ids: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(Path(id).name for id in ids).items() if count == 1}


def load_models(models: Sequence[str | None], options: Sequence[Options], threads: int) -> list[System]:
    """Return every model (None: the default one) with every combination of options.

    A model has the name in its configuration, or the one it was asked for by if another model has that name.

    Raises ModelError for a model that does not exist or cannot take several steps.
    """
    enhancers = [Enhancer.load(model, threads=threads) for model in models]
    counts = Counter(enhancer.config.name for enhancer in enhancers)
    systems: list[System] = []
    for model, enhancer in zip(models, enhancers, strict=True):
        name = enhancer.config.name if counts[enhancer.config.name] == 1 else str(model)
        for chosen in options:
            enhancer.stream(RATE, options=chosen)  # raises what it cannot do before the first file
            way = "" if chosen.steps == 1 else f" {chosen.sampler}-{chosen.steps}"
            systems.append(Model(name + way, enhancer, chosen))
    return systems


def all_options(steps: Sequence[int], samplers: Sequence[str], others: Options = DEFAULTS) -> list[Options]:
    """Return the options of every combination beside the others; a single step counts once, whatever the sampler.

    Raises ValueError for a step or a sampler that does not exist.
    """
    combined = [replace(others, steps=count, sampler=sampler) for count in steps for sampler in samplers]  # type: ignore[arg-type]
    return list(dict.fromkeys(replace(one, sampler="ode") if one.steps == 1 else one for one in combined))


def run(system: System, id: str, noisy: Samples) -> tuple[Samples, float]:
    """Return a system's output, as long as its input, and the seconds it took.

    An output that ends within 50 ms of the input is cut or padded with silence.

    Raises AudioError for any other length and for values that are not finite; and whatever the system raises.
    """
    begun = time.perf_counter()
    output = system.enhance(id, noisy)
    took = time.perf_counter() - begun
    if abs(output.size - noisy.size) > SLACK * RATE:
        raise AudioError(f"{id}: the output lasts {output.size / RATE:.3f} s, the input {noisy.size / RATE:.3f} s")
    if not np.isfinite(output).all():
        raise AudioError(f"{id}: the output contains NaN or infinity")
    return np.pad(output, (0, max(0, noisy.size - output.size)))[: noisy.size], took
