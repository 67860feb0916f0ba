"""A stand-in for the enhancer in the processes that tests start: it copies at its leisure, and fails where a name asks.

As a script it is `sbm`, with this stand-in.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sbm_cli.audio.format import format_for
from sbm_cli.audio.io import SoundReader
from sbm_cli.audio.writer import SoundWriter
from sbm_cli.batch import work
from sbm_cli.errors import AudioError, ModelError
from sbm_cli.options import Options


@dataclass
class Report:
    seconds: float
    clipped: int = 0


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("odd")
        self.door = open(os.devnull)  # noqa: SIM115


class Copier:
    def enhance_files(
        self,
        pairs: Sequence[tuple[Path, Path]],
        options: Options,
        *,
        overwrite: bool,
        progress: Callable[[int, float, float], None],
    ) -> list[Report | Exception]:
        if any("odd" in source.name for source, _ in pairs):
            raise Unpicklable
        results: list[Report | Exception] = []
        for index, (source, target) in enumerate(pairs):
            try:
                results.append(self._copy(source, target, options, overwrite, partial(progress, index)))
            except AudioError as error:
                results.append(error)
        return results

    def _copy(
        self, source: Path, target: Path, options: Options, overwrite: bool, progress: Callable[[float, float], None]
    ) -> Report:
        with SoundReader(source) as reader, SoundWriter(target, format_for(target, reader.format), overwrite) as writer:
            for number, block in enumerate(reader.blocks(1600)):
                writer.write(block * options.strength)
                progress((number + 1) / 10, reader.format.seconds)
                time.sleep(float(os.environ.get("SLOWLY", 0)))
                if "killed" in source.name:
                    os.kill(os.getpid(), signal.SIGKILL)
                if "bad" in source.name:
                    raise AudioError(f"{source}: bad", "Throw it away.")
        return Report(reader.format.seconds)


class Copy(work.Work):
    def load(self, device: str, before_compiling: Callable[[], object] | None = None) -> Any:
        if device == "new" and before_compiling:
            before_compiling()
        if device == "broken":
            raise ModelError("no such device")
        if device == "fatal":
            os.kill(os.getpid(), signal.SIGKILL)
        return Copier()


if __name__ == "__main__":
    from sbm_cli.cli.app import main

    work.Work = Copy  # type: ignore[misc]
    main(sys.argv[1:])
