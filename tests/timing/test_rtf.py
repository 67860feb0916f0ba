"""The timing protocol: what is timed, counted and reported."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import AudioError, SbmError
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.timing import rtf
from sbm_cli.timing.clips import Clip, made_clips, read_clip, speech_like
from sbm_cli.timing.commands import Command
from sbm_cli.timing.machine import machine, peak_memory

COPY = (sys.executable, "-c", "import shutil, sys; shutil.copy(*sys.argv[1:])", "{in}", "{out}")


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    torch.manual_seed(0)
    small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)
    return Enhancer(Model(OSpatialNet(small), ModelConfig("small", network=small)))


def test_every_round_times_every_system_on_every_clip(enhancer: Enhancer) -> None:
    heard: list[int] = []

    def clips(number: int) -> list[Clip]:
        heard.append(number)
        return made_clips([0.3, 0.5], enhancer.config.rate, number)

    done: list[tuple[float, float]] = []
    report = rtf.benchmark(
        enhancer,
        clips,
        2,
        [Command("copy", COPY)],
        scan="cpu",
        import_seconds=1.0,
        load_seconds=2.0,
        progress=lambda *seconds: done.append(seconds),
    )
    assert heard == [0, 0, 1, 2]  # one counts the calls of the network, one warms up
    assert [(row.clip, row.system, row.seconds) for row in report.rows] == [
        ("0.3 s", "small", 0.3),
        ("0.3 s", "copy", 0.3),
        ("0.5 s", "small", 0.5),
        ("0.5 s", "copy", 0.5),
    ]
    for row in report.rows:
        assert 0 < row.least <= row.median <= row.most
        assert row.rtf == pytest.approx(max(0, row.median - row.start) / row.seconds)
        assert (row.start > 0) == (row.system == "copy")
    assert done == [pytest.approx((0.8 * number, 2.4)) for number in (1, 2, 3)]
    assert (report.passes, report.dtype, report.threads, report.device) == (1, "float32", 1, "cpu")
    assert report.parameters == sum(parameter.numel() for parameter in enhancer.model.folded().parameters())
    json.dumps(dataclasses.asdict(report), allow_nan=False)
    text = rtf.to_markdown(report)
    for words in (
        machine().split(",")[0],
        "scan cpu",
        "median of 2 rounds",
        "imports 1.00 s, model 2.00 s",
        "| copy |",
    ):
        assert words in text


def test_the_first_round_and_the_start_of_a_program_do_not_count(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100, 100, 100, 100, 2, 3, 6, 7, 2, 5, 4, 9])  # a round: start, clip; each: ours, the program

    monkeypatch.setattr(rtf, "timed", lambda work, enhancer: float(next(times)))
    rounds = [made_clips([2.0], 16000, number) for number in range(3)]
    ours, other = rtf.measure(enhancer, rounds, 3, [Command("other", COPY)])
    assert (ours.median, ours.start, ours.rtf) == (5, 0, 2.5)
    assert (other.median, other.least, other.most, other.start, other.rtf) == (8, 7, 9, 4, 2)


def test_timed_is_wall_time(enhancer: Enhancer) -> None:
    assert 0.02 <= rtf.timed(lambda: time.sleep(0.02), enhancer) < 0.5


@pytest.mark.parametrize("rate", [16000, 44100])
def test_one_step_sends_every_frame_once_through_the_network(enhancer: Enhancer, rate: int) -> None:
    clip = Clip("two channels", np.stack([speech_like(2.5, rate, seed) for seed in range(2)]), rate)
    passes, calls = rtf.network_passes(enhancer, clip)
    assert passes == 1
    assert calls >= 3  # blocks of a second
    assert not enhancer.model.folded()._forward_hooks


def test_several_steps_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thrice(Enhancer):
        def enhance(self, *arguments: Any) -> np.ndarray:  # type: ignore[type-arg]
            for _ in range(2):
                super().enhance(*arguments)
            return super().enhance(*arguments)

    small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)
    thrice = Thrice(Model(OSpatialNet(small), ModelConfig("s", network=small)))
    assert rtf.network_passes(thrice, made_clips([1], 16000, 0)[0])[0] == 3


def test_latency_of_a_stream(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtf, "STREAM_SECONDS", 1.0)
    latency = rtf.stream_latency(enhancer)
    assert (latency.hop, latency.algorithmic) == (0.016, 0.032)
    assert 0 < latency.median <= latency.p99 <= latency.most


@pytest.mark.parametrize("text", ["ffmpeg", "=cp {in} {out}", "cp=cp {in}", "cp=cp {out}"])
def test_commands_need_a_name_an_input_and_an_output(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=PROGRAM"):
        Command.parse(text)


def test_commands_are_split_without_a_shell() -> None:
    parsed = Command.parse("a b='my program' -x --in={in} {out}")
    assert parsed == Command("a b", ("my program", "-x", "--in={in}", "{out}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/nowhere/program",), "/nowhere/program cannot be started"),
        ((sys.executable, "-c", "import sys; sys.exit('no licence')"), "exited with status 1"),
        ((sys.executable, "-c", ""), "wrote no output"),
    ],
)
def test_a_failing_program_is_an_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "out.wav").write_text("of the round before")
    with pytest.raises(SbmError, match=message) as caught:
        Command("other", arguments).run(tmp_path / "in.wav", tmp_path / "out.wav", 1)
    assert caught.value.message.startswith("other: ")
    assert ("no licence" in caught.value.hint) == ("status" in message)


def test_programs_are_told_the_number_of_threads(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])"
    Command("other", (sys.executable, "-c", code, "{out}")).run(tmp_path / "in.wav", tmp_path / "out.wav", 3)
    assert (tmp_path / "out.wav").read_text() == "3"


def test_clips_differ_between_rounds_and_are_never_silent() -> None:
    first, second = (made_clips([1.0, 2.0], 16000, number) for number in (0, 1))
    assert [clip.seconds for clip in first] == [1, 2]
    assert not np.array_equal(first[0].samples, second[0].samples)
    assert (np.abs(first[1].samples.reshape(-1, 400)).max(1) > 1e-4).all()
    assert np.array_equal(speech_like(1, 16000, 5), speech_like(1, 16000, 5))


def test_recordings_are_clips(tmp_path: Path) -> None:
    import soundfile

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (70000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 48000, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav")
    assert (clip.name, clip.rate) == (str(tmp_path / "a.wav"), 48000)
    assert np.array_equal(clip.samples, samples.T)
    soundfile.write(tmp_path / "none.wav", samples[:0], 48000)
    with pytest.raises(AudioError, match="none.wav"):
        read_clip(tmp_path / "none.wav")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not say how much memory a process held")
    held = np.ones(before // 4)  # twice as many bytes as the process ever held
    after = peak_memory()
    assert after is not None and after > before + held.nbytes // 4
