"""Word error rate, by any program that writes down what it hears, such as Whisper's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import unicodedata
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.metrics.metric import RATE, Metric
from sbm_cli.timing.clips import Clip, write_clip

VARIABLE = "SBM_TRANSCRIBER"  # an environment variable, which reaches the processes that score
IN = "{in}"
PATIENCE = 600.0  # seconds for the program to start, and for a minute of sound
_JOINERS = "\u200c\u200d"  # between letters of a word


def wer(estimate: Samples, clean: Samples) -> float:
    """Return the errors in the words that the program hears, in % of those that it hears in the clean signal.

    Raises ValueError if it hears none there, RuntimeError if it fails or does not end.
    """
    wanted = words(_transcript(clean.tobytes()))
    if not wanted:
        raise ValueError("no words in the clean reference")
    return 100 * edits(wanted, words(_transcript(estimate.tobytes()))) / len(wanted)


def words(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation."""
    text = unicodedata.normalize("NFC", re.sub(r"\[[^\]]*\]|\([^)]*\)", " ", text.lower()))
    combining = "".join({letter for letter in text if unicodedata.category(letter)[0] == "M"})  # as vowels in Hindi
    letters = rf"(?:[^\W_][{_JOINERS}{combining}]*)+"
    return re.findall(rf"{letters}(?:['’]{letters})*", text)


def edits(wanted: list[str], found: list[str]) -> int:
    """Return the least number of words to insert, delete or replace."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(found, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (word != other))
    return row[-1]


@lru_cache(maxsize=64)  # the clean reference serves every system
def _transcript(samples: bytes) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        write_clip(path, Clip("speech", np.atleast_2d(np.frombuffer(samples, np.float32)), RATE), "WAV")
        command = [part.replace(IN, str(path)) for part in shlex.split(os.environ[VARIABLE])]
        patience = PATIENCE * (1 + len(samples) / (4 * RATE * 60))  # of float32
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=patience
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command[0]} did not end within {patience:.0f} s") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {reason[0]}")
    return done.stdout


def missing_program() -> str:
    """Return "" if there is a program to ask, otherwise how to name one."""
    template = os.environ.get(VARIABLE, "")
    try:
        program = shlex.split(template)[:1] if IN in template else []
    except ValueError as error:
        return f"{template!r}: {error}"
    if not program:
        return f'no program: --transcriber "whisper-cli -np -nt -m MODEL -f {IN}", or the like in {VARIABLE}'
    return "" if shutil.which(program[0]) else f"{program[0]}: no such program"


METRICS = (Metric("wer", "word error rate", "%, less is better", wer, missing_weights=missing_program),)
