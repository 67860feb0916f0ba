"""`sbm enhance`: the path of one file, its options, and everything that can be wrong with it."""

from __future__ import annotations

import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sbm_cli.audio.loudness.levels import Levels
from sbm_cli.cli import batch, enhance
from sbm_cli.cli.shared.options import for_typer
from sbm_cli.enhancer import Enhancer
from sbm_cli.files import FileReport
from sbm_cli.options import Options
from tests.cli.conftest import Piped, names


def test_a_file_becomes_a_file(sbm: Any, folder: Path, model_file: Path) -> None:
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "--model", model_file)
    assert (result.status, result.out) == (0, "")
    # the first run on a machine compiles the scan, and may say how far it is before the last line
    done, seconds, levels = result.err.splitlines()[-3:]
    assert done == "noisy.wav -> clean.wav"
    assert seconds.startswith("    0.5 s of audio in ")
    assert levels == "    speech -25 -> -25 dBFS, pauses -25 -> -25 dBFS"
    assert soundfile.info("clean.wav").subtype == "PCM_24"
    # an untrained network returns its input
    assert np.allclose(soundfile.read("clean.wav")[0], soundfile.read("noisy.wav")[0], atol=1e-3)
    assert names(folder) == {"noisy.wav", "clean.wav"}


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_keeps_the_name(sbm: Any, folder: Path, model_file: Path, exists: bool) -> None:
    if exists:
        (folder / "out").mkdir()
    assert sbm("enhance", "noisy.wav", "-o", "out" if exists else "out/", "-m", model_file).status == 0
    assert names(folder) == {"noisy.wav", "out", "out/noisy.wav"}


def test_without_an_output_the_name_follows_the_input(sbm: Any, folder: Path, model_file: Path) -> None:
    for _ in range(2):  # a pattern that finds the output of the first time
        assert sbm("enhance", "*.wav", "-m", model_file, "--overwrite").status == 0
        assert names(folder) == {"noisy.wav", "noisy-clean.wav"}
    assert sbm("enhance", "noisy.wav", "-m", model_file, "--ext", "flac").status == 0
    assert names(folder) == {"noisy.wav", "noisy-clean.wav", "noisy-clean.flac"}


def test_names_follow_a_template(sbm: Any, folder: Path, model_file: Path) -> None:
    for options in (["-o", "out/"], ["--ext", "flac"]):
        assert sbm("enhance", "noisy.wav", "-m", model_file, "--name", "my {stem}{ext}", *options).status == 0
    assert names(folder) == {"noisy.wav", "out", "out/my noisy.wav", "my noisy.flac"}
    same = sbm("enhance", "noisy.wav", "-m", model_file, "--name", "{stem}{ext}")
    assert same.status == 1 and "noisy.wav exists" in same.err
    assert sbm("enhance", "noisy.wav", "-m", model_file, "--name", "{stem}{ext}", "--overwrite").status == 0


def test_json_is_all_that_is_said(sbm: Any, folder: Path, model_file: Path) -> None:
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file, "--json", "--attenuation-limit", "9")
    assert (result.status, result.err) == (0, "")
    report = json.loads(result.out)
    assert set(report) == set(FileReport.__dataclass_fields__)
    assert (report["model"], report["options"]) == ("small", asdict(Options(attenuation_limit=9)))
    assert (report["source"], report["target"], report["rate"], report["channels"]) == (
        "noisy.wav",
        "clean.wav",
        16000,
        2,
    )


