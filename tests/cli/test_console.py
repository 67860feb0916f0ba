"""Who hears what, and where: stdout for data, stderr for the rest, bars only on a terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator

import pytest

from sbm_cli.cli.shared import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CI", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield
    console.configure(quiet=False, verbose=False)


@pytest.mark.parametrize(
    ("quiet", "verbose", "heard"),
    [
        (False, False, "note\nsbm: warning: odd\nsbm: wrong\n     do this\n     or that\n"),
        (False, True, "note\ndetail\nsbm: warning: odd\nsbm: wrong\n     do this\n     or that\n"),
        (True, True, "sbm: warning: odd\nsbm: wrong\n     do this\n     or that\n"),
    ],
)
def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str], quiet: bool, verbose: bool, heard: str) -> None:
    console.configure(quiet, verbose)
    console.note("note")
    console.detail("detail")
    console.warn("odd")
    console.error("wrong", "do this\nor that")
    assert capsys.readouterr() == ("", heard)


def test_options_before_and_behind_the_command_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True, verbose=False)
    console.adjust(quiet=False, verbose=False)
    console.note("unheard")
    assert capsys.readouterr().err == ""


def test_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.data_json({"name": "Übung", "rtf": 0.5})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "Übung", "rtf": 0.5}
    assert "Übung" in out and err == ""


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.data_json({"rtf": float("nan")})


def test_what_counts_as_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not console.interactive()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert console.interactive()
    monkeypatch.setenv("TERM", "dumb")
    assert not console.interactive()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert not console.interactive()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress("[odd] name.wav") as report:
        report(3.0, 12.0)
        report(12.0, 12.0, "RTF 0.5")
    assert "[odd] name.wav" in terminal.getvalue() and "RTF 0.5" in terminal.getvalue()
    assert "12/12 s of audio" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    with console.progress("talk.wav") as report:
        for second in range(25):
            clock = float(second)
            report(10.0 * second, 400.0)
    assert capsys.readouterr() == (
        "",
        "talk.wav: 100 of 400 s of audio, about 30 s left\ntalk.wav: 200 of 400 s of audio, about 20 s left\n",
    )


def test_a_total_that_is_unknown_is_not_made_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    with console.progress("stdin") as report:
        clock = 10.0
        report(100.0, 0.0)
    assert capsys.readouterr().err == "stdin: 100 s of audio\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress("stdin") as report:
        report(3.0, 0.0)
    assert " 3 s of audio" in terminal.getvalue()


def test_what_was_done_before_takes_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    with console.progress("batch", before=300.0) as report:
        report(300.0, 400.0, "RTF 0.1")
        clock = 30.0  # loading, which comes only once
        report(310.0, 400.0, "RTF 0.1")
        clock = 34.0
        report(314.0, 400.0, "RTF 0.1")
        clock = 50.0
        report(350.0, 400.0, "RTF 0.4")
    assert capsys.readouterr().err == (
        "batch: 310 of 400 s of audio, RTF 0.1\nbatch: 350 of 400 s of audio, RTF 0.4, about 25 s left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7260, "2 h 01 min"), (3 * 86400, "3.0 days")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_json_in_one_line_with_any_name_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"\xc3\x9cbung\n\xe4.wav")
    console.data_line({"name": name})
    out = capsys.readouterr().out
    assert out == '{"name": "Übung\\n\\udce4.wav"}\n'
    assert json.loads(out) == {"name": name}


def test_names_of_files_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.error("\x1b[31mred\n.wav: odd", "use\x9b\nthis")
    console.data("\x1b[31m\n")
    assert capsys.readouterr() == ("\x1b[31m\n\n", "sbm: \\x1b[31mred\\n.wav: odd\n     use\\x9b\n     this\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    console.data("\x1b[31m\n")
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress("\x1b[31m.wav") as report:
        report(3.0, 12.0)
    assert "\x1b[31m" not in terminal.getvalue() and terminal.getvalue().count("\\x1b[31m") > 1


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_silences_progress(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console.configure(quiet=True, verbose=False)
    with console.progress("talk.wav") as report:
        report(1.0, 2.0)
    assert stream.getvalue() == ""
