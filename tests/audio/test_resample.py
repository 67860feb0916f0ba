"""The streaming resampler: exact length, lag 0, and no trace of how the input was cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbm_cli.audio.resample import LIVE, StreamResampler, resampled_length

PAIRS = [(48000, 16000), (44100, 16000), (16000, 44100), (8000, 16000), (22050, 16000), (16000, 11025), (96000, 16000)]


def run(
    waveform: NDArray[np.float32],
    rate_in: int,
    rate_out: int,
    sizes: list[int],
    length: int | None = None,
    quality: str = "HQ",
) -> NDArray[np.float32]:
    """Resample in blocks of the given sizes, the last of them again and again."""
    resampler = StreamResampler(rate_in, rate_out, waveform.shape[0], quality)
    parts, start = [], 0
    for size in sizes + [max(sizes[-1], 1)] * waveform.shape[1]:
        if start >= waveform.shape[1]:
            break
        parts.append(resampler.feed(waveform[:, start : start + size]))
        start += size
    parts.append(resampler.flush(length))
    return np.concatenate(parts, axis=1)


def tone(rate: int, samples: int, frequency: float = 440) -> NDArray[np.float32]:
    time = np.arange(samples) / rate
    return np.stack([np.sin(2 * np.pi * frequency * time), np.cos(2 * np.pi * frequency * time)]).astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(
    pair=st.sampled_from(PAIRS),
    samples=st.integers(0, 5000),
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=12),
    quality=st.sampled_from(["HQ", LIVE]),
)
def test_result_does_not_depend_on_the_cutting(
    pair: tuple[int, int], samples: int, sizes: list[int], quality: str
) -> None:
    waveform = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    cut, whole = (run(waveform, *pair, blocks, quality=quality) for blocks in (sizes, [samples + 1]))
    assert np.array_equal(cut, whole)


@settings(deadline=None)
@given(rate_in=st.integers(4000, 100_000), rate_out=st.integers(4000, 100_000), samples=st.integers(0, 3000))
def test_length_is_exact_and_comes_back(rate_in: int, rate_out: int, samples: int) -> None:
    waveform = np.zeros((1, samples), np.float32)
    there = run(waveform, rate_in, rate_out, [1000])
    assert there.shape == (1, resampled_length(samples, rate_in, rate_out))
    assert abs(there.shape[1] - samples * rate_out / rate_in) <= 0.5
    assert run(there, rate_out, rate_in, [1000], length=samples).shape == (1, samples)


@pytest.mark.parametrize("quality", ["HQ", LIVE])
@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_a_tone_keeps_its_phase_to_the_last_sample(rate_in: int, rate_out: int, quality: str) -> None:
    found = run(tone(rate_in, rate_in // 2), rate_in, rate_out, [777], quality=quality)
    expected = tone(rate_out, found.shape[1])
    edge = rate_out // 50  # the tone begins and ends abruptly
    assert float(np.abs(found - expected)[:, edge:-edge].max()) < 1e-3


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_there_and_back_is_aligned_and_complete(rate: int) -> None:
    samples = rate // 2 + 7
    waveform = tone(rate, samples, 300)
    there = run(waveform, rate, 16000, [1024])
    back = run(there, 16000, rate, [1024], length=samples)
    assert back.shape == waveform.shape
    edge = rate // 50
    assert float(np.abs(back - waveform)[:, edge:-edge].max()) < 2e-3


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_live_holds_back_no_more_than_it_says(rate_in: int, rate_out: int) -> None:
    resampler = StreamResampler(rate_in, rate_out, 1, LIVE)
    given = 0
    for fed in range(1, 4000):
        given += resampler.feed(np.zeros((1, 1), np.float32)).shape[1]
        assert fed / rate_in - given / rate_out <= resampler.latency_seconds + 1 / rate_in
    assert resampler.latency_seconds <= 0.004


def test_live_lets_nothing_fold_back() -> None:
    above = run(tone(48000, 24000, 9000), 48000, 16000, [777], quality=LIVE)
    assert float(np.abs(above)[:, 320:-320].max()) < 1e-3


def test_channels_do_not_mix() -> None:
    waveform = np.stack([tone(44100, 3000)[0], np.zeros(3000, np.float32), -tone(44100, 3000)[0]])
    found = run(waveform, 44100, 16000, [500])
    assert np.array_equal(found[0], -found[2])
    assert not found[1].any()


def test_equal_rates_pass_untouched() -> None:
    waveform = tone(16000, 100)
    resampler = StreamResampler(16000, 16000, 2)
    assert resampler.feed(waveform) is waveform
    assert resampler.flush().shape == (2, 0)


def test_longer_total_continues_with_the_tail_and_then_silence() -> None:
    waveform = tone(16000, 400)
    whole, longer = run(waveform, 16000, 48000, [100]), run(waveform, 16000, 48000, [100], length=3000)
    assert np.array_equal(longer[:, :1200], whole)
    assert float(np.abs(longer[:, 1200:1205]).max()) > 0.01
    assert float(np.abs(longer[:, -100:]).max()) < 1e-6


def test_long_files_have_exact_lengths() -> None:
    assert resampled_length(10**15 + 1, 16000, 48000) == 3 * 10**15 + 3
    assert resampled_length(3, 16000, 8000) == 2


def test_output_is_contiguous_float32() -> None:
    resampler = StreamResampler(48000, 16000, 2)
    for block in (resampler.feed(tone(48000, 5000)), resampler.flush()):
        assert block.dtype == np.float32
        assert block.flags.c_contiguous


def test_wrong_use_is_refused() -> None:
    resampler = StreamResampler(48000, 16000, 2)
    resampler.feed(tone(48000, 48000))
    with pytest.raises(ValueError, match="out already"):
        resampler.flush(10)
    with pytest.raises(ValueError, match="[Qq]uality"):
        StreamResampler(16000, 16000, 1, quality="best")