@pytest.mark.parametrize("place", ["before", "behind"])
def test_quiet_says_nothing(sbm: Any, folder: Path, model_file: Path, place: str) -> None:
    arguments = ["enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file]
    result = sbm("-q", *arguments) if place == "before" else sbm(*arguments, "-q")
    assert (result.status, result.out, result.err) == (0, "", "")


def test_an_existing_output_is_kept_unless_told(sbm: Any, folder: Path, model_file: Path) -> None:
    (folder / "clean.wav").write_bytes(b"dear to me")
    arguments = ["enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file]
    refused = sbm(*arguments)
    assert refused.status == 1
    assert refused.err.startswith("sbm: clean.wav exists.")
    assert "--overwrite" in refused.err
    assert (folder / "clean.wav").read_bytes() == b"dear to me"
    assert sbm(*arguments, "-y").status == 0
    assert soundfile.info("clean.wav").frames == 8000


def test_the_input_can_be_replaced(sbm: Any, folder: Path, model_file: Path) -> None:
    assert sbm("enhance", "noisy.wav", "-o", "noisy.wav", "-m", model_file).status == 1
    assert sbm("enhance", "noisy.wav", "-o", "noisy.wav", "-m", model_file, "--overwrite").status == 0
    assert soundfile.info("noisy.wav").frames == 8000
    assert names(folder) == {"noisy.wav"}


@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("absent.wav", 1, "sbm: absent.wav: "),
        (
            "folder",
            2,
            "sbm: invalid value for INPUT: folder is a folder; to enhance its files: ",
        ),
        ("text.wav", 1, "sbm: text.wav: "),
        ("empty.wav", 1, "sbm: empty.wav: "),
        ("cut.wav", 1, "sbm: cut.wav: "),
    ],
)
def test_bad_input_is_one_message_and_no_file(
    sbm: Any, folder: Path, model_file: Path, source: str, status: int, message: str
) -> None:
    (folder / "folder").mkdir()
    (folder / "text.wav").write_text("dear diary, today I recorded nothing\n" * 10)
    (folder / "empty.wav").touch()
    (folder / "cut.wav").write_bytes((folder / "noisy.wav").read_bytes()[:1000])
    before = names(folder)
    result = sbm("enhance", source, "-o", "clean.wav", "-m", model_file)
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith(message)
    assert "Traceback" not in result.err
    assert names(folder) == before


def test_an_unknown_model_is_one_message(sbm: Any, folder: Path, bundle: Any) -> None:
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "--model", "smal")
    assert result.status == 1
    assert result.err.startswith("sbm: unknown model 'smal', did you mean 'small'?\n     Choose one of small")
    assert not (folder / "clean.wav").exists()


def test_a_model_whose_configuration_says_too_much_is_refused(sbm: Any, folder: Path, model_file: Path) -> None:
    shutil.copy(model_file, "mine.safetensors")
    config = json.loads(model_file.with_suffix(".json").read_text())
    Path("mine.json").write_text(json.dumps(config | {"import": "os"}))
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "--model", "mine.safetensors")
    assert result.status == 1
    assert result.err.startswith("sbm: mine.json: unknown key 'import'")
    assert not (folder / "clean.wav").exists()


def test_an_output_folder_that_is_not_there(sbm: Any, folder: Path, model_file: Path) -> None:
    result = sbm("enhance", "noisy.wav", "-o", "absent/clean.wav", "-m", model_file)
    assert result.status == 1
    assert "absent" in result.err and "Traceback" not in result.err
    assert names(folder) == {"noisy.wav"}


@pytest.mark.parametrize(
    ("device", "status", "message"),
    [
        ("gpu", 2, "sbm: invalid value for --device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("cuda:99", 1, "sbm: no device cuda:99: torch sees "),
    ],
)
def test_devices_that_are_not_there(sbm: Any, folder: Path, device: str, status: int, message: str) -> None:
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "--device", device)
    assert result.status == status
    assert result.err.startswith(message)


