"""Compression inverts exactly and keeps silence and phase."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.dsp.compress import Compression


@given(
    exponent=st.floats(0.2, 1.0),
    factor=st.floats(0.1, 3.0),
    size=st.floats(1e-4, 1e3),
    phase=st.floats(-3.1, 3.1),
)
def test_expand_undoes_compress(exponent: float, factor: float, size: float, phase: float) -> None:
    compression = Compression(exponent, factor)
    spectrum = torch.polar(torch.tensor([size]), torch.tensor([phase]))
    compressed = compression.compress(spectrum)
    assert compressed.abs().item() == pytest.approx(factor * size**exponent, rel=1e-4)
    torch.testing.assert_close(compressed.angle(), spectrum.angle())
    torch.testing.assert_close(compression.expand(compressed), spectrum, rtol=1e-4, atol=0)


def test_silence_stays_silence_and_has_a_finite_gradient() -> None:
    compression = Compression(0.5, 0.33)
    zero = torch.zeros(4, dtype=torch.complex64, requires_grad=True)
    assert not compression.compress(zero).abs().any()
    compression.expand(zero).abs().square().sum().backward()
    assert zero.grad is not None and torch.isfinite(torch.view_as_real(zero.grad)).all()


def test_refuses_what_is_no_compression() -> None:
    for exponent, factor in [(0.0, 1.0), (1.5, 1.0), (0.5, 0.0)]:
        with pytest.raises(ValueError):
            Compression(exponent, factor)
