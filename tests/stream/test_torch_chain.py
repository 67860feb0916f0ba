"""The chain on another device: that of PyTorch without numbers, which refuses to mix with a CPU or to hand one over."""

from __future__ import annotations

import pytest
import torch

from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn import kernels
from sbm_cli.nn.configs import NCSNppConfig, NetworkConfig, OSpatialNetConfig
from sbm_cli.options import Options
from sbm_cli.stream.torch_chain import TorchChain

MAMBA = OSpatialNetConfig(
    channels=16, blocks=1, d_state=4, cross_groups=2, squeeze=2, head=2, lookahead=1, keep_room=True
)
CONVOLUTIONS = NCSNppConfig(channels=(8, 8), blocks=1)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (MAMBA, Options()),
        (MAMBA, Options(dereverb=0.5)),
        (MAMBA, Options(steps=2, sampler="sde")),
        (MAMBA, Options(steps=2, sampler="heun")),
        (CONVOLUTIONS, Options(steps=2)),
    ],
)
def test_all_is_computed_where_the_network_is_without_waiting(
    network: NetworkConfig, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which does not know this device
    model = Model(network.build().to("meta"), ModelConfig("toy", network=network))
    chain = TorchChain(model, [2, 1], options, high=True, threads=1)
    with torch.inference_mode(), kernels.use("reference"):
        for frames in (20, 5):
            spectrum = torch.empty(3, 257, frames, dtype=torch.complex64, device="meta")
            clean = chain.enhanced(spectrum)
            assert clean.shape == (9, 257, frames)
            assert clean.device.type == "meta"
