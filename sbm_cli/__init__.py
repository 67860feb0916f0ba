"""Clean noisy and reverberant speech in one network step."""

from typing import TYPE_CHECKING

from sbm_cli.errors import SbmError

if TYPE_CHECKING:
    from sbm_cli.enhancer import Enhancer
    from sbm_cli.options import Options

__version__ = "0.1.0"
__all__ = ["Enhancer", "Options", "SbmError", "__version__"]


def __getattr__(name: str) -> object:
    # Enhancer brings torch; `sbm --help` and a tab completion must not wait for it.
    if name == "Enhancer":
        from sbm_cli.enhancer import Enhancer

        return Enhancer
    if name == "Options":
        from sbm_cli.options import Options

        return Options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Enhancer", "Options"]
