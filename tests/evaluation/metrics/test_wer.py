"""The word error rate, with a program that hears what a test wants it to hear."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from sbm_cli.evaluation.metrics import available_metrics, score, wer

CLEAN, ESTIMATE = np.full(1600, 0.5, np.float32), np.full(1600, 0.25, np.float32)


@pytest.fixture
def hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program hear words by the loudness of a file."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, soundfile\n"
        "level = soundfile.read(sys.argv[1])[0].max()\n"
        "if level < 0.1: sys.exit('too quiet')\n"
        "print('[00:00] The QUICK brown fox, (music) does jump.' if level > 0.4 else 'a quick brown fox jump jump')\n"
    )
    monkeypatch.setenv("SBM_TRANSCRIBER", f"{shlex.quote(sys.executable)} {script} {{in}}")
    wer._transcript.cache_clear()


def test_words_that_are_wrong_missing_or_too_many(hears: None) -> None:
    assert score(["wer"], ESTIMATE, CLEAN) == {"wer": pytest.approx(100 * 2 / 6)}
    assert score(["wer"], CLEAN, CLEAN) == {"wer": 0.0}


def test_a_program_that_fails_says_why(hears: None) -> None:
    assert "ended with status 1: too quiet" in score(["wer"], ESTIMATE / 10, CLEAN).reasons["wer"]


def test_a_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBM_TRANSCRIBER", f"{shlex.quote(sys.executable)} -c 'import time; time.sleep(60)' {{in}}")
    monkeypatch.setattr(wer, "PATIENCE", 0.1)
    wer._transcript.cache_clear()
    assert "did not end within" in score(["wer"], ESTIMATE, CLEAN).reasons["wer"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[00:00] Don't, it’s (laughs) snake_case!", ["don't", "it’s", "snake", "case"]),
        ("हिन्दी में बोलिए", ["हिन्दी", "में", "बोलिए"]),
        ("cafe\u0301 ❤\ufe0f", ["café"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert wer.words(text) == words


@pytest.mark.parametrize(
    ("wanted", "found", "edits"),
    [("a b c", "a b c", 0), ("a b c", "", 3), ("", "a", 1), ("a b c", "b c d", 2), ("a b c", "x y z", 3)],
)
def test_edits(wanted: str, found: str, edits: int) -> None:
    assert wer.edits(wanted.split(), found.split()) == edits


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("", 'no program: --transcriber "whisper-cli'),
        ("whisper", "no program"),
        ("no-such-program {in}", "no-such-program: no such program"),
        ("'open {in}", "No closing quotation"),
    ],
)
def test_without_a_program_it_is_absent(monkeypatch: pytest.MonkeyPatch, template: str, reason: str) -> None:
    monkeypatch.setenv("SBM_TRANSCRIBER", template)
    assert reason in available_metrics()["wer"]
