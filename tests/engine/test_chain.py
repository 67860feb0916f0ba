"""The compiled chain computes what PyTorch does, whatever the network, the blocks and the threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.bridge.sampler import SAMPLERS
from sbm_cli.bridge.schedule import VE, VP, Brownian, Flow, GMax, Schedule
from sbm_cli.compiled.jit import jit
from sbm_cli.compiled.llvm import HALVES
from sbm_cli.compiled.product import packed_halves, product_of_halves, round_to_halves, whole
from sbm_cli.dsp.compress import Compression
from sbm_cli.dsp.level import Level
from sbm_cli.dsp.stft import Stft
from sbm_cli.engine.chain import MOST, CompiledChain, _Network
from sbm_cli.engine.plan import supports
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn import kernels
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OUTPUTS, NCSNppConfig, OSpatialNetConfig
from sbm_cli.options import Options
from sbm_cli.stream.torch_chain import TorchChain

NOISE = np.random.default_rng(0).normal(0, 0.1, (3, 6000)).astype(np.float32)
NOISE[:, 2000:3000] *= 1e-4  # a pause
NOISE[1] *= 0.17  # 15 dB: partly linked
NOISE[2, 4000:] += 0.9  # an offset that is limited


def perturbed(network: OSpatialNetConfig, **changes: Any) -> Model:
    """Return a model far from its start, where every branch matters."""
    torch.manual_seed(0)
    made = OSpatialNet(network).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    size = 2 * (network.bins - 1)
    return Model(made, ModelConfig("small", network=network, stft=Stft(size, size, size // 2), **changes))


@st.composite
def networks(draw: st.DrawFn) -> OSpatialNetConfig:
    bands, stride, lookahead = draw(st.sampled_from([(16, 4), (32, 8), (16, 16), (8, 16)])) + (draw(st.integers(0, 3)),)
    embedding = draw(st.sampled_from([0, 4]))
    bins = bands * stride + 1
    return OSpatialNetConfig(
        bins=bins,
        stride=stride,
        kernel=(lookahead + draw(st.integers(1, 3)), stride + 2 * draw(st.integers(0, 3))),
        channels=draw(st.sampled_from([16, 32, 48])),
        blocks=draw(st.integers(1, 3)),
        d_state=draw(st.sampled_from([4, 8])),
        cross_kernel=draw(st.integers(1, 6)),
        cross_groups=draw(st.sampled_from([1, 2, 4])),
        squeeze=draw(st.integers(1, 9)),
        fullband_squeeze=draw(st.sampled_from([0, 2, 4])),
        head=draw(st.integers(1, 5)),
        embedding=embedding,
        untimed=not embedding and draw(st.booleans()),
        keep_room=bool(embedding) and draw(st.booleans()),
        jumps=bool(embedding) and draw(st.booleans()),
        lookahead=lookahead,
        filter_frames=draw(st.integers(1, 6)),
        filter_bins=draw(st.integers(1, bins)),
        output=draw(st.sampled_from([*OUTPUTS])),
    )


ONE, HALF, SDE = Options(), Options(dtype="bfloat16"), Options(steps=3, sampler="sde", seed=3)


@given(
    network=networks(),
    schedule=st.sampled_from([VE(), VP(), GMax(), Brownian(), Flow(), Flow(0.5)]),
    steps=st.integers(1, 4),
    sampler=st.sampled_from([*SAMPLERS]),
    low_hz=st.sampled_from([0.0, 80.0]),
    exponent=st.sampled_from([0.5, 0.33]),
    high=st.booleans(),
    left=st.sampled_from([0.0, 0.3]),
    link=st.booleans(),
)
def test_any_network_gives_what_it_gives_in_pytorch(
    network: OSpatialNetConfig,
    schedule: Schedule,
    steps: int,
    sampler: Any,
    low_hz: float,
    exponent: float,
    high: bool,
    left: float,
    link: bool,
) -> None:
    model = perturbed(network, schedule=schedule, level=Level(low_hz=low_hz), compression=Compression(exponent))
    if not network.timed:
        steps = 1
    if (SAMPLERS[sampler].jumps and not network.jumps) or (SAMPLERS[sampler].draws and isinstance(schedule, Flow)):
        sampler = "ode"
    dereverb = 1 - left if network.keep_room else 1.0
    options = Options(dereverb=dereverb, steps=steps, sampler=sampler, seed=7, link_channels=link)
    channels = [2, 1]
    plan = model.plan(options.steps)
    assert plan is not None
    with kernels.use("reference"):
        expected = TorchChain(model, channels, options, high, 1)(NOISE)
    found = CompiledChain(model, plan, channels, options, high, 1)(NOISE)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, float(np.abs(expected).max())))


@pytest.fixture(scope="module")
def model() -> Model:
    return perturbed(OSpatialNetConfig(channels=32, blocks=2, d_state=4, cross_groups=2, lookahead=2, filter_frames=3))


def chain(model: Model, channels: list[int], options: Options = ONE, threads: int = 1) -> CompiledChain:
    plan = model.plan(options.steps, options.dtype == "bfloat16")
    assert plan is not None
    return CompiledChain(model, plan, channels, options, False, threads)


@given(
    cuts=st.lists(st.integers(0, 6000), max_size=8),
    options=st.sampled_from([ONE, HALF, SDE]),
    threads=st.integers(1, 4),
)
def test_blocks_and_threads_change_no_bit(model: Model, cuts: list[int], options: Options, threads: int) -> None:
    whole, cut = chain(model, [3], options), chain(model, [3], options, threads)
    edges = [0, *sorted(cuts), NOISE.shape[1]]
    parts = [cut(NOISE[:, a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole(NOISE))


def test_threads_without_a_stage_take_no_memory(model: Model) -> None:
    plan = model.plan()
    assert plan is not None and len(_Network(plan, 10_000)._work) == len(plan.stages)


@pytest.mark.parametrize("options", [ONE, SDE], ids=["one step", "sde"])
def test_a_long_block_is_taken_in_parts(model: Model, options: Options) -> None:
    noise = np.tile(NOISE[:1], (MOST + 1) * 256 // 6000 + 1)
    whole, cut = chain(model, [1], options), chain(model, [1], options)
    parts = [cut(noise[:, k : k + 5000]) for k in range(0, noise.shape[1], 5000)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole(noise))


@pytest.mark.parametrize("options", [ONE, SDE], ids=["one step", "sde"])
def test_recordings_side_by_side_are_bit_for_bit_those_alone(model: Model, options: Options) -> None:
    both = chain(model, [2, 1], options)(NOISE)
    np.testing.assert_array_equal(both[:, :2], chain(model, [2], options)(NOISE[:2]))
    np.testing.assert_array_equal(both[:, 2:], chain(model, [1], options)(NOISE[2:]))


@given(
    rows=st.integers(1, 20), inputs=st.sampled_from([32, 96]), outputs=st.sampled_from([1, 32, 33]), add=st.booleans()
)
@pytest.mark.skipif(not HALVES, reason="needs a processor with AVX512-BF16")
def test_a_product_in_bfloat16_rounds_its_factors_alone(rows: int, inputs: int, outputs: int, add: bool) -> None:
    random = np.random.default_rng(0)
    x, weight = (random.normal(size=shape).astype(np.float32) for shape in ((rows, inputs), (inputs, outputs)))
    bias, found = random.normal(size=outputs).astype(np.float32), np.ones((rows, whole(outputs)), np.float32)
    packed = np.concatenate([part.ravel() for part in packed_halves(weight, bias)])
    multiply(x.ravel(), rows, packed, inputs, whole(outputs), add, found.reshape(-1), np.zeros(x.size // 2, np.float32))
    rounded = [torch.from_numpy(part).bfloat16().float().numpy() for part in (x, weight)]
    expected = np.matmul(*rounded) + bias + add
    np.testing.assert_allclose(found[:, :outputs], expected, atol=1e-5)


@jit
def multiply(x, rows, weight, inputs, outputs, add, out, rounded):  # type: ignore[no-untyped-def]
    round_to_halves(x, 0, rows * inputs, rounded)
    product_of_halves(rounded, rows, weight, 0, inputs, outputs, add, out, 0, outputs)


def test_bfloat16_changes_little_where_the_processor_has_it_and_else_nothing(model: Model) -> None:
    full, half = chain(model, [3])(NOISE), chain(model, [3], HALF)(NOISE)
    error = np.square(full - half).sum() / np.square(full).sum()
    assert 1e-8 < error < 1e-3 if HALVES else error == 0


@pytest.mark.parametrize(
    "network",
    [
        OSpatialNetConfig(channels=12, cross_groups=2),
        OSpatialNetConfig(sequence="lstm"),
        OSpatialNetConfig(d_state=6),
        NCSNppConfig(channels=(8, 8), blocks=1),
    ],
    ids=["odd channels", "lstm", "odd states", "ncsnpp"],
)
def test_other_networks_have_no_plan(network: OSpatialNetConfig | NCSNppConfig) -> None:
    assert not supports(network)
    assert Model(network.build(), ModelConfig("small", network=network)).plan() is None


def test_a_model_that_moves_to_a_gpu_has_no_plan(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "device", "cuda:0")
    assert model.plan() is None


COMMANDS = {
    "enhance": ["enhance", "noisy.wav", "-o", "out/clean.wav"],
    "several steps": ["enhance", "noisy.wav", "-o", "out/clean.wav", "--steps", "3", "--sampler", "sde"],
    "batch": ["batch", "noisy.wav", "-o", "out", "--dry-run"],
    "models": ["models", "list"],
    "info": ["models", "info"],
    "doctor": ["doctor"],
    "version": ["--version"],
}
SCRIPT = (
    "import sys; from sbm_cli.cli.app import app; app({}, standalone_mode=False); assert 'torch' not in sys.modules"
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_do_without_pytorch(command: str, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "noisy.wav", NOISE[0], 16000)
    (tmp_path / "out").mkdir()
    script = SCRIPT.format([*COMMANDS[command]])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_does_without_pytorch_and_takes_its_tensors() -> None:
    script = (
        "import sys, numpy as np; from sbm_cli import Enhancer; enhancer = Enhancer.load(device='cpu');"
        "clean = enhancer.enhance(np.zeros(4000, np.float32), 16000);"
        "assert not {'torch', 'scipy.linalg'} & set(sys.modules), sys.modules.keys();"
        "import torch; assert (enhancer.enhance(torch.zeros(4000), 16000) == clean).all();"
        "assert enhancer.device == torch.device('cpu')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
