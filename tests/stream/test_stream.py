"""Nothing that a stream is fed, and nothing around it, spoils what comes after."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from sbm_cli.enhancer import Enhancer
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import Options

BAD = [np.nan, np.inf, -np.inf, 1e30, -1e13]
NOISY = np.random.default_rng(0).normal(0, 0.1, (2, 9000)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store a network of a few thousand parameters that changes what it hears."""
    torch.manual_seed(0)
    config = OSpatialNetConfig(channels=16, blocks=1, d_state=4, cross_groups=2, squeeze=2, head=2)
    network = OSpatialNet(config)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    Model(network, ModelConfig("small", network=config)).save(path)
    return path


@pytest.fixture(scope="module")
def enhancer(model: Path) -> Enhancer:
    return Enhancer.load(model, "cpu")


def spoilt(value: float) -> np.ndarray:
    samples = NOISY.copy()
    samples[1, 5003] = value
    return samples


def streamed(enhancer: Enhancer, samples: np.ndarray, options: Options) -> np.ndarray:
    stream = enhancer.stream(16000, 2, options)
    parts = [stream.feed(samples[:, k : k + 700]) for k in range(0, samples.shape[1], 700)]
    return np.concatenate([*parts, stream.flush()], axis=1)


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_sample_is_refused_and_spoils_nothing(enhancer: Enhancer, value: float) -> None:
    with pytest.raises(ValueError, match=r"sample 5003 is NaN, infinite or beyond 1e\+12; replace_nan replaces it"):
        enhancer.enhance(spoilt(value), 16000)
    stream = enhancer.stream(16000, 2)
    parts = [stream.feed(NOISY[:, :5000])]
    with pytest.raises(ValueError, match="sample 5003 "):
        stream.feed(spoilt(value)[:, 5000:])
    parts += [stream.feed(NOISY[:, 5000:]), stream.flush()]
    expected = enhancer.enhance(NOISY, 16000, Options(warm_up=False))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("value", BAD)
def test_replaced_it_is_silence(enhancer: Enhancer, value: float) -> None:
    options, silent = Options(replace_nan=True), spoilt(0)
    np.testing.assert_array_equal(enhancer.enhance(spoilt(value), 16000, options), enhancer.enhance(silent, 16000))
    found = streamed(enhancer, spoilt(value), options)
    np.testing.assert_array_equal(found, streamed(enhancer, silent, options))


def test_the_largest_samples_do_not_poison_what_follows(enhancer: Enhancer) -> None:
    assert np.isfinite(streamed(enhancer, spoilt(9.9e11), Options(keep_high_band=True, strength=0.9))).all()


def test_integers_are_scaled(enhancer: Enhancer) -> None:
    whole = np.round(NOISY * 2**15).astype(np.int16)
    expected = enhancer.enhance(whole / 2**15, 16000)
    np.testing.assert_array_equal(enhancer.enhance(whole, 16000), expected)
    np.testing.assert_allclose(streamed(enhancer, whole, Options(warm_up=True)), expected, atol=1e-5)
    with pytest.raises(ValueError, match="samples must be float"):
        enhancer.stream(16000).feed([0, 1, 2])


@pytest.mark.parametrize("shape", [(9, 2), (500, 2), (1024, 6), (2000, 2000)])
def test_channels_in_the_wrong_place_get_a_word(enhancer: Enhancer, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="transpose it"):
        enhancer.enhance(np.zeros(shape, np.float32), 16000)


@pytest.mark.parametrize("shape", [(2, 1), (7, 3), (8, 0), (0,), (1,)])
def test_few_samples_of_few_channels_are_taken(enhancer: Enhancer, shape: tuple[int, ...]) -> None:
    assert enhancer.enhance(np.zeros(shape, np.float32), 16000).shape == shape


