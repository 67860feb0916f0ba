"""Fixtures that several rooms of the tests share."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from sbm_cli import hub

if TYPE_CHECKING:
    from sbm_cli.training.config import TrainConfig

PATIENCE = 600.0  # s to wait for what is bound to come, however busy the machine is; only what hangs takes so long

# No deadline: the machine is shared, and a first call compiles. Fixed examples: a failure is seen again.
settings.register_profile("sbm", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("sbm")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: on a busy machine several wait for each other at every operator."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Six short "utterances" of gated tones, three noises and four rooms for a network of a few thousand parameters."""
    import numpy as np
    import soundfile

    from sbm_cli.data.mixing import MixConfig
    from sbm_cli.data.sources import DataConfig
    from sbm_cli.model import ModelConfig
    from sbm_cli.nn.configs import OSpatialNetConfig
    from sbm_cli.training.config import LoopConfig, OptimizerConfig, TrainConfig

    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        (folder / kind).mkdir()
    for i in range(6):
        time = np.arange(24000) / 16000
        tone = np.sin(2 * np.pi * (150 + 30 * i) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        soundfile.write(folder / "speech" / f"{i}.wav", 0.2 * tone, 16000)
    for i in range(3):
        soundfile.write(folder / "noise" / f"{i}.wav", 0.05 * rng.standard_normal(32000), 16000)
    tiny = OSpatialNetConfig(
        channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=1, head=2, embedding=4
    )
    data = DataConfig(
        speech=(str(folder / "speech"),), noise=(str(folder / "noise"),), rooms=4, cache=str(folder / "cache")
    )
    return TrainConfig(
        ModelConfig("toy", network=tiny),
        data,
        MixConfig(segment_seconds=0.5),
        optimizer=OptimizerConfig(warmup=2, rate=5e-3),
        loop=LoopConfig(validate_every=0),
        steps=6,
        batch=4,
        checkpoint_minutes=1000,
    )


class Bundle:
    """A source tree of its own, with checkpoints.json and one bundled model, `small`, which is the default."""

    def __init__(self, tree: Path) -> None:
        self.package = tree / "sbm_cli"
        self.weights = self.package / "weights" / "small.safetensors"
        self.config = self.weights.with_suffix(".json")
        self.weights.parent.mkdir(parents=True)
        self.put(b"weights", b"config")

    def put(self, weights: bytes, config: bytes) -> None:
        """Replace the model by another one, and describe it."""
        self.weights.write_bytes(weights)
        self.config.write_bytes(config)
        self.describe({"small": self.record()})

    def record(self, **changes: Any) -> dict[str, Any]:
        """Return the entry of `small` as it stands in checkpoints.json, with changes."""
        return {
            "source": "bundled",
            "file": "small.safetensors",
            "config": "small.json",
            "bytes": self.weights.stat().st_size,
            "sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            "config_sha256": hashlib.sha256(self.config.read_bytes()).hexdigest(),
            "license": "Apache-2.0",
            "training_data": ["ours"],
            "scores": {"noise": {"si_sdr": 12.0}},
            "command": "sbm evaluate",
            **changes,
        }

    def describe(self, models: Mapping[str, Any], default: str = "small", inside: bool = False) -> None:
        """Write checkpoints.json, beside the package or inside it."""
        folder = self.package if inside else self.package.parent
        (folder / "checkpoints.json").write_text(json.dumps({"default": default, "models": models}))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Put a source tree with one model of a few bytes in place of ours."""
    made = Bundle(tmp_path / "tree")
    monkeypatch.setattr(hub, "_PACKAGE", made.package)
    return made


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store a network of a few thousand parameters; untrained, it returns its input."""
    import torch

    from sbm_cli.model import Model, ModelConfig
    from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
    from sbm_cli.nn.configs import OSpatialNetConfig

    torch.manual_seed(0)
    small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    Model(OSpatialNet(small), ModelConfig("small", network=small)).save(path)
    return path


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


class Browser:
    """Chromium without a window, spoken to in the DevTools protocol through a pair of pipes."""

    def __init__(self, folder: Path) -> None:
        reads, self.write = os.pipe()
        self.read, writes = os.pipe()
        # The shell gives the pipes the numbers that Chromium wants: 3 to read from, 4 to write to.
        script = f'exec "$0" "$@" 3<&{reads} 4>&{writes}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
        flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps
        self.process = subprocess.Popen(
            ["bash", "-c", script, CHROMIUM, *flags, "--remote-debugging-pipe"],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self.events: list[dict[str, Any]] = []
        self.rest, self.number, self.session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: object) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select.select([self.read], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self.read, 1 << 16)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def run(self, script: str) -> Any:
        """Return what a script, which may wait, evaluates to."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Start a browser of its own for a test, which is skipped where there is none."""
    if not (CHROMIUM and shutil.which("bash")):
        pytest.skip("no Chromium here")
    made = Browser(tmp_path / "profile")
    yield made
    made.close()


class FakeStream:
    """A stream of a device that a test drives by calling `callback` and that remembers whether it runs."""

    def __init__(self, samplerate: int, channels: int, callback: Any, latency: float) -> None:
        self.samplerate, self.channels, self.callback, self.latency = float(samplerate), channels, callback, latency
        self.active = False

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False

    close = stop

    def __enter__(self) -> FakeStream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeSounddevice:
    """The package sounddevice with two devices: a headset with one input, and speakers. `streams`: opened, by kind.

    rates: that its devices can be opened at; the last one is their own.
    """

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.rates = (16000, 48000)
        self.latency = 0.0
        self.streams: dict[str, FakeStream] = {}
        self.default = type("default", (), {"device": (0, 1)})

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def query_devices(self, device: int | str | None = None, kind: str = "") -> Any:
        common = {"hostapi": 0, "default_samplerate": float(self.rates[-1])}
        found = [
            {"index": 0, "name": "Headset", "max_input_channels": 1, "max_output_channels": 0, **common},
            {"index": 1, "name": "Speakers", "max_input_channels": 0, "max_output_channels": 2, **common},
        ]
        if not kind:
            return found
        if device is None:
            device = self.default.device[kind == "output"]
        matching = [each for each in found if device == each["index"] or str(device) in each["name"]]
        if len(matching) == 1:
            return matching[0]
        if isinstance(device, str):
            names = "\n".join(f"[{each['index']}] {each['name']}, ALSA" for each in matching)
            told = f"Multiple {kind} devices found for {device!r}:\n{names}"
            raise ValueError(told if matching else f"No {kind} device matching {device!r}")
        raise self.PortAudioError(f"Error querying device {device}")

    def InputStream(self, **how: Any) -> FakeStream:
        return self._open("input", **how)

    def OutputStream(self, **how: Any) -> FakeStream:
        return self._open("output", **how)

    def _open(self, kind: str, device: int, samplerate: int, channels: int, callback: Any, **how: Any) -> FakeStream:
        assert how == {"dtype": "float32", "latency": "low"}
        if samplerate not in self.rates:
            raise self.PortAudioError("Invalid sample rate")
        self.streams[kind] = FakeStream(samplerate, channels, callback, self.latency)
        return self.streams[kind]


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> FakeSounddevice:
    """Put devices that need no hardware in place of those of the machine."""
    fake = FakeSounddevice()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture(scope="session", autouse=True)
def _heard_signals() -> None:
    """Programs that the tests start inherit which signals are ignored: nohup ignores SIGHUP, a shell's `&` SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
