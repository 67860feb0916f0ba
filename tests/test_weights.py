"""The shipped weights, on the shipped recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sbm_cli import hub
from sbm_cli.enhancer import Enhancer
from sbm_cli.model import Model
from sbm_cli.options import Options

EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy.wav"


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return Enhancer.load()


@pytest.fixture(scope="module")
def noisy() -> np.ndarray:
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    assert rate == 16000
    return np.asarray(samples)


def levels(samples: np.ndarray) -> np.ndarray:
    """Return the level of each 20-ms frame in dBFS, quiet to loud."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    return np.sort(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12))


def test_noise_goes_and_speech_stays(enhancer: Enhancer, noisy: np.ndarray) -> None:
    before, after = levels(noisy), levels(enhancer.enhance(noisy, 16000))
    falls = {percent: np.percentile(before, percent) - np.percentile(after, percent) for percent in (5, 98)}
    assert falls[5] > 20  # dB, in pauses
    assert falls[98] < 9  # where speech is loud: noise and reflections are a part of it too


@pytest.mark.parametrize("size", [100, 1777, 40000])
def test_stream_equals_whole(enhancer: Enhancer, noisy: np.ndarray, size: int) -> None:
    stream = enhancer.stream(16000, options=Options(warm_up=True))
    parts = [stream.feed(noisy[i : i + size]) for i in range(0, len(noisy), size)]
    streamed = np.concatenate([*parts, stream.flush()])
    np.testing.assert_allclose(streamed, enhancer.enhance(noisy, 16000), atol=1e-5)


def test_loudness_of_the_input_hardly_matters(enhancer: Enhancer, noisy: np.ndarray) -> None:
    """20 dB quieter in is 20 dB quieter out: the level before the network takes it away."""
    loud, quiet = enhancer.enhance(noisy, 16000), 10 * enhancer.enhance(0.1 * noisy, 16000)
    assert np.sum((loud - quiet) ** 2) < 1e-3 * np.sum(loud**2)


@pytest.mark.parametrize(("name", "most"), [("sbm-tiny", 300_000), ("sbm-live", 1_100_000), ("sbm-small", 1_100_000)])
def test_size_is_what_the_model_card_says(name: str, most: int) -> None:
    network = Model.load(hub.resolve(name)).network
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, network.fold())]
    assert counts[0] <= most
    card = (Path(__file__).parent.parent / "docs" / "models" / f"{name}.md").read_text()
    for count in counts:
        assert f"{count:,}".replace(",", " ") in card


def bang(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    burst = 0.9 * np.random.default_rng(0).uniform(-1, 1, 1600).astype(np.float32)
    pause = np.zeros(4000, np.float32)
    return np.concatenate([pause, burst, pause, 0.1 * speech]), np.concatenate([pause, 0 * burst, pause, 0.1 * speech])


def soft_talker(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft = speech[::-1] * np.float32(10 ** (-30 / 20))
    return np.concatenate([speech, soft]), soft


def offset(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.1 * speech + np.float32(0.1), 0.1 * speech


def soft_channel(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft = speech[::-1] * np.float32(10 ** (-36 / 20))
    return np.stack([speech, soft]), soft


@pytest.mark.parametrize("case", [bang, soft_talker, offset, soft_channel])
def test_what_is_loud_does_not_lower_what_is_soft(
    case: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], enhancer: Enhancer, noisy: np.ndarray
) -> None:
    """The soft speech comes out within 3 dB of where it comes out alone (benchmarks/conditions.py has more speech)."""
    disturbed, plain = case(enhancer.enhance(noisy, 16000))
    found, expected = (np.atleast_2d(enhancer.enhance(x, 16000))[-1][-len(noisy) :] for x in (disturbed, plain))
    assert abs(20 * np.log10(found @ expected / (expected @ expected))) < 3


@pytest.mark.parametrize("name", ["sbm-tiny", "sbm-live", "sbm-small"])
def test_an_offset_does_not_lower_speech(name: str, enhancer: Enhancer, noisy: np.ndarray) -> None:
    """Whether the model's level counts what lies below 80 Hz, as sbm-tiny's does, or not."""
    speech, model = 0.1 * enhancer.enhance(noisy, 16000), Enhancer.load(name)
    found, expected = model.enhance(speech + np.float32(0.5), 16000), model.enhance(speech, 16000)
    assert abs(20 * np.log10(found @ expected / (expected @ expected))) < 1
