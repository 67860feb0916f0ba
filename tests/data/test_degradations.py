"""Bandwidth, codecs and gaps: what they do to a signal, and that they leave everything else alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.degradations import CODECS, PACKET, PAUSE, coded, gap_draws, gaps, low_pass
from sbm_cli.data.filters import fast_length, filtered
from sbm_cli.data.manifest import RATE
from sbm_cli.data.mixing import MixConfig, Mixer
from sbm_cli.data.random import Draws
from sbm_cli.data.room_responses import ResponseBank
from tests.data.test_mixing import DRY, OFTEN


def draws(items: int, count: int = 100) -> Draws:
    return Draws(0, 0, torch.arange(items), 0, count)


def buzz(seconds: float) -> Tensor:
    """Return a tone gliding up from 100 Hz and its harmonics, louder and softer: no part of it is like another."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * k * (100 + 15 * time) * time + k * k) for k in range(1, 50))
    return torch.from_numpy(0.02 * tone * (1 + np.sin(2 * np.pi * 3 * time))).float()


def lag(a: Tensor, b: Tensor) -> int:
    n = 2 * len(a)
    return int(torch.fft.irfft(torch.fft.rfft(a, n) * torch.fft.rfft(b, n).conj()).argmax())


def test_low_passes_keep_what_lies_below_and_delay_nothing() -> None:
    size = fast_length(RATE + 480)
    gain = low_pass(draws(300), (3000.0, 3000.0), size)
    hz = torch.linspace(0, RATE / 2, size // 2 + 1)
    assert gain.min() >= 0 and gain.max() < 1.1  # real: no delay
    assert gain[:, hz < 1200].min() > 0.49  # a Chebyshev ripple of 3 dB, twice
    assert gain[:, hz > 7000].max() < 0.05
    half = torch.stack([hz[row > 0.5].max() for row in gain])
    assert half.min() > 2800 and half.max() < 4200  # of a Chebyshev filter the cutoff is where its ripple ends
    steep = torch.stack([hz[row > 0.01].max() for row in gain]) - half
    assert steep.min() < 100 and steep.max() > 1000  # of several orders
    pulse = torch.zeros(300, RATE)
    pulse[:, RATE // 2] = 1
    assert (filtered(pulse, gain, size).argmax(1) == RATE // 2).all()


def test_cutoffs_are_spread_over_their_range() -> None:
    cutoff = (low_pass(draws(300), (1700.0, 5500.0), RATE) > 0.25).sum(1).float()
    assert 1600 < cutoff.min() < 1900 and 5300 < cutoff.max() < 7000
    assert cutoff.mean() == pytest.approx(3800, abs=250)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_length_and_place(name: str) -> None:
    speech = buzz(1.3)[:20001]
    for place in (0.0, 0.5, 0.999):
        found = coded(speech[None], [name], torch.tensor([0]), torch.tensor([place]))[0]
        assert found.shape == speech.shape and found.dtype == torch.float32 and found.isfinite().all()
        assert lag(found, speech) == 0
        assert not torch.allclose(found, speech, atol=1e-3)
    if CODECS[name].rate == 8000:
        power = torch.fft.rfft(found).abs().square()
        assert power[len(power) * 9 // 16 :].sum() < 1e-3 * power.sum()  # above 4.5 kHz


def test_every_item_has_its_own_codec() -> None:
    speech = buzz(0.5).expand(3, -1)
    one = coded(speech, ["gsm", "ulaw"], torch.tensor([0, 1, 0]), torch.zeros(3))
    assert torch.equal(one[0], one[2]) and not torch.allclose(one[0], one[1], atol=1e-3)
    assert torch.equal(coded(speech[:1], ["ulaw"], torch.tensor([0]), torch.zeros(1))[0], one[1])


def runs(missing: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of whole gaps, and of the pauses between two of them, in samples."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for row in missing:
        edges = (row[1:] != row[:-1]).nonzero()[:, 0] + 1
        lengths = edges.diff()
        found[0].append(lengths[0::2])
        found[1].append(lengths[1::2])
    return torch.cat(found[0]), torch.cat(found[1])


def missing(p_packet_loss: float, share: float, burst: float = 3.0) -> Tensor:
    gap_ms, n = (10.0, 200.0), 6 * RATE
    numbers = draws(400, gap_draws(gap_ms, n))
    return gaps(numbers, (share, share), gap_ms, p_packet_loss, (burst, burst), n)


@pytest.mark.parametrize("p_packet_loss", [0.0, 1.0])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5])
def test_as_much_is_missing_as_asked_for(p_packet_loss: float, share: float) -> None:
    assert float(missing(p_packet_loss, share)[:, RATE:].float().mean()) == pytest.approx(share, rel=0.1)


def test_gaps_are_as_long_as_asked_for() -> None:
    lengths, pauses = runs(missing(0.0, 0.2))
    assert 160 <= lengths.min() < 200 and 3000 < lengths.max() <= 3200
    assert float(lengths.float().mean()) == pytest.approx(1680, rel=0.05)
    assert pauses.min() >= PAUSE


def test_packets_are_lost_in_bursts_as_by_gilbert() -> None:
    lengths, pauses = runs(missing(1.0, 0.2))
    assert (lengths % PACKET == 0).all() and (pauses % PACKET == 0).all()
    packets, between = lengths // PACKET, pauses // PACKET
    assert float(packets.float().mean()) == pytest.approx(3, rel=0.05)
    assert float((packets == 1).float().mean()) == pytest.approx(1 / 3, rel=0.05)
    longer = packets[packets > 3] - 3  # what has lasted for three packets goes on as if it had just begun
    assert float(longer.float().mean()) == pytest.approx(3, rel=0.1)
    assert 10 < float(between.float().mean()) < 12
    single, _ = runs(missing(1.0, 0.2, burst=1.0))
    assert (single == PACKET).all()


@pytest.mark.parametrize("name", ["p_bandwidth", "p_codec", "p_gaps", "p_soft_clip"])
def test_degradations_touch_some_inputs_and_no_target(corpus: Corpus, rooms: ResponseBank, name: str) -> None:
    config = MixConfig(segment_seconds=0.5, p_clipped=1.0, p_offset=0.5, **OFTEN)
    noisy, clean = Mixer(corpus, rooms, config).batch(2, 3, range(40))
    mixer = Mixer(corpus, rooms, replace(config, **{name: 0.5}))
    degraded, target = mixer.batch(2, 3, range(40))
    assert torch.equal(target, clean) and degraded.isfinite().all()
    touched = (degraded != noisy).any(1)
    assert 8 < touched.sum() < 32
    alone = torch.cat([mixer.batch(2, 3, [item])[0] for item in range(40)])
    torch.testing.assert_close(alone, degraded, rtol=0, atol=1e-3 if name == "p_codec" else 1e-5)


def test_degradations_of_one_item_follow_each_other(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_clean=1.0, p_bandwidth=1.0, bandwidth_hz=(1700.0, 1700.0), p_gaps=1.0, **OFTEN)
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, range(8))
    silent = noisy == 0
    assert (silent & (clean != 0)).any(1).all()
    heard, _ = Mixer(corpus, rooms, replace(config, p_gaps=0.0)).batch(0, 0, range(8))
    assert torch.equal(noisy[~silent], heard[~silent])  # gaps come last
    power = torch.fft.rfft(heard).abs().square()
    assert (power[:, 2600 * power.shape[1] // (RATE // 2) :].sum(1) < 0.02 * power.sum(1)).all()


def test_soft_clipping_rounds_off(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_clean=1.0, p_clipped=1.0, clip_db=(6.0, 6.0), p_soft_clip=1.0)
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, [0])
    ceiling = clean.abs().max() * 10 ** (-6 / 20)
    torch.testing.assert_close(noisy, ceiling * torch.tanh(clean / ceiling))
