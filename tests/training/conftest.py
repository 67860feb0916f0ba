"""A corpus of a few seconds and a recipe for a network of a few thousand parameters."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from sbm_cli.model import ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNetConfig
from sbm_cli.training.config import DataConfig, LoopConfig, OptimizerConfig, TrainConfig
from sbm_cli.training.mixing import MixConfig

TINY = OSpatialNetConfig(
    channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=1, head=2, embedding=4
)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Six short "utterances" of gated tones and two noises, four rooms, half-second segments."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for i in range(6):
        time = np.arange(24000) / 16000
        tone = np.sin(2 * np.pi * (150 + 30 * i) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        (folder / "speech").mkdir(exist_ok=True)
        soundfile.write(folder / "speech" / f"{i}.wav", 0.2 * tone, 16000)
    for i in range(3):
        (folder / "noise").mkdir(exist_ok=True)
        soundfile.write(folder / "noise" / f"{i}.wav", 0.05 * rng.standard_normal(32000), 16000)
    data = DataConfig(
        speech=(str(folder / "speech"),), noise=(str(folder / "noise"),), rooms=4, cache=str(folder / "cache")
    )
    return TrainConfig(
        ModelConfig("toy", network=TINY),
        data,
        MixConfig(segment_seconds=0.5),
        optimizer=OptimizerConfig(warmup=2, rate=5e-3),
        loop=LoopConfig(validate_every=0),
        steps=6,
        batch=4,
        checkpoint_minutes=1000,
    )
