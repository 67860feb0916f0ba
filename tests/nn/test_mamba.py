"""The Mamba block has the parameters of mamba-ssm's, so that weights move both ways."""

import torch

from sbm_cli.nn.mamba import Mamba


def test_parameters_are_those_of_mamba_ssm() -> None:
    """Names and shapes as in state-spaces/mamba e9594ce, `Mamba(d_model=32, d_state=16, d_conv=4, expand=2)`."""
    assert {name: tuple(p.shape) for name, p in Mamba(32).state_dict().items()} == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 2 * 16, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_starts_with_published_step_sizes_and_decays() -> None:
    torch.manual_seed(0)
    mamba = Mamba(64)
    dt = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert 1e-3 * 0.99 <= dt.min() and dt.max() <= 0.1 * 1.01
    torch.testing.assert_close(mamba.A_log[0].exp(), torch.arange(1.0, 17.0))
