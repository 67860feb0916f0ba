"""File to file, alone and side by side: what comes out, and what is left where something fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import AudioError, OutputExistsError
from sbm_cli.files import FileReport
from sbm_cli.options import Options
from tests.test_enhancer import make, sound

KINDS = [  # seconds, rate, channels
    (1.3, 16000, 1),
    (2.2, 44100, 2),
    (0.0, 16000, 1),
    (0.3, 8000, 1),
    (2.0, 48000, 1),
]


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return make()


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("mono.wav", 16000, 1, "PCM_16"),
        ("stereo.wav", 44100, 2, "PCM_16"),
        ("deep.wav", 48000, 1, "PCM_24"),
        ("telephone.wav", 8000, 1, "ULAW"),
        ("float.wav", 22050, 1, "FLOAT"),
        ("seven.wav", 16000, 7, "PCM_16"),
        ("sound.flac", 44100, 2, "PCM_16"),
        ("sound.mp3", 44100, 2, "MPEG_LAYER_III"),
        ("sound.ogg", 48000, 2, "VORBIS"),
        ("sound.opus", 48000, 1, "OPUS"),
        ("sound.aiff", 16000, 1, "PCM_16"),
    ],
)
def test_file_comes_out_as_what_it_went_in(
    enhancer: Enhancer, tmp_path: Path, name: str, rate: int, channels: int, subtype: str
) -> None:
    source, target = tmp_path / name, tmp_path / "out" / name
    target.parent.mkdir()
    ogg = {"format": "OGG"} if name.endswith(".opus") else {}
    soundfile.write(source, sound(rate // 2 + 7, channels).T, rate, subtype=subtype, **ogg)
    report = enhancer.enhance_file(source, target)
    before, after = soundfile.info(source), soundfile.info(target)
    for field in ("samplerate", "channels", "frames", "format", "subtype"):
        assert getattr(before, field) == getattr(after, field), field
    assert (report.samples, report.rate, report.channels) == (before.frames, rate, channels)
    if subtype in ("PCM_24", "FLOAT"):
        noisy, _ = soundfile.read(source, dtype="float32", always_2d=True)
        clean, _ = soundfile.read(target, dtype="float32", always_2d=True)
        np.testing.assert_allclose(clean.T, enhancer.enhance(noisy.T, rate), atol=1e-5)


def test_empty_file_stays_empty(enhancer: Enhancer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44100)
    report = enhancer.enhance_file(tmp_path / "empty.wav", tmp_path / "out.wav")
    assert (report.samples, report.rtf) == (0, 0.0)
    assert soundfile.info(tmp_path / "out.wav").frames == 0


def test_loud_output_is_clamped_rescaled_or_kept(tmp_path: Path) -> None:
    enhancer = make(perturbed=False)
    enhancer.model.network.head.bias[0] = 3.0  # gain 3, complex and compressed: 9 in amplitude
    soundfile.write(tmp_path / "in.wav", sound(8000)[0], 16000)
    peaks = {}
    for mode in ("clamp", "rescale", "none"):
        report = enhancer.enhance_file(tmp_path / "in.wav", tmp_path / f"{mode}.wav", Options(clip_mode=mode))
        peaks[mode] = np.abs(soundfile.read(tmp_path / f"{mode}.wav")[0]).max()
        assert (report.clipped > 0) == (mode != "rescale")
    assert peaks["clamp"] == peaks["none"] == pytest.approx(1, abs=1e-4) and peaks["rescale"] == pytest.approx(
        1, abs=1e-3
    )
    report = enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "float.wav", Options(subtype="FLOAT"))
    assert report.clipped == 0 and np.abs(soundfile.read(tmp_path / "float.wav")[0]).max() > 1.5


@pytest.mark.parametrize(("asked", "notes"), [(24_000, ()), (1_000_000, ("160 kbit/s is the most at 16000 Hz",))])
def test_a_bit_rate_beyond_the_highest_is_told(
    enhancer: Enhancer, tmp_path: Path, asked: int, notes: tuple[str, ...]
) -> None:
    soundfile.write(tmp_path / "in.wav", sound(16000).T, 16000)
    report = enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "out.mp3", Options(bit_rate=asked))
    assert report.notes == notes


def test_the_levels_before_are_those_of_the_input(enhancer: Enhancer, tmp_path: Path) -> None:
    noisy = sound(48000, 2) * np.repeat([1, 0.01, 0.5], 16000)
    soundfile.write(tmp_path / "in.wav", (noisy * [[1], [0.3]]).T, 16000)
    before = set()
    for number, options in enumerate(
        [{}, {"mono": True}, {"link_channels": False}, {"rate": 8000}, {"strength": 0.2}, {"loudness": -30.0}]
    ):
        levels = enhancer.enhance_file(tmp_path / "in.wav", tmp_path / f"{number}.wav", Options(**options)).levels
        assert levels is not None
        before.add((levels.speech_before, levels.pauses_before))
    assert len(before) == 1


def break_off(done: float, seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.unlink(), AudioError),
        (lambda path: path.write_text("no sound"), AudioError),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), AudioError),
        (lambda path: None, KeyboardInterrupt),
    ],
    ids=["missing", "text", "truncated", "interrupted"],
)
def test_failure_leaves_nothing_behind(
    enhancer: Enhancer, tmp_path: Path, spoil: Callable[[Path], object], error: type[BaseException]
) -> None:
    source, out = tmp_path / "in.wav", tmp_path / "out"
    out.mkdir()
    soundfile.write(source, sound(40000)[0], 16000)
    spoil(source)
    with pytest.raises(error):
        enhancer.enhance_file(source, out / "clean.wav", progress=break_off if error is KeyboardInterrupt else None)
    assert list(out.iterdir()) == []


def test_existing_output_is_kept_unless_told_otherwise(enhancer: Enhancer, tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    soundfile.write(source, sound(4000)[0], 16000)
    before = source.read_bytes()
    with pytest.raises(OutputExistsError):
        enhancer.enhance_file(source, source)
    assert source.read_bytes() == before
    enhancer.enhance_file(source, source, overwrite=True)
    assert source.read_bytes() != before and soundfile.info(source).frames == 4000


def write_all(folder: Path) -> list[tuple[Path, Path]]:
    """Write a file of every kind; return them as sources, and targets that are not there yet."""
    pairs = []
    for number, (seconds, rate, channels) in enumerate(KINDS):
        source = folder / f"{number}.wav"
        soundfile.write(source, (1 + number) / 5 * sound(round(seconds * rate), channels).T, rate, subtype="FLOAT")
        pairs.append((source, folder / f"{number}.clean.wav"))
    return pairs


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(strength=0.5),
        Options(keep_high_band=False),
        Options(steps=2, sampler="sde"),
        Options(rate=22050, mono=True),
        Options(clip_mode="rescale", subtype="PCM_16"),
        Options(loudness=-20),
    ],
    ids=str,
)
def test_files_side_by_side_come_out_as_alone(options: Options, tmp_path: Path) -> None:
    enhancer = make()
    pairs = write_all(tmp_path)
    told: list[tuple[int, float, float]] = []
    reports = enhancer.enhance_files(pairs, options, progress=lambda *what: told.append(what))
    for number, ((source, target), report) in enumerate(zip(pairs, reports, strict=True)):
        assert isinstance(report, FileReport)
        alone = enhancer.enhance_file(source, source.with_suffix(".alone.wav"), options)
        assert replace(report, elapsed=0, rtf=0, target="") == replace(alone, elapsed=0, rtf=0, target="")
        ours, theirs = (soundfile.read(path)[0] for path in (target, alone.target))
        np.testing.assert_allclose(ours, theirs, atol=2**-14 if options.subtype else 1e-5)
        assert [done for index, done, _ in told if index == number][-1:] == ([KINDS[number][0]] if len(ours) else [])


def test_a_file_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    enhancer = make()
    pairs = write_all(tmp_path)
    pairs[0][0].write_bytes(b"RIFF")
    pairs[1][1].write_bytes(b"here before")
    broken = soundfile.read(pairs[4][0])[0]
    broken[-1] = np.nan  # found when all is read
    soundfile.write(pairs[4][0], broken, 48000, subtype="FLOAT")
    results = enhancer.enhance_files(pairs)
    assert [type(result) for result in results] == [AudioError, OutputExistsError, FileReport, FileReport, AudioError]
    assert pairs[1][1].read_bytes() == b"here before"
    assert {path.name for path in tmp_path.glob("*clean*")} == {"1.clean.wav", "2.clean.wav", "3.clean.wav"}
    assert not list(tmp_path.glob(".sbm*"))


def test_where_memory_runs_out_half_as_many_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enhancer = make()
    monkeypatch.setattr(enhancer.model, "plan", lambda *_: None)  # as on a GPU
    pairs = write_all(tmp_path)
    batches: list[int] = []
    whole = enhancer.model.folded().forward

    def narrow(state: torch.Tensor, *others: Any) -> Any:
        batches.append(len(state))
        if len(state) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(state, *others)

    monkeypatch.setattr(enhancer.model.folded(), "forward", narrow)
    results = enhancer.enhance_files(pairs)  # of 6 channels in all
    assert all(isinstance(result, FileReport) for result in results)
    assert batches[0] == 6 and batches[1] == 3 and max(batches[2:]) == 2
    assert not list(tmp_path.glob(".sbm*"))
    batches.clear()
    monkeypatch.setattr(enhancer.model.folded(), "forward", lambda *_: narrow(torch.zeros(3)))
    (result,) = enhancer.enhance_files([(pairs[0][0], tmp_path / "never.wav")])
    assert isinstance(result, torch.OutOfMemoryError) and not (tmp_path / "never.wav").exists()
