"""The logs of a training: where nothing can be written any longer, and their picture."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sbm_cli.training.logs import TRAIN, Logs, draw_losses


def test_a_full_disk_is_an_error_with_a_name(tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0)
    (tmp_path / TRAIN).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        logs.train(1, {"loss": 1.0})
    assert caught.value.filename == str(tmp_path / TRAIN)
    logs.close()


def test_the_thread_of_tensorboard_leaves_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    before, logs = threading.excepthook, Logs(tmp_path, 0)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert logs._board is not None
    logs._board.file_writer.event_writer._async_writer._worker._record_writer = SimpleNamespace(write=fail, flush=fail)
    with pytest.raises(OSError, match="No space left") as caught:
        logs.train(1, {"loss": 1.0, "speed": 1.0})
    assert caught.value.filename == str(tmp_path / "tensorboard")
    with pytest.raises(OSError, match="No space left"):
        logs.close()
    assert capsys.readouterr().err == "" and threading.excepthook is before


def test_losses_are_drawn(tmp_path: Path) -> None:
    assert draw_losses(tmp_path) is None and not list(tmp_path.iterdir())
    (tmp_path / "train.csv").write_text("step,loss\n10,2.5\n20,nan\n30,2.0\n")
    (tmp_path / "valid.csv").write_text("step,set,loss\n30,own,1.5\n30,general,1.8\n")
    drawn = draw_losses(tmp_path)
    assert drawn == tmp_path / "loss.svg"
    assert all(f">{name}<" in drawn.read_text() for name in ("training", "own", "general"))
