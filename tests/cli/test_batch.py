"""`sbm batch`: what is done, skipped, refused and told; and that whatever ends it, the next run goes on."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sbm_cli.batch import work
from sbm_cli.batch.journal import NAME
from sbm_cli.cli.shared import console
from sbm_cli.enhancer import Enhancer
from sbm_cli.options import Options

IGNORED = "1 file ignored (not a sound file by its suffix): in/notes.txt\n"
STAND_IN = Path(__file__).parent.parent / "batch" / "slow_copy.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work beside a folder `in` of two recordings and a text, and beside what passes for a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "day 1/b.flac"):
        write(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("nothing to hear")
    (tmp_path / "m.safetensors").write_bytes(b"weights")
    (tmp_path / "m.json").write_bytes(b"config")
    return tmp_path


@pytest.fixture
def copy(folder: Path, sbm: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs `sbm batch in -o out`, whose processes copy instead of enhancing."""
    monkeypatch.syspath_prepend(STAND_IN.parent)
    from slow_copy import Copy  # type: ignore[import-not-found]

    monkeypatch.setattr(work, "Work", Copy)

    def run(*options: object) -> Any:
        return sbm("batch", "in", "-o", "out", "--model", "m.safetensors", "--workers", "1", *options)

    return run


def test_outputs_of_another_name_are_told(copy: Callable[..., Any]) -> None:
    named = copy("--name", "{stem}-clean{ext}")
    assert named.status == 0 and "other names" not in named.err
    again = copy("--dry-run")
    assert "sbm: warning: made again under other names: 2 outputs, such as a-clean.wav\n" in again.err
    assert "other names" not in copy("--name", "{stem}-clean{ext}").err
    assert copy().status == 0
    assert "other names" not in copy().err


def write(path: Path, seconds: float = 0.5, channels: int = 1, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (round(rate * seconds), channels))
    soundfile.write(path, noise, rate)
    return path


