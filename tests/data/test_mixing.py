"""The mixture generator: keys, alignment, SNR, levels and what each part of the recipe does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sbm_cli.data import mixing
from sbm_cli.data.corpus import LEVEL_DBFS, Corpus
from sbm_cli.data.corpus import active_power as active_power_of_one
from sbm_cli.data.filters import active_power, band_limited, fast_length, played, reverberate, shelved, through_room
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import MixConfig, Mixer, change, keep_room, noise_gain
from sbm_cli.data.random import Draws
from sbm_cli.data.room_responses import ResponseBank, scaled, simulate_room
from sbm_cli.data.segments import (
    Segments,
    _assemble_at_once,
    assemble,
    draw_colour,
    synthetic,
)
from sbm_cli.errors import ConfigError
from tests.data.conftest import bank_of, corpus_of

CPU = torch.device("cpu")
DRY = MixConfig(segment_seconds=1.0, p_reverb=0, p_reverb_only=0, p_clean=0, p_floor=0, p_band_limit=0, p_clipped=0)

OFTEN = {"gap_ms": (10.0, 20.0), "gap_share": (0.4, 0.5), "p_packet_loss": 0.0}  # no segment is without a gap


def draws(items: int = 1, seed: int = 0) -> Draws:
    return Draws(seed, 0, torch.arange(items), 0, 1000)


def speech(segments: Segments, numbers: Draws, samples: int) -> Tensor:
    return assemble(segments.store, segments.speech(numbers, segments.utterances.draw(numbers), samples), samples)


def noise_of(segments: Segments, numbers: Draws, samples: int) -> Tensor:
    return assemble(segments.store, segments.noise(numbers, samples), samples)


def db(power: Tensor) -> Tensor:
    return 10 * power.log10()


def lag(a: Tensor, b: Tensor) -> int:
    n = 2 * len(a)
    return int(torch.fft.irfft(torch.fft.rfft(a, n) * torch.fft.rfft(b, n).conj()).argmax())


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest distance between two cumulative distributions, in units of its bound at p = 0.001."""
    both = torch.cat([a, b]).sort().values
    fractions = [torch.searchsorted(x.sort().values, both, right=True) / len(x) for x in (a, b)]
    return float((fractions[0] - fractions[1]).abs().max()) / (1.95 * math.sqrt(1 / len(a) + 1 / len(b)))


def test_same_key_same_mixture_whatever_came_before_and_beside_it(corpus: Corpus, rooms: ResponseBank) -> None:
    config = MixConfig(segment_seconds=1.0, p_second_talker=0.3, p_synthetic=0.3)
    mixer, other = Mixer(corpus, rooms, config), Mixer(corpus, rooms, config)
    other.batch(9, 0, range(3))
    wanted = torch.stack(mixer.batch(1, 41, range(12)))
    assert wanted.shape == (2, 12, RATE) and wanted.dtype == torch.float32
    for items in ([5, 1, 0], [11], [2, 3, 4, 6, 7, 8, 9, 10]):
        torch.testing.assert_close(torch.stack(other.batch(1, 41, items)), wanted[:, items], rtol=0, atol=1e-5)
    assert torch.equal(torch.stack(other.batch(1, 41, range(12))), wanted)
    for key in ((2, 41, [0]), (1, 42, [0]), (1, 41, [12])):
        assert not torch.allclose(mixer.batch(*key)[0], wanted[0, :1])


