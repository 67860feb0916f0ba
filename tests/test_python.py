"""What the package offers to programs: names, errors, files in memory, logs."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import sbm_cli
from sbm_cli import AudioError, AudioFormat, Enhancer, Options, Pipe, SbmError
from sbm_cli.cli.shared import errors

NOISY = np.random.default_rng(0).uniform(-0.1, 0.1, (16000, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return Enhancer.load("sbm-tiny", device="cpu")


def test_all_names_are_there() -> None:
    for name in sbm_cli.__all__:
        assert getattr(sbm_cli, name) is not None
    family = [value for name in sbm_cli.__all__ if isinstance(value := getattr(sbm_cli, name), type)]
    errors_there = {each for each in family if issubclass(each, Exception)}
    assert errors_there == {SbmError, *SbmError.__subclasses__()}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a"])
def test_files_in_memory_are_files(enhancer: Enhancer, tmp_path: Path, suffix: str) -> None:
    source, target = io.BytesIO(), io.BytesIO()
    soundfile.write(source, NOISY, 16000, format="FLAC")
    report = enhancer.enhance_file(source, Pipe(target, suffix))
    (tmp_path / "noisy.flac").write_bytes(source.getvalue())
    enhancer.enhance_file(tmp_path / "noisy.flac", tmp_path / f"clean{suffix}")
    (tmp_path / f"memory{suffix}").write_bytes(target.getvalue())
    found, expected = (sbm_read(tmp_path / f"{name}{suffix}") for name in ("memory", "clean"))
    np.testing.assert_array_equal(found, expected)
    assert (report.source, report.samples, report.channels) == ("-", 16000, 2)


def sbm_read(path: Path) -> np.ndarray:
    from sbm_cli.audio.io import SoundReader

    with SoundReader(path) as reader:
        return np.concatenate(list(reader.blocks(4000)), axis=1)


def test_a_plain_file_object_becomes_a_wav(enhancer: Enhancer) -> None:
    source, target = io.BytesIO(), io.BytesIO()
    soundfile.write(source, NOISY, 16000, format="WAV")
    enhancer.enhance_file(source, target)
    target.seek(0)
    assert soundfile.info(target).format == "WAV"


def test_text_and_names_without_a_dot_are_no_pipes(enhancer: Enhancer) -> None:
    for wrong in (io.StringIO(), None):
        with pytest.raises(ValueError, match="binary mode"):
            Pipe(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must begin with a dot, such as .flac, got 'flac'"):
        Pipe(io.BytesIO(), "flac")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": "0.5"}, "strength must be a number, got '0.5'"),
        ({"strength": None}, "strength must be a number, got None"),
        ({"rate": "16000"}, "rate must be a number"),
        ({"mono": "no"}, "mono must be True or False, got 'no'"),
        ({"keep_high_band": None}, "keep_high_band must be True or False"),
    ],
)
def test_options_of_another_type_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


@pytest.mark.parametrize(
    "option", [{"loudness": -30}, {"audio_stream": 1}, {"clip_mode": "rescale"}, {"bit_rate": 64000}]
)
def test_arrays_refuse_the_options_of_files(enhancer: Enhancer, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name}: for files only"):
        enhancer.enhance(NOISY.T, 16000, Options(**option))


def test_bare_samples_are_read_through_a_pipe(enhancer: Enhancer) -> None:
    source = io.BytesIO((NOISY[:, 0] * 32767).astype("<i2").tobytes())
    raw = AudioFormat(16000, 1, None, "RAW", "PCM_16")
    assert enhancer.enhance_file(Pipe(source, raw=raw), io.BytesIO()).samples == 16000


def test_options_are_no_dictionary(enhancer: Enhancer) -> None:
    wrong: Any = {"strength": 0.5}
    for call in (lambda: enhancer.enhance(NOISY.T, 16000, wrong), lambda: enhancer.enhance_file("a", "b", wrong)):
        with pytest.raises(ValueError, match="options must be an Options, such as"):
            call()


def test_it_shows_model_and_device(enhancer: Enhancer) -> None:
    assert repr(enhancer) == "<Enhancer sbm-tiny on cpu>"


def test_a_missing_file_has_a_hint(enhancer: Enhancer, tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        enhancer.enhance_file(tmp_path / "none.wav", tmp_path / "clean.wav")
    assert caught.value.hint == f"Check the path; relative ones start at {Path.cwd()}."


def test_no_limit_is_none_which_json_takes() -> None:
    assert Options(attenuation_limit=float("inf")) == Options()


def test_numbers_of_numpy_are_numbers() -> None:
    assert Options(strength=np.float32(0.5), rate=np.int64(8000), attenuation_limit=None).rate == 8000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads must be a whole number from 1, got 0"),
        ({"threads": 1.5}, "threads must be a whole number from 1, got 1.5"),
        ({"device": "gpu"}, "expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_loading_checks_its_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Enhancer.load("sbm-tiny", **wrong)


def test_hints_name_arguments_here_and_options_there(enhancer: Enhancer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noisy.wav", NOISY, 16000)
    with pytest.raises(AudioError) as caught:
        enhancer.enhance_file(tmp_path / "noisy.wav", tmp_path / "clean.amr")
    assert caught.value.hint == "Use `mono=True, rate=8000`, or choose another format, such as .wav or .flac."
    told = errors.describe(caught.value).hint
    assert told == "Use --mono --rate 8000, or choose another format, such as .wav or .flac."
    kept = pickle.loads(pickle.dumps(caught.value))
    assert (kept.message, kept.hint) == (caught.value.message, caught.value.hint)
    if hasattr(kept, "add_note"):
        assert kept.hint in "".join(traceback.format_exception(kept))


def test_logs_are_silent_until_they_are_wanted(
    enhancer: Enhancer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("sbm_cli")
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    source = io.BytesIO()
    soundfile.write(source, NOISY, 16000, format="WAV")
    enhancer.enhance_file(source, io.BytesIO())
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, logger="sbm_cli"):
        enhancer.enhance_file(source, io.BytesIO())
        Enhancer.load("sbm-tiny", device="cpu")
    assert [record.name for record in caplog.records] == ["sbm_cli.files", "sbm_cli.enhancer"]
