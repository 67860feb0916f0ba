"""`sbm enhance` through pipes: what a file gives, and no terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import Piped, names


def test_terminals_are_no_pipes(sbm: Any, folder: Path, piped: Piped) -> None:
    piped.give(b"", terminal=True)
    result = sbm("enhance", "noisy.wav", "-o", "-")
    assert result.status == 1 and result.err.startswith(
        "sbm: stdout is a terminal, not a file or pipe.\n     Redirect it: "
    )
    result = sbm("enhance", "-", "-o", "clean.wav")
    assert result.status == 1 and result.err.startswith("sbm: stdin is a terminal, not a file or pipe.\n")
    assert piped.taken == b"" and names(folder) == {"noisy.wav"}


def test_bad_input_through_a_pipe_is_one_message(sbm: Any, folder: Path, model_file: Path, piped: Piped) -> None:
    piped.give(b"dear diary, today I recorded nothing")
    result = sbm("enhance", "-", "-o", "clean.wav", "-m", model_file)
    assert result.status == 1 and result.err.startswith("sbm: -: not a sound file (")
    assert names(folder) == {"noisy.wav"}


@pytest.mark.parametrize("options", ["--raw 16000:2:PCM_24", ""])
def test_a_file_as_stdin_is_read_from_where_it_stands(
    sbm: Any, folder: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """Another program of the shell may have read its beginning."""
    sound = np.zeros(6 * 2000, np.uint8).tobytes() if options else (folder / "noisy.wav").read_bytes()
    (folder / "stdin").write_bytes(b"header" + sound)
    with (folder / "stdin").open("rb") as file:
        file.seek(6)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert sbm("enhance", "-", *options.split(), "-o", "clean.wav", "-m", model_file).status == 0
        assert soundfile.info("clean.wav").frames == (2000 if options else 8000)


def test_real_pipes_and_a_reader_that_has_enough(folder: Path, model_file: Path) -> None:
    """A shell's pipes: the same sound as through files, and a quiet end, as by SIGPIPE, once nobody reads."""
    soundfile.write("long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 20), 16000)
    sbm = f"{sys.executable} -m sbm_cli enhance -m {model_file}"
    script = f"""
        {sbm} noisy.wav -o clean.wav -q
        cat noisy.wav | {sbm} - -o - -q | cat > piped.wav
        {sbm} long.wav -o - | head -c 100 > beginning.wav
        echo "${{PIPESTATUS[*]}}"
        {sys.executable} -m sbm_cli models list | true
        echo "${{PIPESTATUS[*]}}"
    """
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env={**os.environ, "CI": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "141 0\n141 0\n", "")
    np.testing.assert_array_equal(soundfile.read("piped.wav")[0], soundfile.read("clean.wav")[0])
    assert len(Path("beginning.wav").read_bytes()) == 100


@pytest.mark.parametrize("options", ["", "--clip-mode rescale", "--mono --rate 8000 --subtype PCM_16"])
@pytest.mark.parametrize("target", ["-", "- --ext flac", "- --ext raw", "clean2.wav"])
def test_a_pipe_gives_what_a_file_gives(
    sbm: Any, folder: Path, model_file: Path, piped: Piped, options: str, target: str
) -> None:
    assert sbm("enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file, *options.split()).status == 0
    expected, rate = soundfile.read("clean.wav")
    form = soundfile.info("clean.wav")
    bare = {"samplerate": rate, "channels": form.channels, "subtype": form.subtype, "format": "RAW"}
    samples, _ = soundfile.read("noisy.wav", dtype="float32")
    contents = {}
    for container in ("WAV", "FLAC", "RAW"):
        soundfile.write("noisy", samples, 16000, "PCM_24", format=container)
        contents[container] = Path("noisy").read_bytes()
    for container, content in contents.items():
        piped.give(content)
        raw = ["--raw", "16000:2:pcm_24"] if container == "RAW" else []
        result = sbm("enhance", "-", *raw, "-o", *target.split(), "-y", "-m", model_file, *options.split())
        assert (result.status, result.out) == (0, "") and "- -> " in result.err
        taken = io.BytesIO(piped.taken if target.startswith("-") else Path(target).read_bytes())
        found, found_rate = soundfile.read(taken, **(bare if "raw" in target else {}))
        assert found_rate == rate
        np.testing.assert_array_equal(found, expected)