def test_every_item_of_the_recipe_is_finite_unclipped_and_in_range(corpus: Corpus, rooms: ResponseBank) -> None:
    config = MixConfig(segment_seconds=1.0, p_clipped=0.2, p_synthetic=0.3, p_band_limit=0.3, p_second_talker=0.3)
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, range(80))
    assert noisy.isfinite().all() and clean.isfinite().all()
    assert noisy.abs().max() <= 0.991
    levels = db(active_power(noisy))
    assert levels.min() > -45 and levels.max() <= -14.9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("p_reverb", 0.3),
        ("p_clean", 0.3),
        ("p_two_noises", 0.3),
        ("p_noise_backwards", 0.3),
        ("p_synthetic", 0.3),
        ("p_floor", 0.3),
        ("p_band_limit", 0.3),
        ("p_clipped", 0.3),
        ("p_second_talker", 0.3),
        ("p_bandwidth", 0.3),
        ("p_codec", 0.3),
        ("p_gaps", 0.3),
        pytest.param("p_clipped", 0.45, marks=pytest.mark.xfail(strict=True, reason="shows that the bound can fail")),
    ],
)
def test_each_part_happens_as_often_as_the_recipe_says(
    corpus: Corpus, rooms: ResponseBank, name: str, expected: float
) -> None:
    """What an item draws does not depend on the probabilities, so one more part is seen against the same items."""
    config, n = replace(DRY, segment_seconds=0.5, shelf_db=0.0, snr_db=(0.0, 5.0), **OFTEN), 400
    without, with_it = (Mixer(corpus, rooms, replace(config, **{name: p})).batch(4, 0, range(n))[0] for p in (0.0, 0.3))
    fraction = float(((without - with_it).abs().amax(1) > 1e-4 * without.abs().amax(1)).float().mean())
    assert fraction == pytest.approx(expected, abs=4 * math.sqrt(0.3 * 0.7 / n))


@pytest.mark.parametrize(("name", "low", "high"), [("level_dbfs", -40.0, -30.0), ("snr_db", -5.0, 20.0)])
def test_levels_are_spread_evenly_over_their_ranges(
    corpus: Corpus, rooms: ResponseBank, name: str, low: float, high: float
) -> None:
    config = replace(DRY, segment_seconds=0.5, level_dbfs=(-40.0, -30.0))
    noisy, clean = Mixer(corpus, rooms, config).batch(5, 0, range(400))
    power = active_power(noisy) if name == "level_dbfs" else active_power(clean) / (noisy - clean).square().mean(-1)
    assert distance(db(power), torch.linspace(low, high, 4000)) < 1
    assert distance(db(power), torch.linspace(low, high + 0.25 * (high - low), 4000)) > 1


def test_splits_do_not_mix(rooms: ResponseBank) -> None:
    recordings = [("speech", "a", "train", 2.0), ("speech", "v", "valid", 2.0)]
    mine = corpus_of([*recordings, ("noise", "n", "train", 2.0), ("noise", "w", "valid", 2.0)])
    for split, number in (("train", 0), ("valid", 1)):
        segments = Segments(mine, split, 0.0, CPU)
        for kind, drawn in (("speech", segments.utterances), ("noise", segments.noises)):
            assert drawn.start.tolist() == [mine.clips[mine.where(kind, split)[0]].start]
            assert mine.clips[mine.where(kind, split)[0]].path == str(number + 2 * (kind == "noise"))
    one, other = (Mixer(mine, rooms, DRY, split).batch(0, 0, [0])[1] for split in ("train", "valid"))
    assert not torch.allclose(one, other)
    with pytest.raises(ConfigError, match="no speech in the report split") as found:
        Mixer(mine, rooms, DRY, "report")
    assert found.value.hint


@pytest.mark.parametrize("reverb", [0.0, 1.0])
def test_snr_is_that_of_active_speech_after_the_room(corpus: Corpus, rooms: ResponseBank, reverb: float) -> None:
    config = replace(DRY, snr_db=(7.0, 7.0), p_reverb=reverb, p_noise_reverb=0.0)
    noisy, clean = Mixer(corpus, rooms, config).batch(3, 0, range(5))
    # the same draw without audible noise
    heard, alone = Mixer(corpus, rooms, replace(config, snr_db=(200.0, 200.0))).batch(3, 0, range(5))
    heard = heard * ((clean * alone).sum(1) / alone.square().sum(1))[:, None]
    ratio = db(active_power(heard) / (noisy - heard).square().mean(1))
    torch.testing.assert_close(ratio, torch.full((5,), 7.0), atol=0.05, rtol=0)


