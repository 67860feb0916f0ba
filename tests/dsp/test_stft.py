"""The STFT reconstructs, streams, and scales as its docstring says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.dsp.stft import Stft

STFTS = [Stft(), Stft(n_fft=512, window=480, hop=160, shape="hann"), Stft(n_fft=64, window=48, hop=12)]


@pytest.mark.parametrize("stft", STFTS, ids=str)
@pytest.mark.parametrize("samples", [1, 2, 255, 256, 257, 1000])
def test_reconstructs_every_sample_up_to_both_ends(stft: Stft, samples: int) -> None:
    waveform = torch.randn(3, samples)
    spectrum = stft.forward(waveform)
    assert spectrum.shape == (3, stft.bins, stft.frames(samples))
    torch.testing.assert_close(stft.inverse(spectrum, samples), waveform, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stft", STFTS, ids=str)
@given(cuts=st.lists(st.integers(0, 700), max_size=8))
def test_stream_equals_whole_however_it_is_cut(stft: Stft, cuts: list[int]) -> None:
    waveform = torch.randn(2, 1500, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, stft.frames(1500) * stft.hop - 1500)
    analysis = synthesis = None
    spectra, blocks = [], []
    for block in [*torch.tensor_split(waveform, sorted(min(cut, 1500) for cut in cuts), 1), padding]:
        spectrum, analysis = stft.analyze(block, analysis)
        spectra.append(spectrum)
        if spectrum.shape[2]:
            samples, synthesis = stft.synthesize(spectrum, synthesis)
            blocks.append(samples)
    torch.testing.assert_close(torch.cat(spectra, 2), stft.forward(waveform), rtol=0, atol=1e-6)
    again = torch.cat(blocks, 1)[:, stft.overlap : stft.overlap + 1500]
    torch.testing.assert_close(again, waveform, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_white_noise_keeps_its_power(stft: Stft) -> None:
    waveform = 0.1 * torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
    assert stft.forward(waveform).abs().square().mean().item() == pytest.approx(0.01, rel=0.03)


def test_zeros_stand_before_the_first_sample_not_a_reflection() -> None:
    stft = Stft()
    first = stft.forward(torch.ones(1, 2000))[..., 0]
    window = torch.hann_window(512).sqrt() / torch.hann_window(512).sum().sqrt()
    torch.testing.assert_close(first[0], torch.fft.rfft(window * (torch.arange(512) >= 256)), rtol=0, atol=1e-5)


def test_first_use_in_inference_mode_does_not_spoil_gradients() -> None:
    stft = Stft()
    with torch.inference_mode():
        stft.forward(torch.ones(1, 600))
    waveform = torch.ones(1, 600, requires_grad=True)
    stft.inverse(stft.forward(waveform), 600).sum().backward()
    torch.testing.assert_close(waveform.grad, torch.ones(1, 600), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"hop": 100}, {"window": 600}, {"hop": 512}, {"shape": "kaiser"}])
def test_refuses_what_cannot_reconstruct(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Stft(**wrong)  # type: ignore[arg-type]
