"""An exported graph does, hop by hop, what a stream does; one that does not is never written."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sbm_cli
from sbm_cli import export as export_module
from sbm_cli.audio.samples import Samples
from sbm_cli.bridge.schedule import Flow
from sbm_cli.dsp.level import Level
from sbm_cli.dsp.stft import Stft
from sbm_cli.errors import DependencyError, ModelError
from sbm_cli.export import Dtype, Hop, export
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.configs import NCSNppConfig, OSpatialNetConfig
from sbm_cli.options import DEFAULTS, Options
from sbm_cli.stream import Stream
from tests.nn.conftest import perturbed

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parent.parent
NOISY = ROOT / "examples" / "noisy.wav"
SMALL = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, head=2, fullband_squeeze=1)
AHEAD = replace(SMALL, lookahead=2, kernel=(5, 16), filter_frames=5, keep_room=True)


def model_of(network: OSpatialNetConfig, **changes: Any) -> Model:
    return Model(perturbed(network), ModelConfig("small", network=network, **changes)).to("cpu")


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(AHEAD, level=Level(low_hz=80))


@pytest.fixture(scope="module")
def graph(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    report = export(model, path, NOISY, license="CC0-1.0")
    assert report.difference <= 1e-4 and report.bytes == path.stat().st_size
    return path


def streamed(model: Model, samples: Samples, options: Options = DEFAULTS) -> Samples:
    stream = Stream(model, model.config.rate, 1, options, threads=1)
    return np.concatenate([stream.feed(samples), stream.flush()])


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (SMALL, {}),
        (AHEAD, {"level": Level(low_hz=80)}),
        (replace(SMALL, sequence="lstm"), {}),
        (replace(SMALL, output="mask", bins=257), {"stft": Stft(window=480, hop=160, shape="hann")}),
        (replace(SMALL, bins=129, stride=4, kernel=(3, 8)), {"stft": Stft(257, 256, 64)}),
    ],
    ids=["plain", "look-ahead", "lstm", "hann", "odd n_fft"],
)
@torch.no_grad()
def test_hops_are_the_stream(network: OSpatialNetConfig, changes: dict[str, Any]) -> None:
    model, rng = model_of(network, **changes), np.random.default_rng(0)
    hop, stft = Hop(model, Options(), spectra=False), model.config.stft
    late = stft.overlap + model.frames_late() * stft.hop
    # Silence is no level to begin with, and comes out as silence.
    samples = np.concatenate([np.zeros(700), rng.normal(0, 0.1, 20 * stft.hop), np.zeros(40 * stft.hop)])
    hops = torch.from_numpy(samples[: len(samples) // stft.hop * stft.hop].astype(np.float32)).view(-1, 1, stft.hop)
    carry, found = tuple(hop.start.values()), []
    for noisy in hops:
        clean, *carry = hop(noisy, *carry)
        found.append(clean[0])
    expected = streamed(model, hops.flatten().numpy())
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(torch.cat(found)[late:], expected[: hops.numel() - late], atol=1e-5)


def test_the_example_does_what_a_stream_does(
    model: Model, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = tmp_path / "clean.wav"
    monkeypatch.setattr(sys, "argv", ["onnx_stream.py", str(graph), str(NOISY), str(clean)])
    runpy.run_path(str(ROOT / "examples" / "onnx_stream.py"), run_name="__main__")
    samples, _ = soundfile.read(NOISY, dtype="float32")
    np.testing.assert_allclose(soundfile.read(clean)[0], np.clip(streamed(model, samples), -1, 1), atol=1e-4)


def test_the_graph_says_what_it_is(model: Model, graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    expected = {
        "format": "1",
        "sbm_version": sbm_cli.__version__,
        "model": "small",
        "license": "CC0-1.0",
        "dtype": "float32",
        "input": "samples",
        "rate": "16000",
        "window": "512",
        "hop": "256",
        "lookahead": "2",
        "delay": str(256 + 2 * 256),
        "latency": str(round(model.latency_seconds * 16000)),
        "level_low_hz": "80",
        "compression_exponent": "0.5",
    }
    assert {key: known[key] for key in expected} == expected
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [node.name for node in outputs] == ["clean", *(f"{node.name}_out" for node in inputs[1:])]
    assert [node.shape for node in inputs] == [node.shape for node in outputs]
    assert all(isinstance(size, int) for node in inputs for size in node.shape)
    assert {"analysis", "level", "late_level", "narrow_0_scan"} <= {node.name for node in inputs}
    assert [entry.version for entry in onnx.load(graph).opset_import] == [18]
    assert str(ROOT).encode() not in graph.read_bytes()


@pytest.mark.parametrize(("dtype", "most"), [("float16", -50), ("int8", -20)])
def test_smaller_weights_change_little(
    graph: Path, model: Model, dtype: Dtype, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_traced", lambda hop: _without_metadata(graph))
    report = export(model, tmp_path / "smaller.onnx", NOISY, dtype=dtype)
    assert report.bytes < 0.7 * graph.stat().st_size
    assert -120 < report.difference_db < most


def _without_metadata(path: Path) -> Any:
    graph = onnx.load(path)
    del graph.metadata_props[:]
    return graph


def test_spectra_in_place_of_samples(tmp_path: Path) -> None:
    model, path = model_of(AHEAD), tmp_path / "spectra.onnx"
    assert export(model, path, spectra=True, dereverb=0.5).difference <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    assert (known["input"], known["dereverb"]) == ("spectra", "0.5")
    names = [node.name for node in session.get_inputs()]
    carry = [np.zeros(node.shape, np.float32) for node in session.get_inputs()[1:]]
    # The transform as anybody computes it, whatever ours is divided by.
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)).astype(np.float32)
    samples = np.random.default_rng(0).normal(0, 0.1, 256 * 20).astype(np.float32)
    padded = np.pad(samples, (256, 256 * 3))
    clean = np.zeros(len(padded))
    for start in range(0, len(padded) - 256, 256):
        spectrum = np.fft.rfft(window * padded[start : start + 512]).astype(np.complex64)
        pairs = spectrum.view(np.float32).reshape(1, -1, 2)
        found, *carry = session.run(None, dict(zip(names, [pairs, *carry], strict=True)))
        clean[start : start + 512] += window * np.fft.irfft(found[0, :, 0] + 1j * found[0, :, 1])
    expected = streamed(model, samples, Options(dereverb=0.5))
    np.testing.assert_allclose(clean[256 * 3 :][: len(samples)], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "factor", "before"),
    [("float32", 1.001, None), ("float16", 0, b"mine"), ("int8", 0, None), ("int8", np.nan, None)],
)
def test_a_graph_that_differs_is_not_written(
    dtype: Dtype,
    factor: float,
    before: bytes | None,
    model: Model,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "small.onnx"
    if before:
        path.write_bytes(before)
    enhanced = export_module._enhanced
    monkeypatch.setattr(export_module, "_traced", lambda hop: _without_metadata(graph))
    monkeypatch.setattr(export_module, "_enhanced", lambda *arguments: enhanced(*arguments) * np.float32(factor))
    with pytest.raises(ModelError, match=r"small was not exported: onnxruntime's output differs .* allows -\d\d dB"):
        export(model, path, dtype=dtype)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_silence_checks_nothing(model: Model, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    monkeypatch.setattr(export_module, "_traced", lambda hop: _without_metadata(graph))
    with pytest.raises(ModelError, match="comes out silent"):
        export(model, tmp_path / "small.onnx", tmp_path / "silence.wav")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (model_of(replace(SMALL, sequence="attention")), "what it carries from frame to frame grows"),
        (model_of(SMALL, schedule=Flow(0.1)), "it starts from noise"),
        (
            Model(NCSNppConfig(channels=(8,), blocks=1).build(), ModelConfig("small", network=NCSNppConfig())),
            "it sees whole windows",
        ),
    ],
    ids=["attention", "flow", "not causal"],
)
def test_what_has_no_such_form_is_refused(model: Model, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"small cannot be exported: {reason}"):
        export(model, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_room_is_kept_by_models_that_can(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="small was not trained to keep the room"):
        export(model_of(SMALL), tmp_path / "x.onnx", dereverb=0)


def test_a_missing_package_is_named(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="an export needs onnxruntime") as caught:
        export(model, tmp_path / "x.onnx")
    assert caught.value.hint == 'pip install "sbm-cli[export]"'
