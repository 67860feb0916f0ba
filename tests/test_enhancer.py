"""The chain: arrays and streams give the same, however they are cut, at any rate and with any options."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.audio.resample import resampled_length
from sbm_cli.bridge.sampler import sample
from sbm_cli.bridge.schedule import VE, Flow, Schedule
from sbm_cli.compiled.llvm import HALVES
from sbm_cli.dsp.level import frame_power
from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import DependencyError, ModelError
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import Dtype, Options

WARM, COLD = Options(warm_up=True), Options(warm_up=False)
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def make(lookahead: int = 0, perturbed: bool = True, **changes: bool) -> Enhancer:
    """Return an enhancer with a network of a few thousand parameters that changes what it hears."""
    torch.manual_seed(0)
    config = OSpatialNetConfig(channels=16, blocks=1, d_state=4, cross_groups=2, squeeze=2, head=2, lookahead=lookahead)
    network = OSpatialNet(config := replace(config, **changes))
    if perturbed:
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return Enhancer(Model(network, ModelConfig("small", network=config)))


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return make()


def sound(samples: int, channels: int = 1) -> np.ndarray:
    time = np.arange(samples) / 16000
    tone = 0.2 * np.sin(2 * np.pi * 300 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    noise = 0.02 * np.random.default_rng(0).standard_normal((channels, samples))
    return np.asarray(tone + noise, np.float32)


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 8000])
@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("samples", [0, 1, 255, 256, 20011])
def test_untrained_network_gives_the_input_back(rate: int, lookahead: int, samples: int) -> None:
    """Length and alignment, over STFT, look-ahead and resampling; band-limited input survives all of them."""
    noisy = sound(samples)[0]
    clean = make(lookahead, perturbed=False).enhance(noisy, rate)
    assert clean.shape == noisy.shape and clean.dtype == np.float32
    if rate == 16000:
        np.testing.assert_allclose(clean, noisy, atol=1e-6)
    elif samples == 20011:
        lags = np.arange(-20, 21)
        alike = [np.dot(np.roll(clean, lag)[50:-50], noisy[50:-50]) for lag in lags]
        assert lags[int(np.argmax(alike))] == 0


@given(
    cuts=st.lists(st.integers(0, 30000), max_size=12),
    rate=st.sampled_from([16000, 44100]),
    lookahead=st.sampled_from([0, 2]),
)
def test_stream_equals_whole_however_it_is_cut(cuts: list[int], rate: int, lookahead: int) -> None:
    enhancer = make(lookahead)
    noisy = sound(30000, 2)
    for warm_up in (True, False):
        options = Options(warm_up=warm_up)
        stream = enhancer.stream(rate, 2, options)
        blocks = [stream.feed(block) for block in np.split(noisy, sorted(cuts), axis=1)]
        streamed = np.concatenate([*blocks, stream.flush()], axis=1)
        np.testing.assert_allclose(streamed, enhancer.enhance(noisy, rate, options), atol=1e-5)


@pytest.mark.parametrize("seconds", [0, 0.02, 0.3, 2.0, 3.3])
@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_whole_is_heard_from_its_beginning_twice(enhancer: Enhancer, seconds: float, steps: int) -> None:
    """As if a stream had heard two seconds just before, and come back half a second; what is shorter goes round."""
    noisy, cold = sound(round(16000 * seconds), 2), Options(steps=steps, warm_up=False)
    before = np.zeros((2, 39936), np.float32)
    if seconds > 0.032:
        before = noisy[:, np.r_[0:32000, range(7935, -1, -1)] % noisy.shape[1]]
    expected = enhancer.enhance(np.concatenate([before, noisy], axis=1), 16000, cold)[:, 39936:]
    found = enhancer.enhance(noisy, 16000, Options(steps=steps))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert seconds < 0.1 or np.abs(found - enhancer.enhance(noisy, 16000, cold)).max() > 1e-3


def test_recordings_side_by_side_are_heard_as_alone(enhancer: Enhancer, tmp_path: Path) -> None:
    """The shorter ones do not change what the longer ones hear first, nor the other way round."""
    pairs = []
    for index, samples in enumerate([100, 9000, 50000, 0]):
        soundfile.write(tmp_path / f"{index}.wav", sound(50000)[0, :samples], 16000, subtype="FLOAT")
        pairs.append((tmp_path / f"{index}.wav", tmp_path / f"clean{index}.wav"))
    enhancer.enhance_files(pairs)
    for source, target in pairs:
        alone = enhancer.enhance(soundfile.read(source, dtype="float32")[0], 16000)
        np.testing.assert_allclose(soundfile.read(target)[0], alone, atol=1e-6)


def test_stream_returns_sound_as_it_arrives(enhancer: Enhancer) -> None:
    """After each feed all but the algorithmic latency is out: window 512 at 16 kHz."""
    stream = enhancer.stream(16000)
    out = 0
    for i in range(40):
        out += stream.feed(sound(100)[0]).shape[0]
        assert out >= 100 * (i + 1) - 512
    assert stream.latency_seconds == enhancer.latency_seconds == 512 / 16000


@pytest.mark.parametrize(
    ("rate", "options"),
    [(48000, Options()), (44100, Options()), (48000, Options(rate=8000)), (48000, WARM), (16000, WARM)],
)
def test_a_stream_states_how_much_it_holds_back(enhancer: Enhancer, rate: int, options: Options) -> None:
    stream = enhancer.stream(rate, options=options)
    returned, held = 0, []
    for _ in range(300):
        returned += stream.feed(sound(rate // 100)[0]).shape[0]
        held.append(stream.fed / rate - returned / (options.rate or rate))
    slack = 0.05 if options.warm_up else 0.04  # meanwhile, the resampler of the output holds nothing
    assert stream.latency_seconds - slack < max(held) <= stream.latency_seconds


def test_blocks_come_out_shaped_as_they_went_in(enhancer: Enhancer) -> None:
    """Also blocks that are views, read-only or reversed."""
    noisy = sound(3000)[0][::-1]
    noisy.flags.writeable = False
    stream = enhancer.stream(16000, options=WARM)
    parts = [stream.feed(noisy[:1700]), stream.feed(noisy[1700:]), stream.flush()]
    assert [part.ndim for part in parts] == [1, 1, 1]
    np.testing.assert_allclose(np.concatenate(parts), enhancer.enhance(noisy, 16000), atol=1e-5)
    two = enhancer.stream(16000, 1)
    assert two.feed(noisy[None]).ndim == two.flush().ndim == 2


def test_future_does_not_change_the_past(enhancer: Enhancer) -> None:
    noisy = sound(20000)[0]
    changed = noisy.copy()
    changed[10000:] = 0
    before, after = enhancer.enhance(noisy, 16000, COLD), enhancer.enhance(changed, 16000, COLD)
    np.testing.assert_array_equal(before[: 10000 - 512], after[: 10000 - 512])
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_mixes_the_input_back_in(enhancer: Enhancer, rate: int, strength: float) -> None:
    """Sample for sample: nothing is delayed against the input."""
    noisy = sound(rate + 7, 2)
    clean = enhancer.enhance(noisy, rate)
    mixed = enhancer.enhance(noisy, rate, Options(strength=strength))
    if strength in (0, 1):
        np.testing.assert_array_equal(mixed, clean if strength else noisy)
    np.testing.assert_allclose(mixed, strength * clean + (1 - strength) * noisy, atol=1e-6)
    assert np.abs(clean - noisy).max() > 0.05
    stream = enhancer.stream(rate, 2, Options(strength=strength, warm_up=True))
    cut = rate // 3
    parts = [stream.feed(noisy[:, :cut]), stream.feed(noisy[:, cut:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), mixed, atol=1e-5)


def test_strength_of_a_file(enhancer: Enhancer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(40000).T, 16000, subtype="FLOAT")
    enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "none.wav", Options(strength=0, clip_mode="rescale"))
    enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "half.wav", Options(strength=0.5))
    enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "full.wav")
    none, half, full = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("none", "half", "full"))
    np.testing.assert_array_equal(none, sound(40000)[0])
    np.testing.assert_allclose(half, (none + full) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": -0.1}, "strength must be between 0 .the input. and 1"),
        ({"strength": 1.1}, "strength must be between 0 .the input. and 1"),
        ({"strength": float("nan")}, "strength must be between 0 .the input. and 1"),
        ({"attenuation_limit": -1.0}, "attenuation limit must be 0 dB or more"),
        ({"attenuation_limit": float("nan")}, "attenuation limit must be 0 dB or more"),
        ({"attenuation_limit": 6.0, "strength": 0.5}, "give only one of them"),
        ({"dereverb": 1.5}, "dereverb must be between 0 and 1"),
        ({"rate": 0}, "whole number of Hz, at least 1, got 0"),
        ({"rate": 10**9}, "rate must be between 1000 and 768000 Hz, got 1000000000"),
        ({"steps": 0}, "steps must be between 1 and 1000, got 0"),
        ({"steps": 1001}, "steps must be between 1 and 1000, got 1001"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"loudness": -70.1}, "loudness must be between -70 and 0 LUFS"),
        ({"loudness": 1.0}, "loudness must be between -70 and 0 LUFS, such as -16, got 1.0"),
        ({"loudness": -16, "clip_mode": "rescale"}, "give only one of them"),
        ({"bit_rate": 128}, "bit rate must be a whole number of bit/s, such as 128000, got 128"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"sampler": "euler"}, "sampler must be one of ode, sde, heun, jump, got 'euler'"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


def test_the_softest_and_loudest_outputs_are_taken() -> None:
    assert [Options(loudness=bound).loudness for bound in (-70, 0)] == [-70, 0]


@pytest.mark.parametrize(
    ("name", "said"), [("strenght", "unknown option 'strenght', did you mean 'strength'"), ("keep_room", "dereverb=0")]
)
def test_unknown_options_are_told_the_known_ones(name: str, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Options(**{name: 1})


@given(gain=st.floats(0, 1), limit=st.floats(0, 60), rate=st.sampled_from([16000, 44100]))
def test_nothing_is_lowered_by_more_than_the_limit(gain: float, limit: float, rate: int) -> None:
    """Where the model is a gain: one of nothing at all comes out at the limit, one of one as it was."""
    enhancer = make(perturbed=False)
    enhancer.model.network.head.bias[0] = gain**0.5  # of the compressed spectrum
    noisy = sound(3000)[0]
    limited = enhancer.enhance(noisy, rate, Options(attenuation_limit=limit))
    lowest = 10 ** (-limit / 20)
    kept = float(limited @ noisy / (noisy @ noisy))
    assert lowest - 1e-3 <= kept <= 1.001
    if gain == 0:
        np.testing.assert_allclose(limited, lowest * noisy, atol=1e-6)


@given(
    cuts=st.lists(st.integers(0, 9000), max_size=5),
    rates=st.sampled_from([(16000, 8000), (16000, 44100), (44100, 16000), (8000, 48000), (48000, 44100)]),
    limit=st.sampled_from([None, 6.0]),
    mono=st.booleans(),
)
def test_another_rate_and_one_channel(cuts: list[int], rates: tuple[int, int], limit: float | None, mono: bool) -> None:
    """However it is cut: the length is that of the rate, and the channels are mixed before the model hears them."""
    enhancer, noisy = make(), sound(9001, 2)
    noisy[1] *= 0.5
    options = Options(attenuation_limit=limit, rate=rates[1], mono=mono, warm_up=True)
    whole = enhancer.enhance(noisy, rates[0], options)
    assert whole.shape == (1 if mono else 2, resampled_length(9001, *rates))
    stream = enhancer.stream(rates[0], 2, options)
    parts = [stream.feed(block) for block in np.split(noisy, sorted(cuts), axis=1)]
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), whole, atol=1e-5)
    if mono:
        np.testing.assert_allclose(whole[0], enhancer.enhance(noisy.mean(0), rates[0], replace(options, mono=False)))


@pytest.mark.parametrize("limit", [None, 12.0])
def test_another_rate_is_not_delayed(limit: float | None) -> None:
    """An untrained network gives the resampled input; the input that is mixed in lies exactly below it."""
    noisy = sound(48000)[0]
    time = np.arange(len(noisy)) / 48000
    noisy = np.sin(2 * np.pi * 440 * time).astype(np.float32) * np.hanning(len(noisy)).astype(np.float32)
    found = make(perturbed=False).enhance(noisy, 48000, Options(attenuation_limit=limit, rate=12000))
    np.testing.assert_allclose(found, noisy[::4], atol=2e-3)


def test_a_file_of_another_rate_with_one_channel(enhancer: Enhancer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(22051, 2).T, 44100, subtype="FLOAT")
    options = Options(rate=48000, mono=True)
    report = enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "out.opus", options)  # which knows no 44.1 kHz
    found = soundfile.info(tmp_path / "out.opus")
    assert (found.samplerate, found.channels, found.frames) == (48000, 1, 24001)
    assert (report.rate, report.channels, report.samples, report.options) == (48000, 1, 24001, options)


@given(
    cuts=st.lists(st.integers(0, 7000), max_size=5),
    steps=st.sampled_from([1, 2, 4]),
    lookahead=st.sampled_from([0, 2]),
    path=st.sampled_from(
        [("ode", VE()), ("sde", VE()), ("heun", VE()), ("ode", Flow()), ("heun", Flow(0.3)), ("jump", VE())]
    ),
    seed=st.integers(0, 3),
)
def test_steps_do_not_depend_on_the_blocks(
    cuts: list[int], steps: int, path: tuple[Any, Schedule], seed: int, lookahead: int
) -> None:
    """Nor does the noise between them: it belongs to the frame and the seed."""
    (sampler, schedule), noisy = path, sound(7000, 2)
    made = make(lookahead, jumps=sampler == "jump").model
    enhancer = Enhancer(Model(made.network, replace(made.config, schedule=schedule)))
    options = Options(steps=steps, sampler=sampler, seed=seed, warm_up=True)
    stream = enhancer.stream(16000, 2, options)
    parts = [stream.feed(block) for block in np.split(noisy, sorted(cuts), axis=1)]
    whole = enhancer.enhance(noisy, 16000, options)
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), whole, atol=1e-5)
    one = np.abs(whole - enhancer.enhance(noisy, 16000, replace(options, steps=1))).max()
    assert (one > 1e-4) == (steps > 1)
    other = enhancer.enhance(noisy, 16000, replace(options, seed=seed + 1))
    assert (np.abs(whole - other).max() > 1e-4) == (schedule.end_std > 0 or (steps > 1 and sampler == "sde"))


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("gpu", ValueError, "expected auto, cpu, cuda"),
        ("cuda:99", DependencyError, "no device cuda:99: torch sees"),
    ],
)
def test_devices_that_are_none_are_refused(device: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Enhancer.load("sbm-tiny", device)


def test_a_flow_has_no_sde() -> None:
    made = make().model
    flow = Enhancer(Model(made.network, replace(made.config, schedule=Flow())))
    with pytest.raises(ModelError, match="trained on a flow, which has no SDE"):
        flow.enhance(sound(300), 16000, Options(steps=2, sampler="sde"))


def test_only_who_was_trained_for_it_jumps(enhancer: Enhancer) -> None:
    with pytest.raises(ModelError, match="was not trained to jump"):
        enhancer.enhance(sound(300), 16000, Options(steps=2, sampler="jump"))


def test_steps_are_those_of_the_sampler(enhancer: Enhancer) -> None:
    """The stream's ODE is the sampler's on the spectrum of the whole recording."""
    config, noisy = enhancer.config, torch.from_numpy(sound(5000))
    spectrum = config.stft.forward(noisy)
    level = config.level.track(frame_power(spectrum), config.stft.hop / config.rate)[0].sqrt()[:, None]
    estimate = sample(
        lambda state, noisy, t: enhancer.model.network(state, noisy, t)[0],
        config.schedule,
        config.compression.compress(spectrum / level),
        3,
    )
    expected = config.stft.inverse(config.compression.expand(estimate) * level, 5000)
    np.testing.assert_allclose(
        enhancer.enhance(noisy.numpy(), 16000, Options(steps=3, warm_up=False)), expected, atol=1e-5
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_bfloat16_is_near_float32(steps: int) -> None:
    """With the model of the wheel, on the recording of README; not the same, unless the processor has no use for it."""
    samples, rate = soundfile.read(Path(__file__).parent.parent / "examples" / "noisy.wav", dtype="float32")
    enhancer = Enhancer.load("sbm-tiny", "cpu")
    full, half = (enhancer.enhance(samples[: 2 * rate], rate, Options(steps=steps, dtype=dtype)) for dtype in DTYPES)
    error = np.square(full - half).sum() / np.square(full).sum()
    assert 1e-8 < error < 3e-4 if HALVES or steps > 1 else error == 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_of_a_network_that_changes_nothing_come_in_time(steps: int) -> None:
    noisy = sound(5000)[0]
    same = make(2, perturbed=False).enhance(noisy, 16000, Options(steps=steps))
    np.testing.assert_allclose(same, noisy, atol=1e-5)


@pytest.mark.parametrize("changes", [{"embedding": 0}, {"embedding": 0, "untimed": True}])
def test_several_steps_need_a_model_of_the_bridge(changes: dict[str, Any]) -> None:
    config = replace(make().config.network, **changes)
    other = Enhancer(Model(OSpatialNet(config), ModelConfig("other", network=config)))
    assert other.enhance(sound(300), 16000).shape == (1, 300)
    with pytest.raises(ModelError, match="^other was trained without time") as caught:
        other.enhance(sound(300), 16000, Options(steps=2))
    assert "steps" in caught.value.hint


@pytest.mark.parametrize("steps", [1, 3])
def test_the_room_is_kept_as_far_as_asked(steps: int) -> None:
    enhancer, noisy = make(keep_room=True), sound(5000)
    dry, half, kept = (
        enhancer.enhance(noisy, 16000, Options(dereverb=share, steps=steps)) for share in (1.0, 0.5, 0.0)
    )
    apart = np.abs(dry - kept).max()
    assert apart > 1e-4 and np.abs(dry - half).max() < apart and np.abs(kept - half).max() < apart
    np.testing.assert_array_equal(dry, enhancer.enhance(noisy, 16000, Options(steps=steps)))
    with pytest.raises(ModelError, match="not trained to keep the room"):
        make().enhance(noisy, 16000, Options(dereverb=0.5))


def test_the_high_band_is_kept_only_where_there_is_one(enhancer: Enhancer) -> None:
    for rate, options in ((16000, Options()), (8000, Options()), (44100, Options(rate=16000))):
        kept = enhancer.enhance(sound(5000), rate, replace(options, keep_high_band=False))
        np.testing.assert_array_equal(kept, enhancer.enhance(sound(5000), rate, options))


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("rates", [(44100, 44100), (96000, 96000), (48000, 44100)])
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_a_model_that_is_a_gain_is_one_for_the_high_band(lookahead: int, rates: tuple[int, int], gain: float) -> None:
    """So one that does nothing gives all of its input back: the parts belong together, sample for sample."""
    enhancer = make(lookahead, perturbed=False)
    enhancer.model.network.head.bias[0] = gain**0.5  # of the compressed spectrum
    noisy = np.random.default_rng(0).normal(0, 0.1, (2, rates[0] // 2)).astype(np.float32)
    found = enhancer.enhance(noisy, rates[0], Options(rate=rates[1]))
    expected = noisy if rates[0] == rates[1] else np.stack([soxr.resample(row, *rates) for row in noisy])
    without = Options(keep_high_band=False, rate=rates[1])
    inner = slice(100, -100)  # a millisecond: the line that the gain draws has ends, and is resampled too
    np.testing.assert_allclose(found[:, inner], gain * expected[:, inner], atol=2e-3)
    assert found.shape == expected.shape
    assert np.abs(enhancer.enhance(noisy, rates[0], without) - gain * expected).max() > 0.05


def test_the_high_band_follows_the_model_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model silences the octave below it, what lies above fades out too."""

    def first_second(state: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        frames = torch.arange(noisy.shape[2]) + (carry or 0)
        return noisy * (frames * 256 < 16000), int(frames[-1]) + 1

    enhancer = make()
    monkeypatch.setattr(enhancer.model, "plan", lambda *_: None)
    enhancer.model._folded[0.0] = first_second  # type: ignore[assignment]
    time = np.arange(2 * 44100) / 44100
    noisy = sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (6000, 12000)).astype(np.float32)
    found = enhancer.enhance(noisy, 44100, COLD)
    np.testing.assert_allclose(found[100:43000], noisy[100:43000], atol=2e-3)
    assert np.abs(found[int(1.4 * 44100) :]).max() < 1e-3


