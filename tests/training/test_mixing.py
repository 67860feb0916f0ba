"""The mixture generator: keys, alignment, SNR, levels and what each part of the recipe does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sbm_cli.errors import ConfigError
from sbm_cli.training.data import RATE, Clip, Corpus, Samples, active_power
from sbm_cli.training.filters import band_limited, reverberate, shelved, through_room
from sbm_cli.training.material import Material, synthetic
from sbm_cli.training.mixing import MixConfig, Mixer, noise_gain
from sbm_cli.training.rooms import RoomBank, make_room, simulate_room

DRY = MixConfig(segment_seconds=1.0, p_reverb=0, p_reverb_only=0, p_clean=0, p_floor=0, p_band_limit=0, p_clipped=0)


def corpus_of(recordings: Sequence[tuple[str, str, str, float]]) -> Corpus:
    """Make a corpus of (kind, speaker or group, split, seconds): speech in bursts, noise without pauses."""
    rng = np.random.default_rng(0)
    clips, parts, start = [], [], 0
    for number, (kind, name, split, seconds) in enumerate(recordings):
        n = int(seconds * RATE)
        audio = rng.standard_normal(n)
        if kind == "speech":
            audio *= np.sin(2 * np.pi * 2 * np.arange(n) / RATE) > -0.3
        clips.append(
            Clip(
                str(number),
                kind,
                kind + name[0],
                name if kind == "speech" else "",
                name,
                split,
                40.0,
                None,
                start,
                n,
                1e-5,
            )
        )
        parts.append((audio * 5000).clip(-32767, 32767).astype(np.int16))
        start += n
    return Corpus(clips, np.concatenate(parts))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    speech = [("speech", f"{s}{i}", "train", 2.0) for s in "ab" for i in range(3)]
    noise = [("noise", "x1", "train", 4.0), ("noise", "x2", "train", 0.3), ("noise", "y1", "train", 0.7)]
    return corpus_of([*speech, *noise, ("speech", "v", "valid", 2.0), ("noise", "w", "valid", 2.0)])


@pytest.fixture(scope="module")
def rooms() -> RoomBank:
    response = simulate_room(5, 1)[0]
    integers = np.round(response / np.abs(response).max() * 32767).astype(np.int16)
    return RoomBank([{"name": "r", "t60_s": 0.4, "start": 0, "samples": len(integers)}], integers)


def lag(a: Samples, b: Samples) -> int:
    n = 2 * len(a)
    found = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)))
    return int(np.argmax(found))


def test_same_key_same_arrays_whatever_came_before(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(segment_seconds=1.0)
    mixer, other = Mixer(corpus, rooms, config), Mixer(corpus, rooms, config)
    for _ in range(3):
        other.item(9, 0, 0)
    wanted = [mixer.item(1, 41, i) for i in range(4)]
    resumed = [other.item(1, 41, i) for i in (3, 1, 0, 2)]
    for i, (noisy, clean) in zip((3, 1, 0, 2), resumed, strict=True):
        np.testing.assert_array_equal(noisy, wanted[i][0])
        np.testing.assert_array_equal(clean, wanted[i][1])
        assert noisy.shape == clean.shape == (RATE,) and noisy.dtype == clean.dtype == np.float32
    for key in ((2, 41, 0), (1, 42, 0), (1, 41, 1)):
        assert not np.array_equal(mixer.item(*key)[0], wanted[0][0])


def test_every_item_of_the_recipe_is_finite_unclipped_and_in_range(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(segment_seconds=1.0, p_clipped=0.2, p_synthetic=0.3, p_band_limit=0.3)
    mixer = Mixer(corpus, rooms, config)
    for step in range(10):
        noisy, clean = map(np.stack, zip(*(mixer.item(0, step, i) for i in range(8)), strict=True))
        assert np.isfinite(noisy).all() and np.isfinite(clean).all()
        assert np.abs(noisy).max() <= 0.991
        levels = [10 * np.log10(active_power(x)) for x in noisy]
        assert min(levels) > -45 and max(levels) <= -14.9


def test_splits_do_not_mix(rooms: RoomBank) -> None:
    recordings = [("speech", "a", "train", 2.0), ("speech", "v", "valid", 2.0)]
    mine = corpus_of([*recordings, ("noise", "n", "train", 2.0), ("noise", "w", "valid", 2.0)])
    rng = np.random.default_rng(0)
    for split, speaker, group in (("train", "a", "n"), ("valid", "v", "w")):
        material = Material(mine, split)
        assert {material.speech(rng, 9000)[1] for _ in range(9)} == {speaker}
        assert {material.noise(rng, 9000, 0, 0)[1] for _ in range(9)} == {group}
    assert not np.array_equal(
        Mixer(mine, rooms, DRY, "train").item(0, 0, 0)[1], Mixer(mine, rooms, DRY, "valid").item(0, 0, 0)[1]
    )
    with pytest.raises(ConfigError, match="no speech in the report split") as found:
        Mixer(mine, rooms, DRY, "report")
    assert found.value.hint


@pytest.mark.parametrize("reverb", [0.0, 1.0])
def test_snr_is_that_of_active_speech_after_the_room(corpus: Corpus, rooms: RoomBank, reverb: float) -> None:
    config = MixConfig(**{**vars(DRY), "snr_db": (7.0, 7.0), "p_reverb": reverb, "p_noise_reverb": 0.0})
    quiet = MixConfig(**{**vars(config), "snr_db": (200.0, 200.0)})
    for item in range(5):
        noisy, clean = Mixer(corpus, rooms, config).item(3, 0, item)
        speech, alone = Mixer(corpus, rooms, quiet).item(3, 0, item)  # the same draw without audible noise
        scale = np.float32(np.dot(clean, alone) / np.dot(alone, alone))
        noise = noisy - speech * scale
        assert 10 * np.log10(active_power(speech * scale) / np.mean(noise**2)) == pytest.approx(7, abs=0.05)


def test_target_is_the_clean_speech_through_the_early_part_at_lag_zero(corpus: Corpus) -> None:
    rng = np.random.default_rng(1)
    for index in range(6):
        response, t60_s = simulate_room(8, index)
        room = make_room("r", t60_s, response)
        dry, _ = Material(corpus, "train").speech(rng, RATE)
        wet, target = reverberate(dry, room)
        assert len(wet) == len(target) == RATE
        np.testing.assert_allclose(target, np.convolve(dry, room.early)[16 : 16 + RATE], atol=2e-5)
        np.testing.assert_allclose(wet, np.convolve(dry, room.response)[16 : 16 + RATE], atol=5e-5)
        direct = make_room("d", t60_s, response[:40])
        assert lag(reverberate(dry, direct)[1], dry) == 0
        assert -6 < 10 * np.log10(np.mean(target**2) / np.mean(dry**2)) < 6


def test_clean_items_pass_unchanged_but_for_the_floor(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(**{**vars(DRY), "p_clean": 1.0})
    noisy, clean = Mixer(corpus, rooms, config).item(0, 0, 0)
    np.testing.assert_array_equal(noisy, clean)
    floor = MixConfig(**{**vars(config), "p_floor": 1.0, "floor_dbfs": (-60.0, -60.0)})
    noisy, clean = Mixer(corpus, rooms, floor).item(0, 0, 0)
    ratio = 10 * np.log10(active_power(clean) / np.mean((noisy - clean) ** 2))
    speech, _ = Material(corpus, "train").speech(np.random.default_rng(0), RATE)
    assert ratio == pytest.approx(10 * np.log10(active_power(speech)) + 60, abs=1)


def test_reverberation_only_adds_no_noise(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(**{**vars(DRY), "p_reverb": 1.0, "p_reverb_only": 1.0})
    noisy, clean = Mixer(corpus, rooms, config).item(0, 0, 0)
    dry, _ = Material(corpus, "train").speech(np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, 0])), RATE)
    wet, target = reverberate(dry, rooms.simulated(0))
    np.testing.assert_allclose(noisy / noisy.std(), wet / wet.std(), atol=1e-4)
    np.testing.assert_allclose(clean / clean.std(), target / target.std(), atol=1e-4)


def test_clipping_touches_the_input_only(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(**{**vars(DRY), "p_clean": 1.0, "p_clipped": 1.0, "clip_db": (6.0, 6.0)})
    noisy, clean = Mixer(corpus, rooms, config).item(0, 0, 0)
    assert np.abs(noisy).max() == pytest.approx(np.abs(clean).max() / 2, rel=0.01)
    soft = np.abs(clean) < 0.9 * np.abs(noisy).max()
    np.testing.assert_array_equal(noisy[soft], clean[soft])


def test_band_limit_takes_the_same_from_both(corpus: Corpus, rooms: RoomBank) -> None:
    config = MixConfig(**{**vars(DRY), "p_band_limit": 1.0, "band_limit_hz": (4000.0, 4000.0)})
    for x in Mixer(corpus, rooms, config).item(0, 0, 0):
        power = np.abs(np.fft.rfft(x)) ** 2
        assert power[4300:].sum() < 1e-3 * power[:3700].sum()
    white = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    (limited,) = band_limited([white], 300.0, 3400.0)
    spectrum, full = np.abs(np.fft.rfft(limited)), np.abs(np.fft.rfft(white))
    assert spectrum[:200].max() < 0.1 * full.max()
    assert np.median(spectrum[400:3100] / full[400:3100]) == pytest.approx(1, abs=0.01)


def test_speech_is_never_repeated_and_keeps_to_one_speaker() -> None:
    ramp = np.arange(1, 3001, dtype=np.int16)
    clips = [
        Clip(f"{i}", "speech", "s", speaker, "", "train", None, None, 0, 3000, 1.0) for i, speaker in enumerate("aab")
    ]
    store = np.concatenate([ramp, np.ones(9000, np.int16)])
    clips.append(Clip("n", "noise", "n", "", "n", "train", None, None, 3000, 9000, 1.0))
    material = Material(Corpus(clips, store), "train")
    for i in range(30):
        waveform, speaker = material.speech(np.random.default_rng(i), 40000)
        middles = np.count_nonzero(waveform == 1500)
        assert middles == (2 if speaker == "a" else 1)
        assert np.count_nonzero(waveform) <= 3000 * middles
    assert material.speakers == ["a", "b"] and material.speech(np.random.default_rng(0), 100, "b")[1] == "b"


def test_long_speech_is_cropped(corpus: Corpus) -> None:
    material = Material(corpus, "train")
    crops = [material.speech(np.random.default_rng(i), 1600, "a0")[0] for i in range(4)]
    whole = corpus.clip(0)
    starts = {int(np.argmin([np.abs(whole[s : s + 1600] - c).max() for s in range(len(whole) - 1599)])) for c in crops}
    assert len(starts) > 1 and all(len(c) == 1600 for c in crops)


def test_stated_snr_leaves_speech_out() -> None:
    clips = [
        Clip(str(snr), "speech", "s", f"sp{snr}", "", "train", snr, None, 0, 100, 1.0) for snr in (30.0, 40.0, None)
    ]
    clips.append(Clip("n", "noise", "n", "", "n", "train", None, None, 0, 100, 1.0))
    mine = Corpus(clips, np.ones(100, np.int16))
    assert Material(mine, "train", 38.0).speakers == ["sp40.0", "spNone"] and len(Material(mine, "train").speakers) == 3


def test_short_noise_fills_the_segment(corpus: Corpus) -> None:
    only = Corpus([c for c in corpus.clips if c.kind == "speech" or c.group == "y1"], corpus._store)
    material = Material(only, "train")
    for i in range(8):
        noise, group = material.noise(np.random.default_rng(i), 3 * RATE, 0.0, 0.0)
        assert group == "y1" and np.mean(noise != 0) > 0.35 and noise[-RATE:].any()
    assert "+" in material.noise(np.random.default_rng(0), RATE, 1.0, 6.0)[1]


def test_sources_are_drawn_by_the_square_root_of_their_minutes() -> None:
    mine = corpus_of([("speech", "a", "train", 9.0), ("speech", "b", "train", 1.0), ("noise", "n", "train", 1.0)])
    rng = np.random.default_rng(0)
    names = [Material(mine, "train").speech(rng, 800)[1] for _ in range(800)]
    assert names.count("a") / len(names) == pytest.approx(0.75, abs=0.05)


def test_silence_gives_numbers() -> None:
    clips = [
        Clip("s", "speech", "s", "", "", "train", None, None, 0, RATE, 1.0),
        Clip("n", "noise", "n", "", "n", "train", None, None, 0, RATE, 1.0),
    ]
    silent = Corpus(clips, np.zeros(RATE, np.int16))
    bank = RoomBank([{"name": "r", "t60_s": 0.2, "start": 0, "samples": 40}], np.full(40, 9, np.int16))
    for p_floor in (0.0, 1.0):
        mixer = Mixer(silent, bank, MixConfig(segment_seconds=1.0, p_floor=p_floor, p_clipped=0.5))
        for item in range(12):
            noisy, clean = mixer.item(0, 0, item)
            assert np.isfinite(noisy).all() and not clean.any() and np.abs(noisy).max() <= 1
    assert noise_gain(np.zeros(800, np.float32), np.zeros(800, np.float32), 0.0) < 100


def test_filters_and_synthetic_noise() -> None:
    white = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    change = 20 * np.log10(np.abs(np.fft.rfft(shelved(white, 6, -6))) / np.abs(np.fft.rfft(white)))
    assert np.median(change[5:40]) == pytest.approx(6, abs=0.5) and np.median(change[7000:]) < -4.5
    pulse = np.zeros(64, np.float32)
    pulse[16] = 1
    np.testing.assert_allclose(through_room(white, make_room("r", 0, pulse)), np.roll(white, 16), atol=1e-5)
    for seed in range(10):
        noise = synthetic(np.random.default_rng(seed), RATE)
        assert noise.dtype == np.float32 and 20 * np.log10(noise.std()) == pytest.approx(-26, abs=0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"p_clean": 1.2},
        {"p_floor": -0.1},
        {"snr_db": (20.0, -5.0)},
        {"p_reverb": 0.01},
        {"p_clean": 0.8},
        {"segment_seconds": 0.01},
        {"band_limit_hz": (3400.0, 9000.0)},
    ],
)
def test_a_recipe_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as found:
        MixConfig(**change)  # type: ignore[arg-type]
    assert str(next(iter(change))) in found.value.message and found.value.hint
