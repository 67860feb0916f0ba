"""Loading a model, which compiles its kernels on the first start."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from sbm_cli.cli.shared import console

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer


def load_enhancer(model: str | Path | None, device: str, threads: int = 1) -> Enhancer:
    """Return `Enhancer.load`, saying what takes so long: on a terminal always, else only if kernels are compiled."""
    with console.status_line() as show:
        show("loading the model …")
        return _load(model, device, threads)


def _load(model: str | Path | None, device: str, threads: int) -> Enhancer:
    from sbm_cli.enhancer import Enhancer

    if device == "cpu":
        with contextlib.suppress(ImportError):  # of Numba
            from sbm_cli.compiled.jit import compiled_before
            from sbm_cli.compiled.network import run

            if not compiled_before(run):
                console.note("compiling kernels for this processor: half a minute, once")
    return Enhancer.load(model, device=device, threads=threads)
