"""The shipped weights, on the shipped recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sbm_cli import checkpoint, hub
from sbm_cli.enhancer import Enhancer

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
    stream = enhancer.stream(16000)
    parts = [stream.feed(noisy[i : i + size]) for i in range(0, len(noisy), size)]
    streamed = np.concatenate([*parts, stream.flush()])
    np.testing.assert_allclose(streamed, enhancer.enhance(noisy, 16000), atol=1e-5)


def test_loudness_of_the_input_hardly_matters(enhancer: Enhancer, noisy: np.ndarray) -> None:
    """20 dB quieter in is 20 dB quieter out: the level before the network takes it away."""
    loud, quiet = enhancer.enhance(noisy, 16000), 10 * enhancer.enhance(0.1 * noisy, 16000)
    assert np.sum((loud - quiet) ** 2) < 1e-3 * np.sum(loud**2)


@pytest.mark.parametrize(("name", "most"), [("sbm-tiny", 300_000), ("sbm-small", 1_100_000)])
def test_size_is_what_the_model_card_says(name: str, most: int) -> None:
    network, _ = checkpoint.load(hub.resolve(name))
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, network.fold())]
    assert counts[0] <= most
    card = (Path(__file__).parent.parent / "docs" / "models" / f"{name}.md").read_text()
    for count in counts:
        assert f"{count:,}".replace(",", " ") in card