def test_until_the_model_is_loaded_that_is_shown(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    @contextmanager
    def progress(name: str, *_: object, **__: object) -> Iterator[Callable[..., None]]:
        yield lambda done, total, note="": shown.append((name, note))

    monkeypatch.setattr(console, "progress", progress)
    assert copy().status == 0
    assert next(entry for entry in shown if entry[0] == "batch") == ("batch", "loading the model")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but the journals, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_real_workers_give_what_single_files_give(sbm: Any, folder: Path, model_file: Path) -> None:
    write(folder / "in" / "wide.wav", seconds=2.3, channels=2, rate=44100)
    result = sbm("batch", "in", "-o", "out", "-m", model_file, "--workers", "2", "--strength", "0.8")
    assert (result.status, result.out) == (0, "")
    assert "3 files: 3 done; 3.3 s of audio in " in result.err
    enhancer = Enhancer.load(model_file, device="cpu")
    for name, found in contents(folder / "out").items():
        enhancer.enhance_file(
            folder / "in" / name, folder / f"one{Path(name).suffix}", Options(strength=0.8), overwrite=True
        )
        assert (folder / f"one{Path(name).suffix}").read_bytes() == found, name


def test_files_side_by_side_give_what_single_files_give(sbm: Any, folder: Path, model_file: Path) -> None:
    write(folder / "in" / "wide.wav", seconds=0.9, channels=2, rate=44100)
    write(folder / "in" / "bad.wav").write_bytes(b"RIFF")
    result = sbm("batch", "in", "-o", "out", "-m", model_file, "--workers", "1", "--batch-size", "8")
    assert (result.status, result.out) == (1, "")
    assert "4 files: 1 failed, 3 done; 1.9 s of audio in " in result.err
    enhancer = Enhancer.load(model_file, device="cpu")
    for name in contents(folder / "out"):
        one = folder / f"one{Path(name).suffix}"
        enhancer.enhance_file(folder / "in" / name, one, overwrite=True)
        step = 2**-15  # of 16 bits
        np.testing.assert_allclose(soundfile.read(folder / "out" / name)[0], soundfile.read(one)[0], atol=1.1 * step)


def test_the_next_run_skips_what_is_done(copy: Any, folder: Path) -> None:
    assert copy().status == 0
    before = contents(folder / "out")
    assert set(before) == {"a.wav", "day 1/b.flac"}
    write(folder / "in" / "new.wav")
    result = copy("-v")
    assert result.status == 0
    assert "skipped     in/a.wav -> out/a.wav\n" in result.err
    assert "done        in/new.wav -> out/new.wav\n" in result.err
    assert "3 files: 2 skipped, 1 done; 0.5 s of audio in " in result.err
    assert contents(folder / "out").items() > before.items()


def test_changed_options_are_told_and_not_guessed(copy: Any, folder: Path) -> None:
    copy()
    before = contents(folder / "out")
    result = copy("--strength", "0.5")
    assert result.status == 1
    assert result.err == (
        f"{IGNORED}"
        "sbm: 2 outdated outputs were kept: made with strength 1.0: out/a.wav, out/day 1/b.flac\n"
        "     Use --overwrite to redo them, --skip-existing to keep them, or another output folder.\n"
        "2 files: 2 outdated\n"
    )
    assert copy("--strength", "0.5", "--skip-existing").status == 0
    assert contents(folder / "out") == before
    assert copy("--strength", "0.5", "--overwrite").status == 0
    assert contents(folder / "out") != before
    again = copy("--strength", "0.5", "--overwrite")  # what is up to date is not made again
    assert (again.status, again.err) == (0, f"{IGNORED}2 files: 2 skipped\n")


def test_outputs_of_others_are_kept(copy: Any, folder: Path) -> None:
    write(folder / "out" / "a.wav", seconds=0.1)
    before = (folder / "out" / "a.wav").read_bytes()
    result = copy()
    assert result.status == 1 and "1 outdated output was kept: not made by sbm batch: out/a.wav\n" in result.err
    assert (folder / "out" / "a.wav").read_bytes() == before
    assert copy("-y").status == 0
    assert (folder / "out" / "a.wav").read_bytes() != before


def test_a_bad_file_does_not_stop_the_others(copy: Any, folder: Path) -> None:
    write(folder / "in" / "bad.wav", seconds=3)  # longest, hence first
    write(folder / "in" / "odd.wav")
    (folder / "in" / "text.wav").write_text("nothing to hear")
    result = copy()
    assert result.status == 1
    assert "sbm: in/bad.wav: bad\n     Throw it away.\n" in result.err
    assert "sbm: in/odd.wav: RuntimeError: Unpicklable: odd\n" in result.err
    assert "sbm: 3 of 5 files failed:\n     in/text.wav\n     in/bad.wav\n     in/odd.wav\n" in result.err
    assert set(contents(folder / "out")) == {"a.wav", "day 1/b.flac"}
    for name in ("bad.wav", "odd.wav", "text.wav"):
        (folder / "in" / name).unlink()
    assert copy().status == 0


def test_a_folder_without_anything_to_do_and_one_that_may_not_be_read(
    copy: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty").mkdir()
    result = copy("empty")
    assert result.status == 1 and "sbm: no recordings found in empty\n" in result.err
    assert "2 files: 2 done; " in result.err
    scan = os.scandir

    def closed(path: str) -> Any:
        if str(path) == "in/day 1":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    result = copy()
    assert result.status == 1 and "sbm: in/day 1: permission denied: its files are left out\n" in result.err
    assert "1 file: 1 skipped\n" in result.err


def test_fail_fast(copy: Any, folder: Path) -> None:
    write(folder / "in" / "bad.wav", seconds=3)
    result = copy("--fail-fast")
    assert result.status == 1
    assert contents(folder / "out") == {}
    assert "sbm: 1 of 3 files failed:\n     in/bad.wav\n3 files: 1 failed, 2 left (1.0 s of audio): mend " in result.err
    assert "Ctrl-C again" not in result.err


def test_dry_run(copy: Any, folder: Path) -> None:
    result = copy("--dry-run")
    megabytes = sum(path.stat().st_size for path in (folder / "in").rglob("*.*a*")) / 1e6
    assert (result.status, result.err) == (0, f"2 files: 2 planned; 1.0 s of audio, {megabytes:.1f} MB to read\n")
    ignored = "ignored     in/notes.txt  (not a sound file by its suffix)\n"
    assert result.out == ignored + (
        "planned     in/a.wav -> out/a.wav\nplanned     in/day 1/b.flac -> out/day 1/b.flac\n"
    )
    assert not (folder / "out").exists()
    copy("--exclude", "a.*")
    dry = copy("--dry-run", "--bit-rate", "64000").err
    assert "1 outdated output would be kept: made with no bit rate: out/day 1/b.flac" in dry
    result = copy("--dry-run", "--strength", "0", "--json-lines")
    outdated = {"status": "outdated", "source": "in/day 1/b.flac", "target": "out/day 1/b.flac"}
    assert [json.loads(line) for line in result.out.splitlines()] == [
        {"status": "ignored", "source": "in/notes.txt", "reason": "not a sound file by its suffix"},
        outdated | {"reason": "made with strength 1.0"},
        {"status": "planned", "source": "in/a.wav", "target": "out/a.wav", "seconds": 0.5},
    ]


def test_a_dry_run_says_what_cannot_be_read(copy: Any, folder: Path) -> None:
    (folder / "in" / "text.wav").write_text("nothing to hear")
    result = copy("--dry-run")
    assert "unreadable  in/text.wav -> out/text.wav  (not a sound file" in result.out
    assert re.match(r"3 files: (1 unreadable, 2 planned|2 planned, 1 unreadable); 1\.0 s of audio, ", result.err)


def test_the_report_says_what_failed_and_why(copy: Any, folder: Path) -> None:
    write(folder / "in" / "so, bad.wav")
    assert copy("--report", "out/failures.csv").status == 1  # which the batch makes
    assert copy("--report", "failures.csv").status == 1
    assert (folder / "failures.csv").read_text() == (folder / "out/failures.csv").read_text()
    assert (folder / "failures.csv").read_text().splitlines() == [
        "status,source,target,reason,hint",
        'failed,"in/so, bad.wav","out/so, bad.wav","in/so, bad.wav: bad",Throw it away.',
    ]
    (folder / "in" / "so, bad.wav").unlink()
    assert copy("--report", "failures.csv", "--strength", "0.5").status == 1
    lines = (folder / "failures.csv").read_text().splitlines()
    assert lines[1] == "outdated,in/a.wav,out/a.wav,made with strength 1.0,"
    refused = copy("--report", "absent/failures.csv", "-y")
    assert refused.status == 1 and refused.err.startswith("sbm: absent/failures.csv: no such file or directory")


def test_a_report_replaces_only_an_older_one(copy: Any, folder: Path) -> None:
    before = (folder / "in" / "a.wav").read_bytes()
    for options in (("--dry-run",), ("--overwrite",)):
        refused = copy("--report", "in/a.wav", *options)
        assert refused.status == 1 and "in/a.wav exists, and is no report of sbm batch." in refused.err
    assert (folder / "in" / "a.wav").read_bytes() == before
    dry = copy("--report", "new.csv", "--dry-run")
    assert dry.status == 0 and dry.err.startswith("new.csv is written by the batch itself, not by a dry run\n")
    assert not (folder / "new.csv").exists()


def test_each_shard_has_a_report_of_its_own(copy: Any, folder: Path) -> None:
    for number in range(6):
        write(folder / "in" / f"bad {number}.wav", seconds=0.1)
    for shard in ("1/2", "2/2"):
        copy("--shard", shard, "--report", "failures.csv")
    found = "".join((folder / f"failures-{number}-of-2.csv").read_text() for number in (1, 2))
    assert found.count("Throw it away.") == 6


def test_shards_together_make_a_batch(copy: Any, folder: Path) -> None:
    for number in range(6):
        write(folder / "in" / f"{number}.wav", seconds=0.1)
    made = []
    for shard in ("1/3", "2/3", "3/3", "2/3"):
        before = set(contents(folder / "out"))
        assert copy("--shard", shard).status == 0
        made.append(set(contents(folder / "out")) - before)
    assert made[3] == set() and set().union(*made) == {"a.wav", "day 1/b.flac", *(f"{n}.wav" for n in range(6))}
    assert copy().err == f"{IGNORED}8 files: 8 skipped\n"
    assert not list((folder / "out").glob("*.lock"))


def test_json_lines_are_all_that_is_said(copy: Any, folder: Path) -> None:
    result = copy("--json-lines")
    assert (result.status, result.err) == (0, "")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert records.pop(0)["status"] == "ignored"
    assert {record["source"]: record["status"] for record in records} == {"in/a.wav": "done", "in/day 1/b.flac": "done"}
    assert all(record["seconds"] == 0.5 for record in records)
    name = os.fsdecode(b"bad\n\xe4.wav")
    write(folder / "in" / "x.wav").rename(folder / "in" / name)
    records = [json.loads(line) for line in copy("--json-lines").out.splitlines()]
    assert [record["status"] for record in records] == ["ignored", "skipped", "skipped", "failed"]
    assert records[3]["reason"] == f"in/{name}: bad"
    assert "planned     in/bad\\n\\udce4.wav -> out/bad\\n\\udce4.wav\n" in copy("--dry-run").out


def test_another_format(copy: Any, folder: Path) -> None:
    assert copy("--ext", "FLAC").status == 0
    assert set(contents(folder / "out")) == {"a.flac", "day 1/b.flac"}
    write(folder / "in" / "a.flac")
    refused = copy("--ext", ".flac")
    assert refused.status == 1 and "would both become out/a.flac" in refused.err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["-y", "-n"], 2, "sbm: invalid value for --overwrite, --skip-existing: "),
        (["--shard", "0/4"], 2, "sbm: invalid value for --shard: expected I/N, such as 1/8 to 8/8, got '0/4'"),
        (["--address", "auto"], 2, "sbm: invalid value for --address: needs --engine ray"),
        (["--gpus-per-worker", "0.5"], 2, "sbm: invalid value for --gpus-per-worker: needs --engine ray"),
        (["--engine", "ray", "--device", "cuda:0"], 2, "sbm: invalid value for --device: expected auto, cpu or cuda "),
        (["--ext", "xyz"], 2, "sbm: invalid value for --ext: unknown format 'xyz'; choose one of .wav "),
        (["--device", "cpu,gpu"], 2, "sbm: invalid value for --device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--device", "cuda:98,cuda:99"], 1, "sbm: no device cuda:98: torch sees "),
        (["--include", "*.mp3"], 1, "sbm: no recordings found in in\n     Looked for *.mp3\n"),
        (["--model", "absent"], 1, "sbm: unknown model 'absent'"),
        (["-o", "in"], 1, "sbm: in is also an input folder."),
        (["-o", "in/a.wav"], 2, "sbm: invalid value for --output: in/a.wav is a file"),
        (["absent"], 1, "sbm: absent: no such file or folder\n"),
    ],
)
def test_wrong_usage(copy: Any, folder: Path, options: list[str], status: int, message: str) -> None:
    result = copy(*options)
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith(message)
    assert not (folder / "out").exists()


