"""What the journal knows of an output, after whatever happened to it, to its input and to the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbm_cli.batch.journal import NAME, Journal
from sbm_cli.batch.plan import WHOLE, Job, Shard
from sbm_cli.errors import SbmError
from sbm_cli.hub import digest
from sbm_cli.options import Options


class Desk:
    """One input, its output, and the journal as a command would open it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.model = model
        self.options = Options()
        self.out = folder / "out"
        self.job = Job(folder / "in.wav", self.out / "day 1" / "ü\udce4.wav")
        self.job.source.write_bytes(b"noisy")

    def journal(self, shard: Shard = WHOLE) -> Journal:
        return Journal(self.out, self.model, self.options, shard, print)

    def state(self) -> tuple[str, str]:
        """Ask as a dry run and as a batch, which must agree."""
        dry = self.journal().state(self.job)
        with self.journal() as journal:
            assert journal.state(self.job) == dry
        return dry

    def begin(self, **changes: Any) -> None:
        with self.journal() as journal:
            journal.begin(replace(self.job, **changes), process="host-4242")

    def publish(self) -> None:
        self.job.target.parent.mkdir(parents=True, exist_ok=True)
        self.job.target.write_bytes(b"clean")

    def finish(self) -> None:
        with self.journal() as journal:
            journal.begin(self.job, process="host-4242")
            self.publish()
            journal.finish(self.job, digest(self.job.source), seconds=2.0, bytes=5)


@pytest.fixture
def desk(tmp_path: Path, model: Path) -> Desk:
    return Desk(tmp_path, model)


def test_new_begun_done(desk: Desk) -> None:
    assert desk.journal().state(desk.job) == ("new", "")
    assert not desk.out.exists()  # to ask leaves nothing behind
    desk.begin()
    assert desk.state() == ("new", "")
    desk.finish()
    assert desk.state() == ("done", "")
    assert desk.journal().seconds(desk.job) == 2.0


def test_an_output_that_appeared_before_the_kill_is_done(desk: Desk) -> None:
    desk.begin()
    desk.publish()
    assert desk.state() == ("done", "")


def touch(desk: Desk) -> None:
    os.utime(desk.job.source, (1, 1))


def set_strength(desk: Desk) -> None:
    desk.options = Options(strength=0.5)


def forget_options(desk: Desk, *kept: str) -> None:
    """Leave a journal as it was written before there were options, but for those that are kept."""
    lines = [json.loads(line) for line in (desk.out / NAME).read_text().splitlines()]
    for line in lines:
        line["settings"] = {name: line["settings"][name] for name in ("model", *kept)}
    (desk.out / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("happens", "state", "reason"),
    [
        (touch, "done", ""),
        (lambda desk: desk.job.target.unlink(), "new", ""),
        (lambda desk: desk.job.target.write_bytes(b"other"), "done", ""),  # same size: taken for ours
        (lambda desk: desk.job.target.write_bytes(b"longer"), "outdated", "changed since it was made"),
        (lambda desk: desk.job.source.write_bytes(b"longer"), "outdated", "its input has changed"),
        (lambda desk: (desk.job.source.write_bytes(b"other"), touch(desk)), "outdated", "its input has changed"),
        (set_strength, "outdated", "made with strength 1.0"),
        (lambda desk: forget_options(desk, "warm_up"), "done", ""),
        (forget_options, "outdated", "made with warm up False"),
        (lambda desk: desk.model.write_bytes(b"better"), "outdated", "made with model m "),
        (lambda desk: desk.model.with_suffix(".json").write_bytes(b"better"), "outdated", "made with model m "),
        (lambda desk: (desk.out / NAME).unlink(), "outdated", "not made by sbm batch"),
        (lambda desk: desk.begin(replace=True), "outdated", "replacement was interrupted"),
        (lambda desk: desk.job.source.unlink(), "outdated", "its input has changed"),
    ],
)
def test_what_happens_afterwards(desk: Desk, happens: Callable[[Desk], object], state: str, reason: str) -> None:
    desk.finish()
    happens(desk)
    found, why = desk.state()
    assert found == state and why.startswith(reason)