def test_target_is_the_clean_speech_through_the_early_part_at_lag_zero(corpus: Corpus) -> None:
    dry = speech(Segments(corpus, "train", 0.0, CPU), draws(6), RATE)
    for index in range(6):
        response = scaled(torch.from_numpy(simulate_room(8, index)[0]))
        wet, target = reverberate(dry[index, None], response[None])
        assert wet.shape == target.shape == (1, RATE)
        early = response[:208].numpy() * np.clip(1.5 - np.abs(np.arange(208) - 16) / 192, 0, 1) ** 0
        fade = np.clip((np.arange(-16, 192) / RATE - 0.006) / 0.006, 0, 1)
        early = early * (0.5 + 0.5 * np.cos(np.pi * fade))
        np.testing.assert_allclose(target[0], np.convolve(dry[index], early)[16 : 16 + RATE], atol=2e-5)
        np.testing.assert_allclose(wet[0], np.convolve(dry[index], response)[16 : 16 + RATE], atol=5e-5)
        assert lag(reverberate(dry[index, None], scaled(response[:40])[None])[1][0], dry[index]) == 0
        assert -6 < db(target.square().mean() / dry[index].square().mean()) < 6


def test_clean_items_pass_unchanged_but_for_the_floor(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_clean=1.0)
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, [0])
    assert torch.equal(noisy, clean)
    floor = replace(config, p_floor=1.0, floor_dbfs=(-60.0, -60.0))
    noisy, clean = Mixer(corpus, rooms, floor).batch(0, 0, [0])
    ratio = db(active_power(clean) / (noisy - clean).square().mean())
    usual = db(active_power(speech(Segments(corpus, "train", 0.0, CPU), draws(), RATE)))
    assert float(ratio) == pytest.approx(float(usual) + 60, abs=1)


def test_reverberation_only_adds_no_noise(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_reverb=1.0, p_reverb_only=1.0)
    (noisy, clean), (_, dry) = (Mixer(corpus, rooms, c).batch(0, 0, [0]) for c in (config, replace(DRY, p_clean=1.0)))
    response = scaled(torch.from_numpy(rooms.store.astype(np.float32)))
    for made, expected in zip((noisy, clean), reverberate(dry, response[None]), strict=True):
        torch.testing.assert_close(made / made.norm(), expected / expected.norm(), atol=1e-4, rtol=0)


def test_mixtures_of_a_recipe_stay_what_they_were(corpus: Corpus, rooms: ResponseBank) -> None:
    """New parts of a recipe leave a training that does without them alone: some samples of earlier versions."""
    noisy, _ = Mixer(corpus, rooms, MixConfig(segment_seconds=1.0)).batch(7, 0, range(4))
    expected = torch.tensor(
        [
            [-0.009185, 0.024336, -0.002231],
            [0.008391, -0.005006, 0.001894],
            [-0.001011, -0.029879, 0.065698],
            [0.012689, -0.047163, 0.032413],
        ]
    )
    torch.testing.assert_close(noisy[:, 2000::5000], expected, rtol=0, atol=2e-6)


def test_codecs_run_on_the_cpu(corpus: Corpus, rooms: ResponseBank) -> None:
    device = "meta"  # there is always one that is not the CPU
    assert Mixer(corpus, rooms, replace(DRY, p_codec=0.1), device=device).device.type == "cpu"


def test_clipping_touches_the_input_only(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_clean=1.0, p_clipped=1.0, clip_db=(6.0, 6.0))
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, [0])
    assert float(noisy.abs().max()) == pytest.approx(float(clean.abs().max()) / 2, rel=0.01)
    soft = clean.abs() < 0.9 * noisy.abs().max()
    assert torch.equal(noisy[soft], clean[soft])


def test_band_limit_takes_the_same_from_both(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_band_limit=1.0, band_limit_hz=(4000.0, 4000.0))
    for x in Mixer(corpus, rooms, config).batch(0, 0, [0]):
        power = torch.fft.rfft(x[0]).abs().square()
        assert power[4300:].sum() < 1e-3 * power[:3700].sum()
    white = torch.randn(2, RATE)
    limited = band_limited(white, torch.tensor([300.0, 0.0]), torch.tensor([3400.0, 3400.0]))
    spectrum, full = torch.fft.rfft(limited).abs(), torch.fft.rfft(white).abs()
    assert spectrum[0, :200].max() < 0.1 * full.max() < spectrum[1, :200].max()
    assert float((spectrum[0, 400:3100] / full[0, 400:3100]).median()) == pytest.approx(1, abs=0.01)


