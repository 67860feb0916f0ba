"""Loading a model, which compiles its kernels on the first start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sbm_cli.cli.shared import console

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer


def load_enhancer(model: str | Path | None, device: str, threads: int = 1) -> Enhancer:
    """Return `Enhancer.load`, which says what takes so long on a machine where nothing is compiled yet."""
    from sbm_cli.enhancer import Enhancer

    return Enhancer.load(model, device, threads, before_compiling=announce_compiling)


def announce_compiling() -> None:
    console.note("compiling kernels for this processor: ten seconds, once")
