"""What of the machine we may use: its cores, its GPUs, and the device that a name stands for."""

import os
import re
import sys
from pathlib import Path

from sbm_cli.errors import DependencyError


def cores() -> int:
    """Return how many cores this process may use: in a container or cluster job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """Return how many GPUs torch can use; without a driver, skip the seconds that torch takes to find none."""
    linux = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    windows = Path(os.environ.get("SYSTEMROOT", "/"), "System32", "nvcuda.dll").exists()
    if not {"linux": linux, "win32": windows, "darwin": False}.get(sys.platform, True):
        return 0
    import torch

    return torch.cuda.device_count()


def gpu_is_full(error: Exception) -> bool:
    """Return whether an error says that a GPU has no memory left; if so, give back what torch holds unused."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return False
    torch.cuda.empty_cache()
    return True


def chosen_device(device: str) -> str:
    """Return the device that a name stands for: cpu, cuda, cuda:N; "auto" is a GPU if there is one.

    Raises ValueError for another name, DependencyError for a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {device!r}")
    if device == "auto":
        return "cuda" if gpus() else "cpu"
    if device != "cpu" and int(device.partition(":")[2] or 0) >= gpus():
        raise DependencyError(
            f"no device {device}: torch sees {gpus()} NVIDIA GPUs",
            "Use `device=cpu`; `sbm doctor` shows which torch is installed.",
        )
    return device
