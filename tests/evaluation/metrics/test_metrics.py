"""Scores against known values, against speechmos itself, and for every kind of unusable signal."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sbm_cli.audio.samples import Samples
from sbm_cli.audio.sdr import LIMIT, si_sdr
from sbm_cli.evaluation import metrics as module
from sbm_cli.evaluation.metrics import METRICS, available_metrics, dnsmos, score
from sbm_cli.evaluation.metrics.metric import RATE

ALL = tuple(METRICS)
INTRUSIVE = ("si_sdr", "estoi", "pesq")
DNSMOS = ("sig", "bak", "ovrl", "p808")


def speech_like(seconds: float, seed: int = 0) -> Samples:
    """Return a buzz of 120 Hz with random syllables: enough of speech for every metric."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE), dtype=np.float64) / RATE
    knots = np.arange(0, seconds + 1, 0.12)
    harmonics = [np.sin(2 * np.pi * 120 * k * time + k * k) / k for k in range(1, 40)]
    syllables = np.interp(time, knots, rng.random(knots.size) ** 2)
    speech = 0.1 * syllables * (np.sum(harmonics, axis=0) + rng.standard_normal(time.size))
    return np.asarray(speech, dtype=np.float32)


def noise_like(samples: Samples, snr: float, seed: int = 1) -> Samples:
    noise = np.random.default_rng(seed).standard_normal(samples.size)
    scale = np.sqrt(np.mean(samples.astype(np.float64) ** 2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    return np.asarray(noise * scale, dtype=np.float32)


def need(*names: str) -> None:
    """Skip by name where an extra is not installed: absent metrics are allowed, wrong ones are not."""
    if absent := [reason for name in names if (reason := available_metrics()[name])]:
        pytest.skip("; ".join(absent))


def speechmos_dnsmos() -> ModuleType:
    need(*DNSMOS)
    original: ModuleType = pytest.importorskip(
        "speechmos.dnsmos", reason="speechmos.dnsmos imports requests", exc_type=ImportError
    )
    return original


@pytest.fixture(scope="module")
def clean() -> Samples:
    return speech_like(3.0)


# SI-SDR ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [-20.0, -3.0, 0.0, 12.5, 60.0])
def test_si_sdr_of_signal_plus_orthogonal_noise_is_their_ratio(ratio: float) -> None:
    phase = 2 * np.pi * np.arange(RATE) / RATE
    target, error = np.sin(100 * phase), np.cos(100 * phase) * 10 ** (-ratio / 20)
    assert si_sdr((target + error).astype(np.float32), target.astype(np.float32)) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize("gain", [1e-3, -0.5, 8.0])
def test_si_sdr_does_not_depend_on_gain(clean: Samples, gain: float) -> None:
    noisy = clean + noise_like(clean, 3.0)
    gained = (gain * noisy).astype(np.float32)
    assert si_sdr(gained, clean) == pytest.approx(si_sdr(noisy, clean), abs=1e-4)


def test_si_sdr_is_defined_for_copies_and_for_silence(clean: Samples) -> None:
    silence = np.zeros_like(clean)
    assert si_sdr(clean, clean) == si_sdr(silence, silence) == LIMIT
    assert si_sdr(silence, clean) == si_sdr(clean, silence) == -LIMIT


def test_si_sdr_keeps_the_mean() -> None:
    clean = np.ones(100, dtype=np.float32)
    assert si_sdr(clean, clean) == LIMIT


# ESTOI and PESQ -------------------------------------------------------------------------------------------------------


def test_identical_signals_reach_the_upper_ends(clean: Samples) -> None:
    need("estoi", "pesq")
    scores = score(("estoi", "pesq"), clean, clean)
    assert scores["estoi"] == pytest.approx(1.0, abs=1e-6)
    assert scores["pesq"] == pytest.approx(4.644, abs=1e-3)  # P.862.2 maps the raw 4.5 there
    assert not scores.reasons


def test_more_noise_scores_lower_in_every_intrusive_metric(clean: Samples) -> None:
    names = (*INTRUSIVE, "stoi", "pesq_nb", "ssnr", "cbak", "covl")
    need(*names)
    rows = [score(names, clean + noise_like(clean, snr), clean) for snr in (20.0, 10.0, 0.0)]
    for name in names:
        best, middle, worst = (row[name] or 0.0 for row in rows)
        assert best > middle > worst, name


def test_estoi_is_the_extended_one(clean: Samples) -> None:
    need("estoi")
    from pystoi import stoi

    noisy = clean + noise_like(clean, 5.0)
    extended, plain = (stoi(clean, noisy, RATE, extended=value) for value in (True, False))
    assert score(["estoi", "stoi"], noisy, clean) == pytest.approx({"estoi": extended, "stoi": plain}, abs=1e-9)
    assert abs(extended - plain) > 0.01


# DNSMOS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3.0, 10.5])  # repeated; one window, the rest left out
def test_dnsmos_equals_speechmos(seconds: float) -> None:
    original = speechmos_dnsmos()
    clip = speech_like(seconds)
    clip += noise_like(clip, 10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # librosa: empty mel filters
        expected = original.run(clip, RATE)
    names = {"sig": "sig_mos", "bak": "bak_mos", "ovrl": "ovrl_mos", "p808": "p808_mos"}
    assert score(DNSMOS, clip) == pytest.approx({name: expected[theirs] for name, theirs in names.items()}, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.01, 4.0, 9.0, 9.01, 11.0, 17.3, 30.0])
def test_dnsmos_windows_are_those_of_speechmos(seconds: float) -> None:
    windows: list[Samples] = []

    class Session:
        def run(self, _: None, inputs: dict[str, Samples]) -> list[Samples]:
            windows.append(inputs["input_1"][0])
            return [np.zeros((1, 3), dtype=np.float32)]

    theirs = object.__new__(speechmos_dnsmos().DNSMOS)
    theirs.onnx_sess = theirs.p808_onnx_sess = Session()
    theirs.audio_melspec = lambda audio: audio[None]
    ramp = np.linspace(-1, 1, round(seconds * RATE), dtype=np.float32)
    theirs(ramp, RATE, False)
    ours = dnsmos.windows(ramp)
    assert len(ours) == len(windows) // 2  # one run for P.808 and one for P.835
    assert all(np.array_equal(a, b) for a, b in zip(ours, windows[1::2], strict=True))


def test_dnsmos_clamps_as_a_file_would(clean: Samples) -> None:
    need(*DNSMOS)
    loud = 20 * clean
    assert np.abs(loud).max() > 1
    assert score(["p808"], loud) == score(["p808"], np.clip(loud, -1, 1))


def test_the_three_p835_scores_share_one_run(clean: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    need("sig")
    calls: list[int] = []

    def p835(samples: Samples) -> dict[str, float]:
        calls.append(samples.size)
        return {"sig": 1.0, "bak": 2.0, "ovrl": 3.0}

    for name in ("sig", "bak", "ovrl"):
        monkeypatch.setitem(METRICS, name, replace(METRICS[name], compute=p835))
    assert score(("ovrl", "sig", "bak"), clean) == {"ovrl": 3.0, "sig": 1.0, "bak": 2.0}
    assert calls == [clean.size]


# What cannot be scored ------------------------------------------------------------------------------------------------


QUICK = (*INTRUSIVE, "p808")


def test_without_a_reference_only_the_others_remain(clean: Samples) -> None:
    need(*QUICK)
    scores = score(QUICK, clean)
    assert [name for name, value in scores.items() if value is None] == list(INTRUSIVE)
    assert scores.reasons == dict.fromkeys(INTRUSIVE, "no clean reference")


@pytest.mark.parametrize(
    ("estimate", "reference", "reasons"),
    [
        (np.zeros(0), np.zeros(0), dict.fromkeys(QUICK, "no samples")),
        (np.full(RATE, np.nan), np.ones(RATE), dict.fromkeys(QUICK, "samples are not finite")),
        (np.ones(RATE), np.full(RATE, np.inf), dict.fromkeys(INTRUSIVE, "samples are not finite")),
        (np.ones(RATE), np.zeros(RATE), dict.fromkeys(("si_sdr", "estoi", "pesq"), "the clean reference is silent")),
        (np.zeros(RATE), np.ones(RATE), {"pesq": "the estimate is silent"}),
    ],
    ids=["empty", "NaN in the estimate", "infinity in the reference", "silent reference", "silent estimate"],
)
def test_unusable_signals_give_none_and_the_reason(
    estimate: Samples, reference: Samples, reasons: dict[str, str]
) -> None:
    need(*QUICK)
    scores = score(QUICK, estimate.astype(np.float32), reference.astype(np.float32))
    assert scores.reasons == reasons
    assert {name for name, value in scores.items() if value is None} == set(reasons)


def test_a_clip_too_short_for_estoi_and_pesq_stops_nothing_else() -> None:
    need(*QUICK)
    clip = speech_like(0.2)
    scores = score(QUICK, clip + noise_like(clip, 5.0), clip)
    assert "Not enough STFT frames" in scores.reasons.pop("estoi")
    assert "BufferTooShortError" in scores.reasons.pop("pesq")
    assert scores["estoi"] is None and scores["pesq"] is None
    assert not scores.reasons and scores["si_sdr"] == pytest.approx(5.0, abs=1.0) and scores["p808"] is not None


def test_pesq_without_an_utterance_says_so(clean: Samples) -> None:
    need("pesq")
    scores = score(["pesq"], clean, 1e-30 * clean)  # not silent, but its power is
    assert scores == {"pesq": None}
    assert scores.reasons == {"pesq": "NoUtterancesError: No utterances detected"}


def test_too_many_utterances_for_pesq_do_not_end_the_process() -> None:
    need("pesq")
    bursts = noise_like(np.full(30 * RATE, 0.1, dtype=np.float32), 0.0)
    bursts *= np.arange(bursts.size) % 6720 < 3360  # 71 of them, 0.21 s each
    scores = score(["pesq"], bursts + noise_like(bursts, 15.0, seed=2), bursts)
    assert scores == {"pesq": None}
    assert "50 utterances" in scores.reasons["pesq"]


def test_estoi_leaves_the_global_generator_alone(clean: Samples) -> None:
    need("estoi")
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    score(["estoi"], clean, clean)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before)


def test_an_absent_package_is_named_with_its_extra(clean: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pesq" else importlib.util.find_spec(name))
    reason = 'pesq not installed: pip install "sbm-cli[pesq]"'
    assert available_metrics()["pesq"] == reason
    assert available_metrics()["si_sdr"] == ""
    scores = score(("si_sdr", "pesq"), clean, clean)
    assert scores == {"si_sdr": LIMIT, "pesq": None}
    assert scores.reasons == {"pesq": reason}


def test_the_extras_are_those_of_the_package() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    for metric in METRICS.values():
        assert bool(metric.extra) == bool(metric.packages)
        assert not metric.extra or f"\n{metric.extra} = [" in project
