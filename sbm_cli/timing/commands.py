"""Other programs to time and score: they read a WAV file and write another."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sbm_cli.errors import SbmError

# What the usual libraries read; programs with other means of setting threads need them in their command.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Command:
    """A program; `{in}` and `{out}` in its arguments stand for the WAV files that it reads and writes."""

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Command:
        """Return the command of "NAME=PROGRAM {in} {out}", quoted as for a shell but run without one.

        Raises ValueError if there is no name, or if {in} or {out} is missing.
        """
        name, _, template = text.partition("=")
        if not (name.strip() and "{in}" in template and "{out}" in template):
            raise ValueError(f"expected NAME=PROGRAM {{in}} {{out}}, got {text!r}")
        return cls(name.strip(), tuple(shlex.split(template)))

    def run(self, source: Path, target: Path, threads: int) -> None:
        """Run the program on a file.

        Raises SbmError if it cannot be started, fails or writes no output.
        """
        target.unlink(missing_ok=True)
        filled = [word.replace("{in}", str(source)).replace("{out}", str(target)) for word in self.arguments]
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        try:
            done = subprocess.run(filled, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        except OSError as error:
            raise SbmError(f"{self.name}: {filled[0]} cannot be started ({error.strerror})") from error
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
            raise SbmError(f"{self.name}: exited with status {done.returncode}", "\n".join([shlex.join(filled), *last]))
        if not target.exists():
            raise SbmError(f"{self.name}: wrote no output", shlex.join(filled))
