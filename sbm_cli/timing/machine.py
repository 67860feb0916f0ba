"""What a measurement ran on: processor, versions, memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from sbm_cli.hardware import cores


def machine() -> str:
    """Return the processor, the cores that we may use, and their load over the last minute."""
    names = [platform.processor() or platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")] or names
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{names[0]}, {cores()} cores{load}"


def software() -> str:
    """Return the versions that matter, and the commit if the package lies in a clone."""
    tree = Path(__file__).parents[2]
    commit = ""
    if (tree / ".git").exists():
        described = subprocess.run(
            ["git", "-C", tree, "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        commit = f" ({described.stdout.strip()})"
    return f"sbm {version('sbm-cli')}{commit}, Python {platform.python_version()}, PyTorch {version('torch')}"


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes; None if the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it forked
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
