"""Clean noisy and reverberant speech in one network step."""

import importlib
import logging
from typing import TYPE_CHECKING

from sbm_cli.errors import (
    AudioError,
    ConfigError,
    DependencyError,
    ModelError,
    OutputExistsError,
    SbmError,
    TrainingError,
)

if TYPE_CHECKING:
    from sbm_cli.audio.format import AudioFormat
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.enhancer import Enhancer
    from sbm_cli.files import FileReport
    from sbm_cli.options import Options
    from sbm_cli.stream import Stream

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "AudioFormat",
    "ConfigError",
    "DependencyError",
    "Enhancer",
    "FileReport",
    "ModelError",
    "Options",
    "OutputExistsError",
    "Pipe",
    "SbmError",
    "Stream",
    "TrainingError",
    "__version__",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the application says where logs go

# Enhancer brings torch; `sbm --help` and a tab completion must not wait for it.
_LAZY = {
    "AudioFormat": "sbm_cli.audio.format",
    "Enhancer": "sbm_cli.enhancer",
    "FileReport": "sbm_cli.files",
    "Options": "sbm_cli.options",
    "Pipe": "sbm_cli.audio.pipe",
    "Stream": "sbm_cli.stream",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