def test_devices_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbm_cli import hardware
    from sbm_cli.cli import batch

    monkeypatch.setattr(hardware, "gpus", lambda: 2)
    monkeypatch.setattr(batch, "gpus", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)
    assert batch._devices("auto", None, 1) == ["cuda:0", "cuda:1"]
    assert batch._devices("cuda:1,cuda:0", 3, 1) == ["cuda:1", "cuda:0", "cuda:1"]
    assert batch._devices("cpu", None, 1) == ["cpu"] * 6
    assert batch._devices("cpu", None, 4) == ["cpu"]
    assert batch._devices("cpu", 2, 4) == ["cpu"] * 2
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    assert batch._devices("auto", 5, 1) == ["cpu"] * 5


def start(folder: Path, slowly: float = 0.0) -> subprocess.Popen[str]:
    """Start a batch that copies, two files at a time, as a terminal does: in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, str(STAND_IN), "batch", "in", "-o", "out", "-m", "m.safetensors", "--workers", "2"],
        cwd=folder,
        env={**os.environ, "SLOWLY": str(slowly)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(batch: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    while not condition():
        assert batch.poll() is None
        time.sleep(0.01)


def test_ctrl_c_finishes_what_is_begun(folder: Path) -> None:
    for number in range(6):
        write(folder / "in" / f"{number}.wav", seconds=2)
    batch = start(folder, slowly=0.05)
    wait_for(batch, lambda: len(list(folder.glob("out/.sbm-*.part"))) == 2)
    os.killpg(batch.pid, signal.SIGINT)
    _, err = batch.communicate()
    assert batch.returncode == 130
    assert "finishing 2 files before stopping; press Ctrl-C again to stop at once\n" in err
    assert "8 files: 2 done, 6 left (9.0 s of audio): run the same command again; " in err
    assert err.endswith("sbm: interrupted\n")
    assert len(contents(folder / "out")) == 2


@pytest.mark.parametrize("by", ["second Ctrl-C", "SIGTERM", "SIGHUP"])
def test_stopping_at_once_leaves_nothing_half_written(folder: Path, by: str) -> None:
    write(folder / "in" / "long.wav", seconds=60)
    batch = start(folder, slowly=0.2)
    wait_for(batch, lambda: list(folder.glob("out/.sbm-*.part")))
    if by.startswith("SIG"):
        batch.send_signal(signal.Signals[by])
    else:
        os.killpg(batch.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(batch.pid, signal.SIGINT)
    _, err = batch.communicate()
    assert batch.returncode == 130
    assert err.endswith(" left (61.0 s of audio): run the same command again\nsbm: interrupted\n"), err
    assert "Traceback" not in err
    assert set(contents(folder / "out")) <= {"a.wav", "day 1/b.flac"}


@pytest.mark.parametrize("trial", range(3))
def test_killed_at_any_moment_the_next_run_ends_the_work(folder: Path, trial: int) -> None:
    for number in range(12):
        write(folder / "in" / str(number % 3) / f"{number}.wav", seconds=0.5 + 0.1 * number)
    moments = random.Random(trial)
    for whole in (True, False):  # all processes, then the first alone
        batch = start(folder, slowly=0.01)
        wait_for(batch, lambda: (folder / "out" / NAME).exists())
        time.sleep(moments.uniform(0, 0.6))
        os.killpg(batch.pid, signal.SIGKILL) if whole else batch.kill()
        batch.communicate()
    last = start(folder)
    _, err = last.communicate()
    assert last.returncode == 0, err
    found = contents(folder / "out")
    (folder / "out").rename(folder / "resumed")
    whole_run = start(folder)
    whole_run.communicate()
    assert found == contents(folder / "out") and len(found) == 14
