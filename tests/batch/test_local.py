"""The processes: in which order they work, and what becomes of the rest when one fails or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from sbm_cli.batch.local import Workers
from sbm_cli.batch.plan import Job
from sbm_cli.batch.work import Begun, Done, Event, Failed, Progress, Queue, Task, perform
from sbm_cli.errors import AudioError, ModelError, SbmError
from sbm_cli.options import Options
from tests.conftest import PATIENCE


@pytest.fixture
def work(stand_in: None, model: Path) -> Any:
    from slow_copy import Copy  # type: ignore[import-not-found]

    return Copy(model, Options(strength=0.5), threads=1)


def run(work: Any, sources: Sequence[Path], devices: Sequence[str] = ("cpu",), stop_after: int = 1000) -> list[Event]:
    """Return the events of a batch that is told to stop after some of them."""
    events: list[Event] = []
    out = sources[0].parent.parent / "out"
    with Workers(work, devices, print) as workers:
        events += workers.run([Job(path, out / path.name) for path in sources], lambda: len(events) >= stop_after)
    return events


def ends(events: Sequence[Event]) -> list[tuple[str, type]]:
    return [(event.job.source.name, type(event)) for event in events if isinstance(event, Done | Failed)]


def test_one_worker_takes_the_files_in_order(work: Any, record: Any, tmp_path: Path) -> None:
    events = run(work, [record(f"{name}.wav") for name in "bac"])
    assert ends(events) == [("b.wav", Done), ("a.wav", Done), ("c.wav", Done)]
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Begun, Done] * 3
    for event in events:
        if isinstance(event, Done):
            assert event.report == {"seconds": 1.0, "clipped": 0}
            assert event.size == event.job.target.stat().st_size
            before, after = soundfile.read(event.job.source)[0], soundfile.read(event.job.target)[0]
            assert abs(after - before / 2).max() < 1e-4


def test_compiling_is_told_once(work: Any, record: Any) -> None:
    told: list[str] = []
    source = record("a.wav")
    with Workers(work, ["new", "new"], lambda: told.append("compiling")) as workers:
        for _ in range(2):
            list(workers.run([Job(source, source.with_name("out.wav"), replace=True)], lambda: False))
    assert told == ["compiling"]


def test_progress_is_told_now_and_then(work: Any, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOWLY", "0.05")
    told = [event.seconds for event in run(work, [record("a.wav")]) if isinstance(event, Progress)]
    assert 1 <= len(told) <= 5 and told == sorted(told)


def test_a_failure_and_a_death_are_of_one_file_each(work: Any, record: Any, tmp_path: Path) -> None:
    names = ["bad.wav", "killed.wav", "odd.wav", "a.wav", "b.wav", "absent.wav"]
    sources = [record(name) for name in names]
    sources[-1].unlink()
    events = run(work, sources)
    assert ends(events) == [(name, Done if name in ("a.wav", "b.wav") else Failed) for name in names]
    errors = {event.job.source.name: event.error for event in events if isinstance(event, Failed)}
    assert isinstance(errors["bad.wav"], AudioError) and errors["bad.wav"].hint == "Throw it away."
    assert "slow_copy.py" in str(errors["bad.wav"].__cause__)  # the traceback, for SBM_DEBUG=1
    assert isinstance(errors["absent.wav"], AudioError)
    assert str(errors["odd.wav"]) == "Unpicklable: odd"
    killed = errors["killed.wav"]
    assert isinstance(killed, SbmError) and killed.message.endswith("killed.wav: its process was killed by SIGKILL.")
    assert "--workers" in killed.hint
    # nothing half-written is left, and another process went on
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "b.wav"]
    assert len({event.process for event in events if isinstance(event, Begun)}) == 2


def test_files_side_by_side_fail_alone(work: Any, record: Any, tmp_path: Path) -> None:
    names = ["killed.wav", "a.wav", "bad.wav", "b.wav"]
    events = run(replace(work, side_by_side=4), [record(name) for name in names])
    assert ends(events) == [(name, Done if name in ("a.wav", "b.wav") else Failed) for name in names]
    # All begin together, and when the process has died, one after the other.
    begun = [event.job.source.name for event in events if isinstance(event, Begun)]
    assert begun == names * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "b.wav"]


def test_only_files_of_like_length_and_fate_go_side_by_side(tmp_path: Path) -> None:
    def take(lengths: Sequence[float], replaced: Sequence[int] = (), processes: int = 1) -> list[int]:
        queue = Queue([Job(tmp_path, tmp_path, i in replaced, length) for i, length in enumerate(lengths)], 3)
        sizes = []
        while queue:
            sizes.append(len(queue.take(processes).jobs))
        return sizes

    assert take([0.0] * 7) == [3, 3, 1]
    assert take([60, 31, 30, 29, 1]) == [3, 1, 1]
    assert take([0, 60, 29]) == [2, 1]
    assert take([2, 2, 2, 2], replaced=[1]) == [1, 1, 2]
    assert take([1] * 4, processes=2) == [2, 1, 1]


def test_where_processes_die_for_other_reasons_a_job_is_tried_twice(tmp_path: Path) -> None:
    job, error = Job(tmp_path, tmp_path), SbmError("died")
    queue = Queue([job], 1, forgiving=True)
    assert list(queue.died(queue.take(1), error)) == []
    assert list(queue.died(queue.take(1), error)) == [Failed(job, error)] and not queue


def test_the_second_try_replaces_what_the_first_came_to_finish(work: Any, record: Any, tmp_path: Path) -> None:
    job, events = Job(record("a.wav"), tmp_path / "out" / "a.wav"), []
    for again in (False, False, True):
        perform(work.load("cpu"), work.options, Task((job,), again), events.append, 0.2)
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Done, Failed, Done]


def test_stopping_finishes_what_is_begun(work: Any, record: Any) -> None:
    events = run(work, [record(f"{name}.wav") for name in "abcd"], stop_after=1)
    assert ends(events) == [("a.wav", Done)]


def test_leaving_ends_everything_at_once(
    work: Any, record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOWLY", "0.3")
    job = Job(record("a.wav", seconds=60), tmp_path / "out" / "a.wav")
    process = ""
    with pytest.raises(KeyboardInterrupt), Workers(work, ["cpu"], print) as workers:
        for event in workers.run([job], lambda: False):
            if isinstance(event, Begun):
                process = event.process
            if isinstance(event, Progress):
                assert len(list(job.target.parent.iterdir())) == 1
                raise KeyboardInterrupt
    assert list(job.target.parent.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.rpartition("-")[2]), 0)


@pytest.mark.parametrize(
    ("device", "message"), [("broken", "no such device"), ("fatal", "that was loading the model was")]
)
def test_a_worker_that_cannot_start(work: Any, record: Any, device: str, message: str) -> None:
    """It is done without, as long as there is another."""
    sources = [record(f"{name}.wav") for name in "ab"]
    with pytest.raises(ModelError if device == "broken" else SbmError, match=message):
        run(work, sources, [device])
    assert [kind for _, kind in ends(run(work, sources, [device, "cpu"]))] == [Done, Done]


def sessions_processes(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed(
    record: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOWLY", "0.2")
    record("a.wav", seconds=60)
    command = [sys.executable, str(Path(__file__).parent / "slow_copy.py"), "batch", "in", "-o", "out", "-m", model]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL) as batch:
        while not list(tmp_path.glob("out/.sbm-*.part")):
            time.sleep(0.02)
            assert batch.poll() is None
        assert len(sessions_processes(batch.pid)) >= 2
        os.kill(batch.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while sessions_processes(batch.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sessions_processes(batch.pid) == []


def test_the_first_process_too_never_sees_an_interrupt() -> None:
    """The tracker that multiprocessing starts along with it unblocks them, in Python 3.11."""
    script = """
import signal
from multiprocessing import resource_tracker
from sbm_cli.batch.local import _interrupts_held
with _interrupts_held():
    resource_tracker.ensure_running()
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
