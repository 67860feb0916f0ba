"""Which files are read and which are written: patterns, links, names that meet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sbm_cli.batch.plan import Job, Naming, Shard, expand, find_jobs, longest_first
from sbm_cli.errors import SbmError


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*inputs: Path, **options: Any) -> dict[str, str]:
    """Return the jobs as texts, targets by sources, both below their folders."""
    out = options.pop("out", inputs[0].parent / "out")
    jobs = find_jobs(inputs, out, **options).jobs
    return {str(job.source.relative_to(inputs[0].parent)): job.target.relative_to(out).as_posix() for job in jobs}


def test_folders_keep_their_structure(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.wav", "deep/er/B.FLAC", "notes.txt", ".hidden.wav", "deep/._a.wav", ".trash/c.wav")
    assert found(tmp_path / "in") == {"in/a.wav": "a.wav", "in/deep/er/B.FLAC": "deep/er/B.FLAC"}


def test_single_files_are_taken_whatever_they_are(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.wav", "deep/.b.bin")
    one, two = tmp_path / "in" / "a.wav", tmp_path / "in" / "deep" / ".b.bin"
    jobs = find_jobs([one, two, one], Path("out")).jobs
    assert [job.target for job in jobs] == [
        Path("out/.b.bin"),
        Path("out/a.wav"),
    ]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (dict(include=["*.WAV"]), {"a.wav", "x/a.wav", "x/y/c.wav"}),
        (dict(include=["x/*.wav"]), {"x/a.wav", "x/y/c.wav"}),
        (dict(include=["?.flac", "c.*"]), {"b.flac", "x/y/c.wav"}),
        (dict(include=["*.txt"]), {"t.txt"}),
        (dict(exclude=["a.wav"]), {"b.flac", "x/y/c.wav"}),
        (dict(exclude=["x/a*"]), {"a.wav", "b.flac", "x/y/c.wav"}),
        (dict(exclude=["y/"]), {"a.wav", "b.flac", "x/a.wav"}),
        (dict(include=["a.wav"], exclude=["x"]), {"a.wav"}),
    ],
)
def test_patterns(tmp_path: Path, patterns: dict[str, list[str]], names: set[str]) -> None:
    tree(tmp_path / "in", "a.wav", "b.flac", "x/a.wav", "x/y/c.wav", "t.txt")
    assert set(found(tmp_path / "in", **patterns).values()) == names


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
    assert set(found(tmp_path / "in", naming=Naming(suffix=".flac")).values()) == {"a.b.flac", "x/c.flac"}


def test_outputs_are_called_what_the_template_says(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.b.wav", "x/c.mp3")
    names = found(tmp_path / "in", naming=Naming("new {stem}-{ext}{{1}}{ext}")).values()
    assert set(names) == {"new a.b-.wav{1}.wav", "x/new c-.mp3{1}.mp3"}
    names = found(tmp_path / "in", naming=Naming("{stem}-clean{ext}", ".flac")).values()
    assert set(names) == {"a.b-clean.flac", "x/c-clean.flac"}


@pytest.mark.parametrize(
    "template",
    ["", "clean", "{stem}", "{stem}.wav", "{stem}{ext", "}{ext}", "{}{ext}", "{stem.name}{ext}", "{stem!r}{ext}"]
    + ["{stem:>9}{ext}", "{parent}{ext}", "x/{stem}{ext}", "/{ext}", "{0}{ext}"],
)
def test_templates_of_something_else(template: str) -> None:
    with pytest.raises(ValueError, match=r"expected a name with no fields but \{stem\} and, at its end, \{ext\}, like"):
        Naming(template)


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path, "in/a.wav", "in/a.flac", "more/a.wav")
    with pytest.raises(SbmError, match=r"in/a.*and .*in/a.* would both become .*out/a\.ogg") as caught:
        find_jobs([folder / "in"], folder / "out", naming=Naming(suffix=".ogg"))
    assert "--include" in caught.value.hint
    with pytest.raises(SbmError, match="would both become"):
        find_jobs([folder / "in", folder / "more"], folder / "out")
    with pytest.raises(SbmError, match=r"would both become .*out/talk\.wav") as caught:
        find_jobs(
            [folder / "in/a.wav", tree(folder, "in/b.wav") / "in/b.wav"], folder / "out", naming=Naming("talk{ext}")
        )
    assert "--include" not in caught.value.hint  # which chooses in folders


def test_nothing_is_written_over_what_is_read(tmp_path: Path) -> None:
    folder = tree(tmp_path, "in/a.wav", "in/x/a.wav", "in/x/x/a.wav")
    with pytest.raises(SbmError, match="in is also an input folder"):
        find_jobs([folder / "in"], folder / "in")
    with pytest.raises(SbmError, match=r"in/x/a\.wav would be overwritten"):
        find_jobs([folder / "in" / "x"], folder / "in")
    with pytest.raises(SbmError, match=r"in/a\.wav would be overwritten"):
        find_jobs([folder / "in" / "a.wav"], folder / "in")


def test_a_folder_that_may_not_be_read_is_noted_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scan = tree(tmp_path / "in", "x/a.wav", "y/b.wav"), os.scandir

    def closed(path: str) -> Any:  # permissions do not bind root
        if str(path) == str(folder / "x"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    plan = find_jobs([folder], tmp_path / "out")
    assert [job.source.name for job in plan.jobs] == ["b.wav"]
    assert [error.filename for error in plan.unreadable] == [str(folder / "x")]


def test_what_is_passed_over_is_noted(tmp_path: Path, record: Any) -> None:
    record("sound.wav").rename(tmp_path / "in" / "sound.dat")
    folder = tree(tmp_path / "in", "a.wav", "x/b.txt", "c", ".hidden", "left/out.txt")
    (tmp_path / "empty").mkdir()
    plan = find_jobs([folder, tmp_path / "empty"], tmp_path / "out", exclude=["left"])
    names = [path.relative_to(folder).as_posix() for path in plan.ignored]
    assert (names, plan.empty) == (["c", "sound.dat", "x/b.txt"], [tmp_path / "empty"])
    plan = find_jobs([folder], tmp_path / "out", exclude=["left"], naming=Naming(suffix=".flac"))
    assert [job.target.name for job in plan.jobs] == ["a.flac", "sound.flac"] and len(plan.ignored) == 2
    assert find_jobs([folder], tmp_path / "out", include=["*.wav"], naming=Naming(suffix=".flac")).ignored == []


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
        ("absent.wav", 0.0),  # fails at once, and not after days
        ("b.wav", 1.5),
        ("c.wav", 1.0),
        ("a.wav", 0.5),
    ]


def test_shards_share_the_outputs_without_a_word(tmp_path: Path) -> None:
    outputs = [Path("day") / f"{number}.wav" for number in range(400)]
    shards = [[path for path in outputs if Shard(index, 4).takes(path)] for index in (1, 2, 3, 4)]
    assert sorted(path for shard in shards for path in shard) == sorted(outputs)
    assert min(map(len, shards)) > 70
    assert [path for path in outputs[:200] if Shard(2, 4).takes(path)] == [p for p in shards[1] if p in outputs[:200]]
    assert Shard.parse("2/4") == Shard(2, 4)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/4/2", "-1/2"])
def test_no_shards(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N, such as 1/8 to 8/8, got "):
        Shard.parse(text)