def test_empty_blocks_change_no_shape(enhancer: Enhancer) -> None:
    assert enhancer.stream(16000).flush().shape == (0,)
    assert enhancer.stream(16000, 2).flush().shape == (2, 0)
    for block, empty in ((NOISY[0], (0,)), (NOISY[:1], (1, 0)), (NOISY, (2, 0))):
        stream = enhancer.stream(16000, 2 if empty == (2, 0) else 1)
        parts = [stream.feed(block)]
        for nothing in ([], np.zeros((1, 0)), np.zeros((2, 0)), np.zeros((0, 0))):
            assert stream.feed(nothing).shape == empty
        assert np.concatenate([*parts, stream.flush()], axis=-1).shape == block.shape


@pytest.mark.parametrize("shape", [(10, 2), (3, 10), (10,), (), (1, 2, 10)])
def test_blocks_of_another_shape_are_refused(enhancer: Enhancer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a block \[2, samples\], got shape .*: transpose it"):
        enhancer.stream(16000, 2).feed(np.zeros(shape, np.float32))


def test_rates_of_any_type(enhancer: Enhancer) -> None:
    expected = enhancer.enhance(NOISY, 44100, Options(rate=8000))
    for rate in (44100.0, np.int32(44100), np.int16(8000) * np.float32(5.5125)):
        options = Options(rate=np.int16(8000))
        np.testing.assert_array_equal(enhancer.enhance(NOISY, rate, options), expected)
        assert enhancer.stream(rate, 2, options).feed(NOISY).shape[0] == 2
        assert json.loads(json.dumps(asdict(options)))["rate"] == 8000
    with pytest.raises(ValueError, match="whole number of Hz"):
        enhancer.stream(44100.5)


def test_a_block_may_be_overwritten_once_it_is_fed(enhancer: Enhancer) -> None:
    """As the callbacks of sound cards do."""
    options, buffer = Options(strength=0.5, warm_up=True), np.empty((2, 100), np.float32)
    stream, parts = enhancer.stream(16000, 2, options), []
    for start in range(0, 9000, 100):
        buffer[:] = NOISY[:, start : start + 100]
        parts.append(stream.feed(buffer))
        buffer[:] = 7
    expected = enhancer.enhance(NOISY, 16000, options)
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), expected, atol=1e-5)


@pytest.fixture(params=["float64", "bfloat16", "float16", "meta"])
def other_defaults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let torch make tensors of another type, or on another device."""
    kind, before = request.param, torch.get_default_dtype()
    if kind == "meta":
        torch.set_default_device(kind)
    else:
        torch.set_default_dtype(getattr(torch, kind))
    yield
    torch.set_default_dtype(before)
    torch.set_default_device(None)


ALL = [
    Options(),
    Options(steps=3, sampler="sde"),
    Options(keep_high_band=True, strength=0.5),
    Options(dtype="bfloat16"),
]


@pytest.fixture(scope="module")
def usual(enhancer: Enhancer) -> list[np.ndarray]:
    return [enhancer.enhance(NOISY, 44100, options) for options in ALL]


def test_the_defaults_of_torch_are_others(usual: list[np.ndarray], other_defaults: None, model: Path) -> None:
    from sbm_cli.dsp.stft import window_tensors

    window_tensors.cache_clear()
    other = Enhancer.load(model, "cpu")
    for options, expected in zip(ALL, usual, strict=True):
        np.testing.assert_array_equal(other.enhance(NOISY, 44100, options), expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_forked_after_use_works(model: Path, threads: int) -> None:
    enhancer = Enhancer.load(model, "cpu", threads)
    long = np.tile(NOISY, 4)  # enough for several threads
    expected = enhancer.enhance(long, 16000)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: np.testing.assert_allclose(enhancer.enhance(long, 16000), expected, atol=1e-5)
    )
    child.start()
    child.join(30)
    child.kill()  # if it hangs
    child.join()
    assert child.exitcode == 0


def test_wrong_use_of_a_stream_is_said_at_once(enhancer: Enhancer) -> None:
    with pytest.raises(ValueError, match="channels must be a whole number from 1"):
        enhancer.stream(16000, Options())  # type: ignore[arg-type]
    stream = enhancer.stream(16000)
    stream.feed(np.zeros(100, np.float32))
    stream.flush()
    with pytest.raises(ValueError, match="the stream was flushed"):
        stream.feed(np.zeros(100, np.float32))