def test_a_second_talker_stays_in_the_target_at_his_level(rooms: ResponseBank) -> None:
    recordings = [("speech", name, "train", 2.0) for name in "ab"] + [("noise", "n", "train", 2.0)]
    mine = corpus_of([*recordings])
    config = replace(DRY, p_clean=1.0, level_dbfs=(-30.0, -30.0), second_talker_db=(-5.0, -5.0))
    alone = Mixer(mine, rooms, config).batch(0, 0, range(40))[1]
    noisy, both = Mixer(mine, rooms, replace(config, p_second_talker=1.0)).batch(0, 0, range(40))
    joined = (alone - both).abs().amax(1) > 1e-5  # the rest drew their own speaker four times
    assert torch.equal(noisy, both) and joined.float().mean() > 0.8
    alone, both = alone[joined], both[joined]
    other = both / both.norm(dim=1, keepdim=True)  # up to the level, the sum of the first talker and the other
    first = alone / alone.norm(dim=1, keepdim=True)
    rest = other / (other * first).sum(1, keepdim=True) - first
    ratio = db(rest.square().sum(1) / first.square().sum(1))
    assert ratio.mean() == pytest.approx(-5, abs=1.0)
    lonely = corpus_of([("speech", "a", "train", 2.0), ("noise", "n", "train", 2.0)])
    for p in (0.0, 1.0):  # nobody else to speak
        last = Mixer(lonely, rooms, replace(config, p_second_talker=p)).batch(0, 0, [0])[0]
        assert torch.equal(last, Mixer(lonely, rooms, config).batch(0, 0, [0])[0])


def test_measured_rooms_are_drawn_by_place(corpus: Corpus) -> None:
    """A pulse at another place in every response tells which one a noise went through."""
    responses = []
    for late in (0, 100, 200, 300):
        response = torch.zeros(600)
        response[16], response[16 + 200 + late] = 1, 0.5
        responses.append(response)
    bank = bank_of(*responses, place="hall")
    config = replace(DRY, p_reverb=1.0, p_reverb_only=1.0, p_measured=0.3)
    mixer = Mixer(corpus, bank, config)
    noisy, clean = mixer.batch(0, 0, range(200))
    late = torch.fft.irfft(torch.fft.rfft(noisy) * torch.fft.rfft(clean).conj())[:, 150:550].argmax(1) - 50
    fractions = torch.bincount((late / 100).round().long(), minlength=4) / 200
    torch.testing.assert_close(fractions, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=0.1, rtol=0)
    assert mixer._responses.beside.tolist() == [0, 2, 3, 2]


