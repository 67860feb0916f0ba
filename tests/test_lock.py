"""Leases: one writer at a time, also where the operating system's locks do not reach."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sbm_cli import lock
from sbm_cli.atomic import process_name
from sbm_cli.errors import SbmError
from sbm_cli.lock import Lease
from tests.conftest import PATIENCE


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "SIGN_OF_LIFE", 0.05)
    monkeypatch.setattr(lock, "EXPIRY", 0.5)
    return tmp_path / "lease.lock"


def leave(path: Path, holder: str) -> Path:
    path.write_text(holder)
    return path


def test_a_lease_is_taken_and_released(path: Path) -> None:
    lease = Lease(path)
    assert lease.take() is None and path.read_text() == process_name()
    lease.release()
    assert not path.exists() and not lease.lost


def test_a_process_that_gives_signs_of_life_keeps_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "process_name", lambda: "other-1")
    other = Lease(path)
    assert other.take() is None
    monkeypatch.setattr(lock, "_has_ended", lambda process: False)
    start = time.monotonic()
    assert Lease(path).take() == "other-1"
    assert time.monotonic() - start < 0.5
    other.release()


def test_a_machine_that_is_silent_loses_it_after_a_while(path: Path) -> None:
    leave(path, "other-1")
    told: list[str] = []
    start = time.monotonic()
    lease = Lease(path)
    assert lease.take(told.append) is None and told == ["other-1"]
    assert time.monotonic() - start > 0.5
    lease.release()


@pytest.mark.parametrize("number", ["999999999", str(os.getpid())], ids=["none", "mine"])
def test_a_process_that_ended_on_this_machine_loses_it_at_once(path: Path, number: str) -> None:
    """So does one whose number is now ours: in a container, each is the first."""
    host = process_name().rpartition("-")[0]
    lease = Lease(leave(path, f"{host}-{number}"))
    start = time.monotonic()
    assert lease.take() is None and time.monotonic() - start < 0.5
    lease.release()


def test_a_full_disk_leaves_no_lease(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            Lease(path).take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path) and not path.exists()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere"), os.mkdir])
def test_what_is_no_lease_is_refused(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    with pytest.raises(SbmError, match=r"lease\.lock: is not a regular file"):
        Lease(path).take()


def test_who_slept_too_long_notices(path: Path) -> None:
    lease = Lease(path)
    lease.take()
    leave(path, "other-1")
    deadline = time.monotonic() + PATIENCE
    while not lease.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.lost
    lease.release()
    assert path.read_text() == "other-1"