def test_options_reach_the_enhancer(sbm: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Fake:
        def enhance_file(self, source: Path, target: Path, options: Options, **how: Any) -> FileReport:
            asked.update(source=source, target=target, options=options, **how)
            how["progress"](1.0, 2.0)
            levels = Levels(-20.1, -22.4, None, None)
            where = str(source), str(target), 16000, 1, 32000, 2.0, 0.5, 0.25, 7, 8000.0, "m", options
            return FileReport(*where, levels=levels, loudness=-16.04)

    def load(model: str | None, device: str, threads: int | None, **_: object) -> Fake:
        asked.update(model=model, device=device, threads=threads)
        return Fake()

    monkeypatch.setattr(Enhancer, "load", load)
    monkeypatch.setattr("sbm_cli.cli.enhance._check_format", lambda *_: None)  # no format takes all these options
    options = "--overwrite --model m --device cpu --threads 3 --subtype FLOAT --clip-mode none --replace-nan"
    options += (
        " --attenuation-limit 12 --rate 8000 --mono --steps 5 --sampler sde --seed 3 --dtype bfloat16"
        " --no-keep-high-band --dereverb 0.4 --bit-rate 96k"
    )
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", *options.split())
    assert result.status == 0
    del asked["progress"]
    assert asked == {
        "source": Path("noisy.wav"),
        "target": Path("clean.wav"),
        "model": "m",
        "device": "cpu",
        "threads": 3,
        "overwrite": True,
        "options": Options(
            attenuation_limit=12.0,
            dereverb=0.4,
            steps=5,
            sampler="sde",
            seed=3,
            dtype="bfloat16",
            keep_high_band=False,
            rate=8000,
            mono=True,
            subtype="FLOAT",
            bit_rate=96_000,
            clip_mode="none",
            replace_nan=True,
        ),
    }
    assert result.err == (
        "sbm: warning: clean.wav: 7 samples beyond full scale\n"
        "     --clip-mode rescale lowers the whole file instead; --subtype FLOAT keeps them.\n"
        "noisy.wav -> clean.wav\n"
        "    2.0 s of audio in 0.5 s (RTF 0.25)\n"
        "    speech -20 -> -22 dBFS, loudness -16.0 LUFS\n"
    )


@pytest.mark.parametrize("command", [enhance.enhance, batch.batch])
def test_defaults_are_those_of_the_enhancer(command: Any) -> None:
    here = inspect.signature(for_typer(command)).parameters
    options = inspect.signature(Options).parameters
    there = {
        **inspect.signature(Enhancer.load).parameters,
        **inspect.signature(Enhancer.enhance_file).parameters,
        **options,
    }
    shared = set(here) & set(there)
    assert shared == {"model", "device", "threads", "overwrite", *options}
    assert {name: here[name].default for name in shared} == {name: there[name].default for name in shared}


@pytest.mark.parametrize(
    ("rate", "options", "limit"),
    [
        (16000, "", None),
        (44100, "", None),
        (44100, "--no-keep-high-band", 8000),
        (44100, "--no-keep-high-band --rate 16000", None),
        (44100, "--no-keep-high-band --strength .5", None),
        (8000, "--no-keep-high-band --rate 44100", None),
    ],
)
def test_where_the_output_ends_is_reported(
    sbm: Any, folder: Path, model_file: Path, rate: int, options: str, limit: int | None
) -> None:
    soundfile.write("a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 4000), rate)
    result = sbm("enhance", "a.wav", "-m", model_file, "--json", *options.split())
    assert result.status == 0 and json.loads(result.out)["band_limit"] == limit


def test_several_inputs_into_a_folder(sbm: Any, folder: Path, model_file: Path) -> None:
    shutil.copy("noisy.wav", "second.wav")
    (folder / "third.wav").write_text("nothing to hear")
    result = sbm("enhance", "*.wav", "-o", "out", "-m", model_file, "--json")
    assert result.status == 1
    assert names(folder / "out") == {"noisy.wav", "second.wav"}
    assert result.err.startswith("sbm: third.wav: not a sound file")
    assert result.err.endswith("sbm: 1 of 3 files failed: third.wav\n")
    assert [report["source"] for report in json.loads(result.out)] == ["noisy.wav", "second.wav"]


def test_what_exists_is_skipped_if_asked(sbm: Any, folder: Path, model_file: Path) -> None:
    shutil.copy("noisy.wav", "second.wav")
    (folder / "out").mkdir()
    (folder / "out" / "noisy.wav").write_bytes(b"dear to me")
    arguments = ["enhance", "noisy.wav", "second.wav", "-o", "out", "-m", model_file]
    refused = sbm(*arguments)
    assert refused.status == 1 and "sbm: 1 of 2 files failed: noisy.wav\n" in refused.err
    (folder / "out" / "second.wav").unlink()
    result = sbm(*arguments, "-n")
    assert result.status == 0 and result.err.startswith("out/noisy.wav exists, skipped\n")
    assert (folder / "out" / "noisy.wav").read_bytes() == b"dear to me"
    assert soundfile.info("out/second.wav").frames == 8000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["noisy.wav", "copy/noisy.wav", "-o", "out"], 1, "sbm: noisy.wav and copy/noisy.wav would both become "),
        (
            ["noisy.wav", "noisy.flac", "--ext", "wav", "-y"],
            1,
            "sbm: noisy.wav and noisy.flac would both become noisy-clean.wav",
        ),
        (["noisy.wav", "other.wav", "-o", "."], 1, "sbm: noisy.wav would be overwritten."),
        (["noisy.wav", "other.wav", "-o", "other.wav"], 2, "sbm: invalid value for --output: other.wav is a file; "),
        (
            ["noisy.wav", "other.wav", "-o", "one.wav"],
            2,
            "sbm: invalid value for --output: one.wav looks like a file, ",
        ),
        (
            ["noisy.wav", "-o", "clean.wav", "-y", "--spectrogram", "./clean.wav"],
            1,
            "sbm: clean.wav is also the input or the output",
        ),
        (
            ["noisy.wav", "-o", "clean.wav", "-y", "--spectrogram", "noisy.wav"],
            1,
            "sbm: noisy.wav is also the input or the output",
        ),
        (
            ["noisy.wav", "--name", "{name}{ext}"],
            2,
            "sbm: invalid value for --name: expected a name with no fields but {stem} and",
        ),
        (["noisy.wav", "-o", "a.wav", "--name", "{stem}{ext}"], 2, "sbm: invalid value for --name: a.wav has a name"),
        (["*.mp3", "-o", "out"], 1, "sbm: *.mp3: no such file or folder"),
        (["own", "talk.wav"], 1, "sbm: own: no such file or folder\n     Put a name with spaces in quotes: 'own talk"),
        (["-"], 2, "sbm: invalid value for --output: give a file, or - for stdout"),
        (["noisy.wav", "--strength", "1.5"], 2, "sbm: invalid value for '--strength': expected 0 (the input) to 1 "),
        (["noisy.wav", "--strength", "50%"], 2, "sbm: invalid value for '--strength': expected 0 (the input) to 1 "),
        (["noisy.wav", "--bit-rate", "128"], 2, "sbm: invalid value for '--bit-rate': expected 128k or 128000"),
        (["noisy.wav", "--bit-rate", "128k"], 2, "sbm: noisy-clean.wav: WAV PCM_24 at 16000 Hz has no bit rate"),
        (["noisy.wav", "--subtype", "PCM_17"], 2, "sbm: noisy-clean.wav: WAV has no subtype PCM_17"),
        (["noisy.wav", "-o", "a.xyz"], 2, "sbm: a.xyz: no sound format for suffix .xyz"),
        (["noisy.wav", "-o", "no/a.mp4"], 1, "sbm: no: no such folder.\n     Make it first: mkdir -p no"),
        (
            ["noisy.wav", "--loudness", "16"],
            2,
            "sbm: invalid value for '--loudness': expected at most 0, got 16, did you mean -16?\n",
        ),
        (["noisy.wav", "--steps", "0"], 2, "sbm: invalid value for '--steps': expected at least 1, got 0\n"),
        (["noisy.wav", "--seed", "x"], 2, "sbm: invalid value for '--seed': expected a whole number, got x\n"),
        (["noisy.wav", "--loudness", "-16", "--clip-mode", "rescale"], 2, "sbm: invalid value: clip mode rescale and "),
        (["noisy.wav", "-o", "clean.wav", "--ext", "flac"], 2, "sbm: invalid value for --ext: clean.wav has a suffix"),
        (["noisy.wav", "-o", "out/", "--ext", "raw"], 2, "sbm: invalid value for --ext: unknown format 'raw'; "),
        (["noisy.wav", "-o", "-", "--json"], 2, "sbm: invalid value for --json, --output: only one of them "),
        (["noisy.wav", "other.wav", "-o", "-"], 2, "sbm: invalid value for --output: 2 inputs need a folder"),
        (
            ["noisy.wav", "other.wav", "-o", "out", "--spectrogram", "a.png"],
            2,
            "sbm: invalid value for --spectrogram: ",
        ),
        (
            ["noisy.wav", "-o", "clean.wav", "--spectrogram", "no/a.png"],
            1,
            "sbm: no: no such folder.\n     Make it first: mkdir -p no",
        ),
        (["noisy.wav", "-o", "-", "--spectrogram", "a.png"], 2, "sbm: invalid value for --spectrogram: needs exactly "),
        (
            ["noisy.wav", "-", "-o", "out"],
            2,
            "sbm: invalid value for INPUT: - (stdin) cannot be combined with other inputs",
        ),
        (["-", "-o", "copy"], 2, "sbm: invalid value for --output: stdin has no name to use in the folder copy; "),
        (
            ["noisy.wav", "-o", "clean.wav", "--raw", "16000"],
            2,
            "sbm: invalid value for --raw: raw samples are read from stdin",
        ),
        (
            ["-", "-o", "clean.wav", "--raw", "16000:s16"],
            2,
            "sbm: invalid value for --raw: expected RATE[:CHANNELS[:SUBTYPE]], such as 16000:1:PCM_16, ",
        ),
        (
            ["-", "-o", "clean.wav", "--raw", "16000:1:ALAC_16"],
            2,
            "sbm: invalid value for --raw: unknown SUBTYPE 'ALAC_16'; choose one of ",
        ),
        (
            ["-", "-o", "clean.wav", "--raw", "16000:1:s16"],
            2,
            "sbm: invalid value for --raw: unknown SUBTYPE 's16'; choose one of ",
        ),
        (["noisy.wav", "-o", "clean.wav", "-y", "-n"], 2, "sbm: invalid value for --overwrite, --skip-existing: "),
        (["noisy.wav", "-o", "clean.wav", "--strength", "1.5"], 2, "sbm: invalid value for '--strength': "),
        (["noisy.wav", "-o", "clean.wav", "--strength", ".5", "--attenuation-limit", "6"], 2, "sbm: invalid value: "),
    ],
)
def test_inputs_and_outputs_that_do_not_go_together(
    sbm: Any, folder: Path, piped: Piped, arguments: list[str], status: int, message: str
) -> None:
    piped.give(b"")
    (folder / "copy").mkdir()
    for name in ("other.wav", "own talk.wav", "copy/noisy.wav", "noisy.flac"):
        shutil.copy("noisy.wav", name)
    result = sbm("enhance", *arguments)
    assert result.status == status
    assert result.err.startswith(message)
    assert "clean.wav" not in names(folder)