def test_silence_gives_numbers() -> None:
    clips = [
        Clip("s", "speech", "s", "", "", "train", None, None, 0, RATE, 1.0),
        Clip("n", "noise", "n", "", "n", "train", None, None, 0, RATE, 1.0),
    ]
    silent = Corpus(clips, np.zeros(RATE, np.int16))
    bank = bank_of(torch.full((40,), 9.0))
    for p_floor in (0.0, 1.0):
        mixer = Mixer(silent, bank, MixConfig(segment_seconds=1.0, p_floor=p_floor, p_clipped=0.5))
        noisy, clean = mixer.batch(0, 0, range(24))
        assert noisy.isfinite().all() and not clean.any() and noisy.abs().max() <= 1
    assert noise_gain(torch.zeros(1, 800), torch.zeros(1, 800), torch.zeros(1)) < 100


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9000), st.integers(0, 5))
def test_active_power_is_that_of_the_corpus(samples: int, seed: int) -> None:
    samples = max(samples, 320)
    loud = np.random.default_rng(seed).uniform(0, 1, samples // 320 + 1) ** 8
    audio = np.random.default_rng(seed).standard_normal(samples) * np.repeat(loud, 320)[:samples]
    both: NDArray[np.float32] = np.stack([audio, 0 * audio]).astype(np.float32)
    for mine, row in zip(active_power(torch.from_numpy(both)).tolist(), both, strict=True):
        assert mine == pytest.approx(active_power_of_one(row), rel=1e-4)


def test_noise_is_played_at_other_speeds_and_backwards() -> None:
    time = torch.arange(2000) / RATE
    tone = torch.sin(2 * math.pi * 400 * time).repeat(3, 1)
    at = played(tone, torch.tensor([1.0, 1.5, 0.75]), torch.zeros(3, dtype=torch.bool), 1000)
    assert torch.equal(at[0], tone[0, :1000])
    for row, hz in zip(at[1:], (600, 300), strict=True):
        torch.testing.assert_close(row, torch.sin(2 * math.pi * hz * time[:1000]), atol=0.01, rtol=0)
    back = played(tone, torch.tensor([1.0, 1.5, 0.75]), torch.ones(3, dtype=torch.bool), 1000)
    torch.testing.assert_close(back.flip(1), at, atol=1e-4, rtol=0)


def test_noise_at_another_speed_is_another_noise_beside_the_same_speech(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, noise_speed=(0.5, 2.0), level_dbfs=(-26.0, -26.0))
    noisy, clean = Mixer(corpus, rooms, config).batch(0, 0, range(40))
    assert noisy.isfinite().all()
    snr_db = db(active_power(clean) / (noisy - clean).square().mean(-1))
    assert -6 < float(snr_db.min()) and float(snr_db.max()) < 21


def test_filters_and_synthetic_noise() -> None:
    assert [fast_length(n) for n in (1, 7, 96, 97, 64017, 2**17 + 1)] == [2, 8, 96, 100, 64800, 131220]
    white = torch.randn(1, RATE)
    changed = shelved(white, torch.tensor([6.0]), torch.tensor([-6.0]))
    size_db = 20 * (torch.fft.rfft(changed).abs() / torch.fft.rfft(white).abs()).log10()[0]
    assert float(size_db[5:40].median()) == pytest.approx(6, abs=0.5) and size_db[7000:].median() < -4.5
    pulse = torch.zeros(1, 64)
    pulse[0, 16] = 1
    torch.testing.assert_close(through_room(white, pulse), white.roll(16, 1), atol=1e-5, rtol=0)
    noise = synthetic(torch.randn(20, RATE), RATE - 7, *draw_colour(draws(20)))
    assert noise.shape == (20, RATE - 7) and noise.dtype == torch.float32
    torch.testing.assert_close(db(noise.square().mean(1)), torch.full((20,), LEVEL_DBFS), atol=0.01, rtol=0)
    slopes, mains_hz, phases, level_db = draw_colour(draws(400))
    brown = synthetic(
        torch.randn(1, RATE), RATE, torch.tensor([2.0]), mains_hz[:1], phases[:1], level_db[:1] - torch.inf
    )
    power = torch.fft.rfft(brown[0]).abs().square()
    assert float(db(power[100:200].mean() / power[1000:2000].mean())) == pytest.approx(20, abs=2)
    assert float((level_db[:, 0] > -50).float().mean()) == pytest.approx(0.4, abs=0.1)
    assert float((mains_hz == 50).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_change_touches_the_chosen_rows_only() -> None:
    values = torch.arange(12.0).view(4, 3)
    change(values, torch.tensor([False, True, False, True]), lambda rows: -values[rows])
    assert values.sum(1).tolist() == [3, -12, 21, -30]
    change(values, torch.zeros(4, dtype=torch.bool), lambda rows: pytest.fail("nothing to compute"))


def test_the_way_of_a_gpu_gives_the_same(corpus: Corpus, rooms: ResponseBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU all rows are computed at once; here both ways run on the CPU."""
    config = MixConfig(
        segment_seconds=1.0, p_second_talker=0.3, p_synthetic=0.2, p_band_limit=0.3, p_bandwidth=0.3, p_gaps=0.3
    )
    mixer = Mixer(corpus, rooms, config)
    chosen = torch.stack(mixer.batch(0, 0, range(32)))
    monkeypatch.setattr(mixing, "rows_of", lambda mask: slice(None))
    monkeypatch.setattr(mixing, "assemble", _assemble_at_once)
    torch.testing.assert_close(torch.stack(mixer.batch(0, 0, range(32))), chosen, rtol=0, atol=1e-5)


@pytest.mark.cuda
def test_cuda_gives_the_same(corpus: Corpus, rooms: ResponseBank) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    config = MixConfig(segment_seconds=1.0, p_second_talker=0.3, p_bandwidth=0.3, p_gaps=0.3)
    host, device = (torch.stack(Mixer(corpus, rooms, config, device=d).batch(0, 0, range(64))) for d in ("cpu", "cuda"))
    torch.testing.assert_close(device.cpu(), host, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"p_clean": 1.2},
        {"p_floor": -0.1},
        {"p_second_talker": 2.0},
        {"snr_db": (20.0, -5.0)},
        {"p_reverb": 0.01},
        {"p_clean": 0.8},
        {"segment_seconds": 0.01},
        {"band_limit_hz": (3400.0, 9000.0)},
        {"bandwidth_hz": (100.0, 4000.0)},
        {"codecs": ("tape",)},
        {"codecs": ()},
        {"gap_ms": (0.0, 200.0)},
        {"gap_share": (0.0, 0.1)},
        {"burst_packets": (0.5, 2.0)},
    ],
)
def test_a_recipe_out_of_range_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changed))}.* got "):
        MixConfig(**changed)  # type: ignore[arg-type]


def test_who_asks_for_the_room_gets_it_without_the_noise(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_reverb=1.0)
    asked = replace(config, p_keep_room=0.5)
    wish = keep_room(asked, 3, 4, torch.arange(16))
    assert 3 < wish.sum() < 13
    noisy, direct = Mixer(corpus, rooms, config).batch(3, 4, range(16))
    same, target = Mixer(corpus, rooms, asked).batch(3, 4, range(16))
    assert torch.equal(noisy, same) and torch.equal(target[~wish], direct[~wish])
    _, wet = Mixer(corpus, rooms, replace(config, p_reverb_only=1.0)).batch(3, 4, range(16))
    assert not torch.allclose(target[wish], direct[wish], atol=1e-3)
    for row in wish.nonzero()[:, 0]:  # the reverberant speech, up to the level of the input
        quiet = Mixer(corpus, rooms, replace(config, p_reverb_only=1.0)).batch(3, 4, [int(row)])[0][0]
        assert torch.corrcoef(torch.stack([target[row], quiet]))[0, 1] > 0.999
    _, valid = Mixer(corpus, rooms, replace(asked, p_keep_room=1.0), "valid").batch(3, 4, range(4))
    assert torch.equal(valid, Mixer(corpus, rooms, config, "valid").batch(3, 4, range(4))[1])


def test_level_steps_and_offsets(corpus: Corpus, rooms: ResponseBank) -> None:
    config = replace(DRY, p_level_step=1.0, level_step_db=(-20.0, -20.0), snr_db=(60.0, 60.0), p_synthetic=1.0)
    before, after = (Mixer(corpus, rooms, c).batch(3, 4, range(8)) for c in (replace(config, p_level_step=0.0), config))
    for (plain, _), (stepped, clean) in zip(zip(*before, strict=True), zip(*after, strict=True), strict=True):
        gain = stepped / plain
        loud = plain.abs() > 0.2 * plain.abs().max()
        ends = gain[loud][:20].median(), gain[loud][-20:].median()
        assert 20 * math.log10(ends[0] / ends[1]) == pytest.approx(20, abs=0.5)
        assert torch.corrcoef(torch.stack([stepped, clean]))[0, 1] > 0.999  # the target is louder and softer with it
    offset, clean = Mixer(corpus, rooms, replace(config, p_offset=1.0)).batch(3, 4, range(8))
    assert torch.equal(clean, after[1])
    moved = (offset - after[0]).std(1), (offset - after[0]).mean(1).abs()
    assert moved[0].max() < 1e-6 and 0.01 < moved[1].max() <= 0.1
