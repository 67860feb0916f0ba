"""Which files are read and which are written: patterns, links, names that meet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sbm_cli.batch.plan import Filter, Job, expand, find_jobs, longest_first
from sbm_cli.errors import SbmError


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*inputs: Path, **options: Any) -> dict[str, str]:
    """Return the jobs as texts, targets by sources, both below their folders."""
    out = options.pop("out", inputs[0].parent / "out")
    jobs = find_jobs(inputs, out, **options)
    return {str(job.source.relative_to(inputs[0].parent)): job.target.relative_to(out).as_posix() for job in jobs}


def test_folders_keep_their_structure(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.wav", "deep/er/B.FLAC", "notes.txt", ".hidden.wav", "deep/._a.wav", ".trash/c.wav")
    assert found(tmp_path / "in") == {"in/a.wav": "a.wav", "in/deep/er/B.FLAC": "deep/er/B.FLAC"}


def test_single_files_are_taken_whatever_they_are(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.wav", "deep/.b.bin")
    one, two = tmp_path / "in" / "a.wav", tmp_path / "in" / "deep" / ".b.bin"
    assert [job.target for job in find_jobs([one, two, one], Path("out"))] == [Path("out/.b.bin"), Path("out/a.wav")]


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        (Filter(include=["*.WAV"]), {"a.wav", "x/a.wav", "x/y/c.wav"}),
        (Filter(include=["x/*.wav"]), {"x/a.wav", "x/y/c.wav"}),
        (Filter(include=["?.flac", "c.*"]), {"b.flac", "x/y/c.wav"}),
        (Filter(include=["*.txt"]), {"t.txt"}),
        (Filter(exclude=["a.wav"]), {"b.flac", "x/y/c.wav"}),
        (Filter(exclude=["x/a*"]), {"a.wav", "b.flac", "x/y/c.wav"}),
        (Filter(exclude=["y/"]), {"a.wav", "b.flac", "x/a.wav"}),
        (Filter(include=["a.wav"], exclude=["x"]), {"a.wav"}),
    ],
)
def test_patterns(tmp_path: Path, filter: Filter, names: set[str]) -> None:
    tree(tmp_path / "in", "a.wav", "b.flac", "x/a.wav", "x/y/c.wav", "t.txt")
    assert set(found(tmp_path / "in", filter=filter).values()) == names


def test_links_to_files_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.wav", "elsewhere/b.wav")
    (tmp_path / "in" / "linked.wav").symlink_to(tmp_path / "elsewhere" / "b.wav")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "lost.wav").symlink_to("nowhere.wav")
    assert set(found(tmp_path / "in").values()) == {"a.wav", "linked.wav", "lost.wav"}
    (tmp_path / "entry").symlink_to(tmp_path / "in")
    assert set(found(tmp_path / "entry").values()) == {"a.wav", "linked.wav", "lost.wav"}


def test_the_output_folder_is_not_read(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "a.wav", "out/a.wav", "x/out/b.wav")
    assert found(folder, out=folder / "out") == {"in/a.wav": "a.wav", "in/x/out/b.wav": "x/out/b.wav"}
    (tmp_path / "other").symlink_to(folder / "out")
    assert set(found(folder, out=tmp_path / "other").values()) == {"a.wav", "x/out/b.wav"}


def test_another_suffix(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.b.wav", "x/c.mp3")
    assert set(found(tmp_path / "in", suffix=".flac").values()) == {"a.b.flac", "x/c.flac"}


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path, "in/a.wav", "in/a.flac", "more/a.wav")
    with pytest.raises(SbmError, match=r"in/a.*and .*in/a.* would both become .*out/a\.ogg") as caught:
        find_jobs([folder / "in"], folder / "out", suffix=".ogg")
    assert "--include" in caught.value.hint
    with pytest.raises(SbmError, match="would both become"):
        find_jobs([folder / "in", folder / "more"], folder / "out")


def test_nothing_is_written_over_what_is_read(tmp_path: Path) -> None:
    folder = tree(tmp_path, "in/a.wav", "in/x/a.wav", "in/x/x/a.wav")
    with pytest.raises(SbmError, match="in is the folder that is read"):
        find_jobs([folder / "in"], folder / "in")
    with pytest.raises(SbmError, match=r"in/x/a\.wav would be written over"):
        find_jobs([folder / "in" / "x"], folder / "in")
    with pytest.raises(SbmError, match=r"in/a\.wav would be written over"):
        find_jobs([folder / "in" / "a.wav"], folder / "in")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    tree(tmp_path / "in", "x/a.wav")
    (tmp_path / "in" / "x").chmod(0)
    with pytest.raises(PermissionError):
        find_jobs([tmp_path / "in"], tmp_path / "out")


def test_patterns_that_the_shell_left_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "a.wav", "b.wav", "[odd].wav", "x/c.wav"))
    assert expand(["?.wav", "[odd].wav"]) == [Path("a.wav"), Path("b.wav"), Path("[odd].wav")]
    assert expand(["**/c.*"]) == [Path("x/c.wav")]
    for nothing in ("z*.wav", "absent.wav"):
        with pytest.raises(SbmError) as caught:
            expand([nothing])
        assert caught.value.message == f"{nothing}: no such file or folder"


def test_longest_first(record: Any, tmp_path: Path) -> None:
    sources = [record("a.wav", 0.5), record("b.wav", 1.5), tmp_path / "absent.wav", record("c.wav", 1.0)]
    jobs = longest_first([Job(source, Path("out") / source.name) for source in sources])
    assert [(job.source.name, job.seconds) for job in jobs] == [
        ("b.wav", 1.5),
        ("c.wav", 1.0),
        ("a.wav", 0.5),
        ("absent.wav", 0.0),
    ]
