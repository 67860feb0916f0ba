"""What a training leaves to be looked at: CSV always; curves, sound and spectrograms where TensorBoard is installed."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sbm_cli.atomic import write_atomically
from sbm_cli.cells import read_table, table
from sbm_cli.errors import naming
from sbm_cli.model import ModelConfig
from sbm_cli.plot.chart import Point, lines
from sbm_cli.training.validation import Score, Validation

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

TRAIN, VALID, PICTURE = "train.csv", "valid.csv", "loss.svg"
END = "\r\n"  # of a row
SAMPLES = 4  # mixtures of a set to listen to
RANGE_DB = 80.0  # of a spectrogram


class Logs:
    """The logs of a training in its folder; a resumed one loses the rows behind `first`, the step it goes on with."""

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        for name in (TRAIN, VALID):
            rows = [row for row in read_rows(folder / name) if int(row["step"]) <= first]
            if rows:
                write_atomically(folder / name, table([rows[0], *(row.values() for row in rows)], END).encode())
            else:
                (folder / name).unlink(missing_ok=True)
        self._board: SummaryWriter | None = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._hook = threading.excepthook
            threading.excepthook = self._hear
            self._board = SummaryWriter(folder / "tensorboard", purge_step=first)

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row of `train.csv` and a point to its curves."""
        self._row(TRAIN, {"step": step, **values})
        if self._board is not None:
            with naming(self._folder / "tensorboard"):
                for name, value in values.items():
                    self._board.add_scalar(f"train/{name}", value, step)
                self._board.flush()

    def valid(self, step: int, name: str, found: Validation, model: ModelConfig) -> None:
        """Add a row of `valid.csv` and points for a set, and its first mixtures as sound and picture."""
        self._row(VALID, {"step": step, "set": name, **asdict(found.score)})
        if self._board is None:
            return
        for key, value in asdict(found.score).items():
            self._board.add_scalar(f"{name}/{key}", value, step)
        for i in range(min(SAMPLES, len(found.noisy))):
            rows = torch.stack([found.noisy[i], found.estimate[i], found.clean[i]])
            power = torch.view_as_real(model.stft.forward(rows)).square().sum(-1)
            level = 10 * torch.log10(power / power.max() + 1e-12)
            picture = (1 + level / RANGE_DB).clamp(0, 1).flip(1)  # low frequencies below
            self._board.add_image(f"{name}/{i} noisy, estimate, clean", picture.flatten(0, 1), step, dataformats="HW")
            for kind, row in zip(("noisy", "estimate", "clean"), rows, strict=True):
                self._board.add_audio(f"{name}/{i} {kind}", row.clamp(-1, 1)[None], step, model.rate)

    def close(self) -> None:
        if self._board is not None:
            threading.excepthook = self._hook
            with naming(self._folder / "tensorboard"):
                self._board.close()

    def _hear(self, failed: threading.ExceptHookArgs) -> None:
        """Be silent about the thread that writes for TensorBoard: what it met is raised at the next call, too."""
        if type(failed.thread).__name__ != "_AsyncWriterThread":
            self._hook(failed)

    def _row(self, name: str, row: Mapping[str, object]) -> None:
        path = self._folder / name
        new = not path.exists()
        with naming(path), open(path, "a", encoding="utf-8", newline="") as file:
            file.write(table([row] * new + [row.values()], END))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a log, none if there is no such file."""
    return [row for row in read_table(path) if None not in row.values()]


def draw_losses(folder: Path) -> Path | None:
    """Draw the losses of training and of the validation sets, and return where; None without any."""
    curves: dict[str, list[Point]] = {}
    for name in (TRAIN, VALID):
        for row in read_rows(folder / name):
            point = float(row["step"]), float(row["loss"])
            curves.setdefault(row.get("set", "training"), []).extend([point] if math.isfinite(point[1]) else [])
    if not curves:
        return None
    write_atomically(folder / PICTURE, lines(folder.name, curves, "step", "loss").encode())
    return folder / PICTURE


def read_scores(folder: Path, step: int) -> dict[str, Score]:
    """Return the scores of a step by the name of the set."""
    rows = [row for row in read_rows(folder / VALID) if int(row["step"]) == step]
    names = Score.__dataclass_fields__
    return {row["set"]: Score(*(float(row[name]) for name in names)) for row in rows}