def test_a_new_time_of_change_is_looked_into_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.finish()
    touch(desk)
    assert desk.state() == ("done", "")
    monkeypatch.setattr("sbm_cli.batch.journal.digest", lambda path: "" if path == desk.job.source else digest(path))
    assert desk.state() == ("done", "")
    os.utime(desk.job.source, (2, 2))
    assert desk.state() == ("outdated", "its input has changed")


def test_what_a_killed_process_left_is_removed(desk: Desk) -> None:
    desk.begin()
    folder = desk.job.target.parent
    folder.mkdir()
    for name in (".sbm-host-4242-aa.part", ".sbm-host-4242-bb.part", ".sbm-host-1-aa.part"):
        (folder / name).touch()
    desk.journal()
    assert len(list(folder.iterdir())) == 3
    desk.state()
    assert [path.name for path in folder.iterdir()] == [".sbm-host-1-aa.part"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_cut_off_anywhere_the_rest_counts(desk: Desk, cut: int) -> None:
    """Whatever is left of the journal, it can be read and written, and says nothing untrue."""
    (desk.out / NAME).unlink(missing_ok=True)
    desk.finish()
    whole = (desk.out / NAME).read_bytes()
    (desk.out / NAME).write_bytes(whole[: cut % len(whole)])
    assert desk.state() in (("done", ""), ("outdated", "not made by sbm batch"))
    desk.finish()
    assert desk.state() == ("done", "")
    assert json.loads((desk.out / NAME).read_bytes().splitlines()[-1])["bytes"] == 5


def test_lines_of_another_kind_do_not_count(desk: Desk) -> None:
    desk.finish()
    line = json.loads((desk.out / NAME).read_text().splitlines()[-1])
    with open(desk.out / NAME, "ab") as file:
        file.write(b'[]\n{"output": "x"}\nnull\n\xff\n{}\n')
        for wrong in ({"settings": []}, {"bytes": "5"}, {"seconds": None}, {"output": 5}):
            file.write(json.dumps(line | wrong).encode() + b"\n")
    assert desk.state() == ("done", "")


@pytest.mark.parametrize(
    "changes", [{"output": "../a.wav"}, {"output": "day 1/../../a.wav"}, {"output": "{folder}/a.wav"}, {"process": "*"}]
)
def test_a_journal_that_was_given_to_us_removes_nothing_elsewhere(desk: Desk, changes: dict[str, str]) -> None:
    desk.begin()
    journal = desk.out / NAME
    entry = json.loads(journal.read_text())
    entry |= {name: text.format(folder=desk.out.parent) for name, text in changes.items()}
    journal.write_text(json.dumps(entry) + "\n" + "[" * 100_000 + "\n")
    elsewhere = desk.out.parent if "output" in changes else desk.job.target.parent
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / ".sbm-host-4242-aa.part").touch()
    assert desk.state() == ("new", "")
    assert (elsewhere / ".sbm-host-4242-aa.part").exists()


def test_a_pipe_in_place_of_the_journal_is_refused(desk: Desk) -> None:
    desk.out.mkdir()
    os.mkfifo(desk.out / NAME)
    with pytest.raises(SbmError, match="is not a regular file"):
        desk.journal()


def test_a_full_disk_is_said_to_be_full(desk: Desk) -> None:
    desk.out.mkdir()
    with desk.journal() as journal:
        assert journal._file
        journal._file.close()
        journal._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(SbmError, match="cannot be written .no space left on device.") as caught:
            journal.begin(desk.job, "host-1")
    assert caught.value.hint.startswith("The disk or your quota is full")


def test_one_writer_at_a_time(desk: Desk) -> None:
    with desk.journal():
        with pytest.raises(SbmError, match="another sbm batch is writing to it"), desk.journal():
            pass
        assert desk.journal().state(desk.job) == ("new", "")  # reading is free
    with desk.journal():
        pass


