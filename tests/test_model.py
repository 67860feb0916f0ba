"""Model files of any content load, or are refused in words: at once, and before memory is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import ConfigError, ModelError
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import Options

SMALL = OSpatialNetConfig(
    bins=33, channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from sbm_cli.dsp.stft import Stft

    path = tmp_path / "small.safetensors"
    Model(OSpatialNet(SMALL), ModelConfig("small", stft=Stft(64, 64, 32), network=SMALL)).save(path)
    return path


def test_a_path_may_be_text(model: Path, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy.safetensors")
    Model.load(str(model)).save(copy)
    assert Model.load(copy).config == Model.load(model).config


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(model: Path, value: float) -> None:
    weights = load_file(model)
    weights["decoder.bias"][0] = value
    save_file(weights, model)
    with pytest.raises(ModelError, match=r"small.safetensors: the weights 'decoder.bias' are not all finite numbers"):
        Model.load(model)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(model: Path, dtype: torch.dtype) -> None:
    save_file(load_file(model) | {"decoder.bias": torch.zeros(16, dtype=dtype)}, model)
    with pytest.raises(ModelError, match=r"small.safetensors: not weights of a known type"):
        Model.load(model)


def test_loaded_weights_do_not_change_with_the_file(model: Path) -> None:
    save_file({name: weight.float() for name, weight in load_file(model).items()}, model)
    network = Model.load(model).network
    before = network.decoder.weight.clone()
    data = model.read_bytes()
    with model.open("r+b") as file:
        file.write(bytes(len(data)))
    assert torch.equal(network.decoder.weight, before)


NESTED = '{"name": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "rate must be between 1000 and 192000 Hz, got 0"),
        ({"rate": 10**12}, "rate must be between"),
        ({"stft.hop": 0}, "need hop < window"),
        ({"stft.hop": 1, "stft.window": 32768, "stft.n_fft": 32768}, "window at most 64 hops"),
        ({"stft.n_fft": 2**40}, "n_fft must be at most"),
        ({"level.floor_db": -1e9}, r"floor_db must be in \[-200, 0\], got -1000000000"),
        ({"level.attack": float("nan")}, "attack: expected a finite number, got nan"),
        ({"level.release": float("inf")}, "release: expected a finite number, got inf"),
        ({"level.release": 10**400}, "release: expected a finite number, got 1000"),
        ({"compression.exponent": 1e-300}, r"exponent must be in \[0.01, 1\]"),
        ({"compression.factor": 1e300}, "factor must be in"),
        ({"schedule.k": 1e300}, "1 < k <= 100"),
        ({"schedule.c": 1e300}, "<= c <= 100"),
        ({"network.stride": 0}, "network: stride must be in"),
        ({"network.cross_groups": 0}, "cross_groups must be in"),
        ({"network.cross_kernel": 0}, "cross_kernel must be in"),
        ({"network.lookahead": -1}, r"lookahead must be in \[0, 256\], got -1$"),
        ({"network.blocks": 10**7}, "blocks must be in"),
        ({"network.channels": 10**9}, "channels must be in"),
        ({"network.d_state": 10**9}, "d_state must be in"),
        ({"network.embedding": 10**9}, "embedding must be in"),
        ({"network.lookahead": 10**9}, "lookahead must be in"),
        ({"network.kernel": [10**9, 16]}, "kernel must be in"),
        ({"level.low_hz": 1e9}, "level.low_hz lies between 0 and a quarter of the rate"),
        ({"schedule.c": 1e-308}, "VE needs 1 < k"),
        ({"schedule": {"kind": "brownian", "rho": 1e-30}}, "Brownian needs"),
        ({"schedule": {"kind": "gmax", "beta0": 0.0, "beta1": 1e-320}}, "GMax needs"),
        ({"network.channels": 4096}, "the weights do not fit small.json"),  # of terabytes, which are never taken
        ({"name": ["x" * 10**6]}, r"name: expected a word, got \['xxx"),
    ],
    ids=str,
)
def test_configurations_out_of_range_are_refused(model: Path, change: dict[str, Any], message: str) -> None:
    config = model.with_suffix(".json")
    values = json.loads(config.read_text())
    for key, value in change.items():
        *groups, last = key.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[last] = value
    config.write_text(json.dumps(values))
    with pytest.raises((ConfigError, ModelError), match=message) as refused:
        Model.load(model)
    assert len(refused.value.message) < 1000


def test_a_configuration_nested_too_deeply_is_refused(model: Path) -> None:
    model.with_suffix(".json").write_text(NESTED)
    with pytest.raises(ModelError, match=r"not valid JSON \(nested too deeply\)"):
        Model.load(model)


def test_the_largest_network_that_is_let_through_is_refused_at_once(model: Path) -> None:
    """Nothing is allocated for a network whose weights are not those of the file."""
    config = model.with_suffix(".json")
    values = json.loads(config.read_text())
    values["network"] |= {"channels": 4096, "blocks": 256, "d_state": 256}
    config.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="do not fit"):
        Model.load(model)


def test_a_model_written_by_the_first_version_does_what_it_did(tmp_path: Path) -> None:
    """The outputs, of one step and of two with half of the room, were computed by that version."""
    old = Path(__file__).parent / "fixtures" / "written-by-0.1.0.safetensors"
    noisy = np.random.default_rng(0).normal(0, 0.1, 400).astype(np.float32)
    expected = np.loadtxt(old.with_suffix(".csv"), delimiter=",").T
    enhancer = Enhancer.load(old, "cpu")
    enhancer.model.save(tmp_path / "new.safetensors")
    for each in (enhancer, Enhancer.load(tmp_path / "new.safetensors", "cpu")):
        cold = Options(warm_up=False), Options(steps=2, dereverb=0.5, warm_up=False)
        outputs = [each.enhance(noisy, 16000, options) for options in cold]
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
    values = json.loads((tmp_path / "new.json").read_text())
    assert values["format"] == 2 and values["network"]["kind"] == "ospatialnet" and values["network"]["d_state"] == 4


@pytest.mark.parametrize("number", [3, 0, "2", None, [1]])
def test_a_format_of_the_future_is_refused(model: Path, number: object) -> None:
    config = model.with_suffix(".json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": number}))
    with pytest.raises(ModelError, match=r"small.json: unknown format "):
        Model.load(model)


def test_networks_folded_for_many_shares_of_the_room_are_not_all_kept(model: Path) -> None:
    made = Model(OSpatialNet(replace(SMALL, keep_room=True)), Model.load(model).config).to("cpu")
    rooms = [share / 10 for share in range(10)]
    networks = [made.folded(room) for room in rooms]
    assert len({id(network) for network in networks}) == 10
    assert made.folded(rooms[-1]) is networks[-1] and made.folded(rooms[0]) is not networks[0]
