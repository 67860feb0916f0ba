"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sbm_cli import atomic


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic.replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        atomic.write_atomically(tmp_path / "no" / "a.json", b"")
    assert caught.value.filename == str(tmp_path / "no" / "a.json")
    with pytest.raises(OSError) as full, atomic.replacing(tmp_path / "b.json"):
        raise OSError(28, "No space left on device")
    assert full.value.filename == str(tmp_path / "b.json")


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_the_mode_is_cut_by_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic.write_atomically(tmp_path / "open", b"")
        atomic.write_atomically(tmp_path / "closed", b"", 0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "closed")] == [0o644, 0o600]


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_link_stays_a_link_and_its_file_keeps_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "private.csv", tmp_path / "link.csv"
    path.touch(0o600)
    link.symlink_to(path.name)
    atomic.write_atomically(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    atomic.write_atomically(link, b"newer")
    assert link.is_symlink() and path.read_bytes() == b"newer"


def test_a_new_file_takes_no_name_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    for links in (True, False):
        if not links:
            monkeypatch.setattr(os, "link", refuse)
        path = tmp_path / f"{links}.wav"
        part = atomic.new_part(path)
        part.write_text("mine")
        atomic.publish_new(part, path)
        assert path.read_text() == "mine" and not part.exists()
        other = atomic.new_part(path)
        with pytest.raises(FileExistsError):
            atomic.publish_new(other, path)
        assert path.read_text() == "mine"
        other.unlink()


def test_parts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".sbm-a-7-aa.part", ".sbm-a-77-aa.part", ".sbm-b-7-aa.part", "talk.part"):
        (tmp_path / name).touch()
    atomic.remove_parts(tmp_path, "a-7")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sbm-a-77-aa.part", ".sbm-b-7-aa.part", "talk.part"]
    atomic.remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.part"]