@given(
    cuts=st.lists(st.integers(0, 14000), max_size=5),
    rate_out=st.sampled_from([None, 32000]),
    lookahead=st.sampled_from([0, 2]),
    strength=st.sampled_from([1.0, 0.6]),
)
def test_the_high_band_does_not_depend_on_the_blocks(
    cuts: list[int], rate_out: int | None, lookahead: int, strength: float
) -> None:
    enhancer = make(lookahead)
    noisy = np.random.default_rng(0).normal(0, 0.1, (2, 14000)).astype(np.float32)
    options = Options(rate=rate_out, strength=strength, warm_up=True)
    stream = enhancer.stream(44100, 2, options)
    parts = [stream.feed(block) for block in np.split(noisy, sorted(cuts), axis=1)]
    whole = enhancer.enhance(noisy, 44100, options)
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), whole, atol=2e-5)


def test_silence_stays_silence(enhancer: Enhancer) -> None:
    assert not enhancer.enhance(np.zeros(5000, np.float32), 16000).any()
    paused = sound(16000)[0]
    paused[6000:12000] = 0
    assert not enhancer.enhance(paused, 16000)[6512:11488].any()


def test_channels_share_the_level_and_the_gain_if_they_are_linked(enhancer: Enhancer) -> None:
    noisy, apart = sound(8000, 2), Options(link_channels=False)
    for options in (Options(), apart):
        swapped = enhancer.enhance(noisy[::-1].copy(), 16000, options)
        np.testing.assert_allclose(swapped[::-1], enhancer.enhance(noisy, 16000, options), atol=1e-6)
    assert np.abs(enhancer.enhance(noisy, 16000) - enhancer.enhance(noisy, 16000, apart)).max() > 1e-3
    twice = enhancer.enhance(np.stack([noisy[0], noisy[0]]), 16000)
    np.testing.assert_allclose(twice[0], enhancer.enhance(noisy[0], 16000), atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 2, 3), np.float32), np.zeros((16000, 2), np.float32), np.array([0.0, np.nan], np.float32)]
)
def test_refuses_arrays_that_are_no_sound(enhancer: Enhancer, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError):
        enhancer.enhance(wrong, 16000)
    with pytest.raises(ValueError, match=r"expected a block \[1, samples\]"):
        enhancer.stream(16000).feed(np.zeros((2, 10), np.float32))


def test_threads_are_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    one = Enhancer(make().model, threads=1)
    two = Enhancer(make().model, threads=2)
    np.testing.assert_allclose(one.enhance(sound(9000)[0], 16000), two.enhance(sound(9000)[0], 16000), atol=1e-5)
    assert torch.get_num_threads() == before


def test_one_enhancer_serves_several_threads_at_once(enhancer: Enhancer) -> None:
    options = [Options(), Options(strength=0.5), Options(steps=2, sampler="sde"), Options(dtype="bfloat16")]
    jobs = [(sound(16000 + 3000 * i)[0], 16000 + 8000 * (i % 3), options[i % 4]) for i in range(12)]
    alone = [enhancer.enhance(*job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: enhancer.enhance(*job), jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
