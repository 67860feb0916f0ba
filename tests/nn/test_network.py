"""A backbone is one file: a toy one here, causal or not, goes the whole way from its configuration to a clean file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from sbm_cli.dsp.stft import Stft
from sbm_cli.enhancer import Enhancer
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.configs import BACKBONES, NetworkConfig
from sbm_cli.nn.network import Carry, Network
from sbm_cli.options import Options

STFT = Stft(64, 64, 32)


@dataclass(frozen=True)
class GainConfig(NetworkConfig):
    """One gain for all, plus the time's; a backbone that wants whole utterances sees their mean as well."""

    bins: int = 33
    timed: ClassVar[bool] = True  # type: ignore[misc]

    def build(self) -> Network:
        return Gain(self)


@dataclass(frozen=True)
class WholeConfig(GainConfig):
    causal: ClassVar[bool] = False


class Gain(Network):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        state: Tensor,
        noisy: Tensor,
        t: Tensor,
        carry: Carry | None = None,
        room: Tensor | None = None,
        to: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        whole = 0.0 if self.config.causal else noisy.abs().mean((1, 2), keepdim=True).sqrt()
        return (self.gain * t[:, None, None] + whole) * (state + noisy) / 2, {"seen": torch.ones(1)}


@pytest.fixture(params=[GainConfig, WholeConfig], ids=["causal", "whole"])
def enhancer(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enhancer:
    """A released model of a new kind."""
    monkeypatch.setitem(BACKBONES, "toy", request.param)
    network = request.param(bins=33)
    Model(network.build(), ModelConfig("toy", stft=STFT, network=network)).save(tmp_path / "toy.safetensors")
    return Enhancer.load(tmp_path / "toy.safetensors", "cpu")


def sound(samples: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_new_backbone_enhances_and_streams(enhancer: Enhancer, steps: int, tmp_path: Path) -> None:
    noisy, options = sound(70_000), Options(steps=steps)
    whole = enhancer.enhance(noisy, 16000, options)
    assert whole.shape == noisy.shape
    stream = enhancer.stream(16000, 1, options)
    parts = [stream.feed(noisy[k : k + 4999]) for k in range(0, noisy.size, 4999)]
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()]), whole, atol=1e-5)
    soundfile.write(tmp_path / "noisy.wav", noisy, 16000, subtype="FLOAT")
    enhancer.enhance_file(tmp_path / "noisy.wav", tmp_path / "clean.wav", options)
    np.testing.assert_allclose(soundfile.read(tmp_path / "clean.wav")[0], whole, atol=1e-5)


def test_a_causal_gain_is_that_gain(enhancer: Enhancer) -> None:
    noisy = sound(5000)
    if enhancer.config.network.causal:
        np.testing.assert_allclose(enhancer.enhance(noisy, 16000), 0.25 * noisy, atol=1e-6)  # 0.5, of a square root
        assert enhancer.latency_seconds == STFT.window / 16000
    else:
        assert enhancer.latency_seconds == (STFT.window + 512 * STFT.hop) / 16000


def test_what_cannot_fold_is_told_time_and_room() -> None:
    seen = []

    class Spy(Gain):
        def forward(
            self,
            state: Tensor,
            noisy: Tensor,
            t: Tensor,
            carry: Carry | None = None,
            room: Tensor | None = None,
            to: Tensor | None = None,
        ) -> tuple[Tensor, Carry]:
            seen.append((state, noisy, t, room))
            return noisy, {}

    config = replace(GainConfig(), keep_room=True)
    model = Model(Spy(config), ModelConfig("spy", network=config, stft=STFT))
    Enhancer(model).enhance(sound(5000), 16000, Options(dereverb=0.75, warm_up=False))
    for state, noisy, t, room in seen:
        assert torch.equal(state, noisy) and t.tolist() == [1.0] and room is not None and room.tolist() == [0.25]
    assert seen
