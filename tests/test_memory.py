"""Memory does not grow with the recording."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ENHANCE = """
import resource, subprocess, sys
from pathlib import Path
import torch
from sbm_cli.audio.pipe import Pipe
from sbm_cli.model import Model, ModelConfig
from sbm_cli.enhancer import Enhancer
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
torch.set_num_threads(1)
small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, head=2)
enhancer = Enhancer(Model(OSpatialNet(small), ModelConfig("small", network=small)))
for name in ("short.wav", "long.wav"):
    path = Path(sys.argv[1], name)
    if sys.argv[2] == "pipe":
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat, open("/dev/null", "wb") as nothing:
            enhancer.enhance_file(Pipe(cat.stdout), Pipe(nothing))
    else:
        enhancer.enhance_file(path, path.with_suffix(".clean.wav"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_ten_minutes_need_no_more_memory_than_ten_seconds(tmp_path: Path, way: str) -> None:
    """44.1 kHz stereo, of which ten minutes are 212 MB as float32; a process of its own, whose peak is its own."""
    ten = 0.1 * np.random.default_rng(0).standard_normal((441_000, 2))
    soundfile.write(tmp_path / "short.wav", ten, 44100)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 44100, 2) as file:
        for _ in range(60):
            file.write(ten)
    command = [sys.executable, "-c", ENHANCE, str(tmp_path), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, long = (int(line) / 1024 for line in done.stdout.split())  # MB
    assert long < short + 40
