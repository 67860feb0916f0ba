"""`sbm doctor`: what is installed, which scan runs, and how to fix the rest."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Literal

import typer

import sbm_cli
from sbm_cli import hub
from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import Json, load_enhancer
from sbm_cli.errors import SbmError
from sbm_cli.hardware import cores, gpus


@dataclass(frozen=True)
class Check:
    """One line of the report; `cure` says what to do, "" if nothing."""

    name: str
    state: Literal["ok", "note", "fault"]  # a note is something optional that is absent
    found: str
    cure: str = ""


def doctor(
    *,
    warm: Annotated[
        bool, typer.Option("--warm", help="First compile the kernels for this processor, as a first start would.")
    ] = False,
    json: Json = False,
) -> None:
    """Report what is installed and how to fix what is not.

    The exit status is 1 if something is broken. Optional parts that are missing are only noted.

    \b
    Examples:
      sbm doctor
      sbm doctor --warm      # in a container's recipe, or before the network goes
      sbm doctor --json | jq '.[] | select(.state != "ok")'
    """
    if warm:
        load_enhancer(None, "cpu")
    checks = list(examine())
    width = max(len(check.name) for check in checks) + 2
    lines = []
    for check in checks:
        cure = (" " * (7 + width) + line for line in check.cure.splitlines())
        lines += [f"{check.state:<7}{check.name:<{width}}{check.found}", *cure]
    console.result([dataclasses.asdict(check) for check in checks], lines, json)
    if any(check.state == "fault" for check in checks):
        raise typer.Exit(1)


def version_lines() -> list[str]:
    """Return the versions that a bug report needs: Python, torch, numba and the scans that can run."""
    return [
        f"python {platform.python_version()}",
        f"torch {_version('torch')} ({_gpu() or 'no CUDA'})",
        f"numba {_version('numba')}",
        f"scan {', '.join(check.name.removeprefix('scan ') for check in _scan() if check.state == 'ok')}",
    ]


def examine() -> Iterator[Check]:
    """Yield all checks in order; one that raises is a fault and does not stop the others."""
    for checks in _CHECKS:
        name = checks.__name__.lstrip("_")
        try:
            yield from checks()
        except SbmError as error:
            yield Check(name, "fault", error.message, error.hint)
        except Exception as error:  # a broken installation can raise anything
            problem = f"{type(error).__name__}: {error}"
            yield Check(name, "fault", problem, 'pip install --upgrade --force-reinstall "sbm-cli"')


def _optional(name: str, missing: str, cure: str = "") -> Check:
    return Check(name, "note", missing, cure) if missing else Check(name, "ok", "available")


def _sbm() -> Iterator[Check]:
    yield Check("sbm", "ok", f"{sbm_cli.__version__} in {Path(sbm_cli.__file__).parent}")
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")


def _torch() -> Iterator[Check]:
    """PyTorch is looked for, not imported: enhancing on a CPU does without it, and its import takes seconds."""
    if find_spec("torch") is None:
        yield Check("torch", "fault", "not installed", "pip install torch")
        return
    yield Check("torch", "ok", f"{_version('torch')}, on {cores()} cores")
    if name := _gpu():
        import torch

        yield Check("cuda", "ok", f"{name}, CUDA {torch.version.cuda}")
    else:
        yield Check("cuda", "note", "torch sees no NVIDIA GPU; using the CPU")


def _gpu() -> str:
    """Return the name of the GPU, "" if there is none."""
    if not gpus():
        return ""
    import torch

    return torch.cuda.get_device_name()


def _numba() -> Iterator[Check]:
    import numba  # noqa: F401  (that it can be imported is the check)

    yield Check("numba", "ok", _version("numba"))


def _scan() -> Iterator[Check]:
    if gpus():
        from sbm_cli.nn import kernels

        yield from (_optional(f"scan {name}", reason) for name, reason in kernels.available().items())
        return
    yield _optional("scan reference", "")
    yield _optional("scan cpu", "" if find_spec("numba") else "numba is not installed", "pip install numba")
    for name in ("triton", "mamba_ssm"):
        yield _optional(f"scan {name}", "needs an NVIDIA GPU")


def _model() -> Iterator[Check]:
    model = hub.entry()
    yield Check("model", "ok", f"{model.name}, sha256 {model.sha256[:12]}… matches, {hub.check(model)}")


def _caches() -> Iterator[Check]:
    from huggingface_hub import constants
    from numba.misc.appdirs import user_cache_dir

    from sbm_cli.compiled.jit import BESIDE, compiled_before
    from sbm_cli.compiled.network import run

    own = os.environ.get("NUMBA_CACHE_DIR")
    candidates = [Path(own)] if own else [BESIDE, Path(user_cache_dir("numba"))]
    if compiled_before(run):
        yield Check("kernels", "ok", "compiled for this processor")
    else:
        yield Check("kernels", "note", "not compiled yet: the first start takes longer", "sbm doctor --warm")
    loss = ": what is not in it yet is compiled in every run"
    yield _writable("kernel cache", candidates, loss, "Set NUMBA_CACHE_DIR to a folder that you can write to.")
    cure = "Set HF_HOME to a folder that you can write to. Bundled models do not need it."
    yield _writable("model cache", [Path(constants.HF_HUB_CACHE)], "", cure)


def _writable(name: str, folders: Sequence[Path], loss: str, cure: str) -> Check:
    """Find the first folder that can be written; loss: what happens if there is none."""
    obstacles = {folder: _obstacle(folder) for folder in folders}
    for folder, obstacle in obstacles.items():
        if not obstacle:
            return Check(name, "ok", str(folder))
    return Check(name, "note", f"{folders[0]} cannot be written ({obstacles[folders[0]]}){loss}", cure)


_EXTRAS = {
    "train": ("lightning_fabric", "tensorboard"),
    "plot": ("PIL",),
    "live": ("sounddevice",),
    "serve": ("starlette", "uvicorn", "websockets"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}


def _extras() -> Iterator[Check]:
    for extra, packages in _EXTRAS.items():
        missing = ", ".join(package for package in packages if not find_spec(package))
        yield _optional(f"extra {extra}", missing and f"not installed: {missing}", f'pip install "sbm-cli[{extra}]"')


def _metrics() -> Iterator[Check]:
    from sbm_cli.evaluation.metrics import METRICS, available_metrics

    yield from (_optional(METRICS[name].label, reason) for name, reason in available_metrics().items())


_CHECKS = (_sbm, _torch, _numba, _scan, _model, _caches, _extras, _metrics)


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _obstacle(folder: Path) -> str:
    """Return why a megabyte cannot be written in a folder, or where it is to be made; "" if it can."""
    if folder.parts[:1] == ("~",):
        return "there is no home"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
    except OSError as error:
        return str(error.strerror).lower()
    return ""
