"""NCSN++ has the shapes, the size and the start that are said of it, and is told the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sbm_cli.nn.backbones.ncsnpp import NCSNpp, resample
from sbm_cli.nn.configs import NCSNppConfig

SMALL = NCSNppConfig(bins=33, channels=(8, 8, 16), blocks=1)
END = torch.ones(1)


def spectrum(frames: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 33, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> NCSNpp:
    """One whose weights have left their starting point."""
    torch.manual_seed(0)
    network = SMALL.build()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("frames", [1, 7, 40])
def test_untrained_it_returns_its_input(frames: int) -> None:
    noisy = spectrum(frames)
    assert torch.equal(SMALL.build()(noisy, noisy, END)[0], noisy)


def test_the_default_is_of_the_size_in_the_papers_table() -> None:
    """25.16 million there; which variant that is was not published."""
    with torch.device("meta"):
        network = NCSNppConfig().build()
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(25.16e6, rel=0.03)


def test_everything_matters(network: NCSNpp) -> None:
    """State, noisy, time, each weight, and the future: it sees the whole utterance."""
    state, noisy = spectrum(20), spectrum(20) * 1j
    before, carry = network(state, noisy, END)
    assert before.shape == noisy.shape and carry == {}
    other = noisy.clone()
    other[..., 19] += 1
    for inputs in ((2 * state, noisy, END), (state, 2 * noisy, END), (state, noisy, 0.5 * END), (state, other, END)):
        assert not torch.allclose(network(*inputs)[0][..., 0], before[..., 0])
    before.abs().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_each_item_has_its_time_and_its_own_result(network: NCSNpp) -> None:
    noisy, t = spectrum(12), torch.tensor([0.3, 1.0])
    both = network(noisy, noisy, t)[0]
    for item in range(2):
        one = slice(item, item + 1)
        torch.testing.assert_close(network(noisy[one], noisy[one], t[one])[0], both[one])


def test_a_jump_grows_out_of_a_network_without_one(network: NCSNpp) -> None:
    """It begins without effect, and then the estimate depends on where the jump goes."""
    jumping = network.config.grown(replace(SMALL, jumps=True)).build()
    missing, unknown = jumping.load_state_dict(network.state_dict(), strict=False)
    assert (missing, unknown) == (["embedding.jump.weight"], [])
    noisy = spectrum(12)
    for to in (None, 0.5 * END):
        torch.testing.assert_close(jumping(noisy, noisy, END, to=to)[0], network(noisy, noisy, END)[0])
    jumping.embedding.jump.weight.data += 0.1
    assert not torch.allclose(jumping(noisy, noisy, END, to=0.5 * END)[0], jumping(noisy, noisy, END)[0])


def test_resampling_keeps_what_is_constant() -> None:
    for way, size in (("down", 4), ("up", 16)):
        image = resample(torch.ones(1, 3, 8, 8), way)
        assert image.shape == (1, 3, size, size)
        torch.testing.assert_close(image[..., 1:-1, 1:-1], torch.ones(1, 3, size - 2, size - 2))


@pytest.mark.parametrize("wrong", [{"channels": ()}, {"blocks": 0}, {"channels": (8, 5000)}, {"lookahead": 2}])
def test_dimensions_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="(blocks|channels) must be in|1 to 8 resolutions|no lookahead or keep_room"):
        NCSNppConfig(**wrong)  # type: ignore[arg-type]