def test_the_lock_ends_with_its_process(desk: Desk) -> None:
    code = f"""
import os
from pathlib import Path
from sbm_cli.batch.journal import Journal
from sbm_cli.batch.plan import WHOLE
from sbm_cli.options import Options
Journal(Path({str(desk.out)!r}), Path({str(desk.model)!r}), Options(), WHOLE, print).__enter__()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with desk.journal():
        pass


def test_what_another_puts_where_a_job_failed_is_not_taken_for_its_output(desk: Desk) -> None:
    desk.begin()
    with desk.journal() as journal:
        journal.fail(desk.job)
    assert desk.state() == ("new", "")
    desk.publish()
    assert desk.state() == ("outdated", "not made by sbm batch")


def test_shards_write_side_by_side_and_a_whole_batch_alone(desk: Desk) -> None:
    with desk.journal(Shard(1, 2)), desk.journal(Shard(2, 2)):
        for other in (Shard(1, 2), Shard(1, 3), WHOLE):
            with pytest.raises(SbmError, match="another sbm batch is writing to it"), desk.journal(other):
                pass
    with desk.journal(), pytest.raises(SbmError), desk.journal(Shard(1, 2)):
        pass
    with desk.journal(Shard(3, 3)):
        pass


def test_the_newest_line_of_all_shards_counts(desk: Desk) -> None:
    for strength, shard in ((0.5, Shard(2, 2)), (1.0, WHOLE), (0.5, Shard(1, 2))):
        desk.options = Options(strength=strength)
        with desk.journal(shard) as journal:
            journal.begin(desk.job, "host-1")
            desk.publish()
            journal.finish(desk.job, digest(desk.job.source), 2.0, 5)
        assert desk.state() == ("done", "")


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_no_clock_needs_to_be_right(desk: Desk, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """A shard notes an output, then the whole batch with other options on a machine whose clock says less, or more."""
    with desk.journal(Shard(1, 2)) as journal:
        journal.begin(desk.job, process="host-4242")
        desk.publish()
        journal.finish(desk.job, digest(desk.job.source), seconds=2.0, bytes=5)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - ahead)
    desk.options = Options(strength=0.5)
    assert desk.state() == ("outdated", "made with strength 1.0")
    desk.begin(replace=True)
    assert desk.state() == ("outdated", "replacement was interrupted")
    desk.finish()
    assert desk.state() == ("done", "")


def test_what_shards_left_is_removed_by_whoever_comes_after_all_of_them(desk: Desk) -> None:
    with desk.journal(Shard(1, 2)) as journal:
        journal.begin(desk.job, "host-4242")
    desk.job.target.parent.mkdir()
    part = desk.job.target.parent / ".sbm-host-4242-aa.part"
    part.touch()
    with desk.journal(Shard(2, 2)):
        assert part.exists()  # the other may be at work
    desk.state()
    assert not part.exists()


def test_a_whole_batch_gathers_the_journals_of_shards(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk.journal(Shard(1, 2)) as journal:
        journal.begin(desk.job, process="host-4242")
        desk.publish()
        journal.finish(desk.job, digest(desk.job.source), seconds=2.0, bytes=5)
    with desk.journal(Shard(2, 2)):
        pass

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".jsonl":
            raise KeyboardInterrupt
        os.unlink(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", unlink)
        with desk.journal():  # interrupted between writing and removing
            pass
    assert desk.state() == ("done", "")
    assert [path.name for path in desk.out.glob(".sbm*")] == [NAME]
    assert desk.state() == ("done", "") and len((desk.out / NAME).read_text().splitlines()) == 1
    with desk.journal(Shard(1, 2)) as journal:
        assert journal.state(desk.job) == ("done", "")


def test_a_batch_that_lost_its_lease_begins_nothing(desk: Desk) -> None:
    with desk.journal() as journal, pytest.raises(SbmError, match="another sbm batch has taken over"):
        journal._lease.lost = True
        journal.begin(desk.job, "host-1")


def test_a_journal_from_before_there_were_hosts(desk: Desk) -> None:
    desk.begin()
    journal = desk.out / NAME
    entry = json.loads(journal.read_text())
    del entry["time"]
    journal.write_text(json.dumps(entry | {"process": 4242}) + "\n")
    desk.publish()
    part = desk.job.target.parent / ".sbm-4242-aa.part"
    part.touch()
    assert desk.state() == ("done", "") and not part.exists()