def test_a_folder_of_another_format(sbm: Any, folder: Path, model_file: Path) -> None:
    assert sbm("enhance", "noisy.wav", "-o", "out/", "-m", model_file, "--ext", "FLAC").status == 0
    assert names(folder / "out") == {"noisy.flac"}


def test_a_picture_of_before_and_after(
    sbm: Any, folder: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    arguments = ["enhance", "noisy.wav", "-o", "noisy.wav", "-y", "-m", model_file, "--rate", "8000"]
    assert sbm(*arguments, "--spectrogram", "a.png").err.endswith("    spectrograms: a.png\n")
    picture = np.asarray(Image.open("a.png").convert("L")).astype(float)
    upper, lower = np.split(picture[: len(picture) // 2 * 2], 2)
    assert upper[40:170].mean() > 3 * lower[40:170].mean()  # above 4 kHz there was noise, and is nothing
    before = (folder / "a.png").read_bytes()
    refused = sbm("enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file, "--spectrogram", "a.png")
    assert refused.status == 1 and refused.err.startswith("sbm: a.png exists.")
    assert (folder / "a.png").read_bytes() == before and names(folder) == {"noisy.wav", "a.png"}

    def appears(*_: object) -> None:
        (folder / "c.png").write_bytes(b"dear to me")

    with monkeypatch.context() as patch:
        patch.setattr("sbm_cli.evaluation.spectrogram.draw", appears)
        late = sbm("enhance", "noisy.wav", "-o", "late.wav", "-m", model_file, "--spectrogram", "c.png")
    assert late.status == 1 and late.err.startswith("sbm: c.png has appeared meanwhile.")
    assert (folder / "c.png").read_bytes() == b"dear to me"
    for name in ("c.png", "late.wav"):
        (folder / name).unlink()
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = sbm("enhance", "noisy.wav", "-o", "clean.wav", "-m", model_file, "--spectrogram", "b.png")
    assert result.status == 1 and "sbm-cli[plot]" in result.err and names(folder) == {"noisy.wav", "a.png"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_leaves_nothing_half_written(folder: Path, model_file: Path, number: signal.Signals) -> None:
    soundfile.write("long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 600), 16000)
    command = [sys.executable, "-m", "sbm_cli", "enhance", "long.wav", "-o", "clean.wav", "-m", str(model_file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.glob(".sbm-*.part")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1]) == (130, "sbm: interrupted")
    assert names(folder) == {"noisy.wav", "long.wav"}


def test_keep_room_is_no_dereverberation(sbm: Any, tmp_path: Path, noisy: Path) -> None:
    result = sbm("enhance", noisy, "-o", tmp_path / "out.wav", "--keep-room", "--model", "sbm-tiny")
    assert result.status == 1 and "sbm-tiny was not trained to keep the room." in result.err
    assert sbm("enhance", noisy, "-o", tmp_path / "out.wav", "--keep-room", "--quiet").status == 0
    assert sbm("enhance", noisy, "-o", tmp_path / "out.wav", "--dereverb", "2").status == 2
