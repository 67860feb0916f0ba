"""What a model does to speech that is clean, loud and soft by turns, offset, narrow or coded.

    python benchmarks/conditions.py corpus.csv [--model NAME] [--count 12]

Speech of the split `valid`. Level cases, with white noise 15 dB below it: by how much softer or louder the speech comes
out than from the undisturbed input, median and worst of the utterances:

    bang            a burst of noise of 0.1 s, 40 dB above the talker; the three seconds after it
    second talker   another voice 30 dB below the first one, who spoke before
    offset          0.1 of full scale on speech at -46 dBFS
    quiet channel   the right channel, 12 to 36 dB below the left one, with a talker of its own; on the left there is
                    another talker, or hiss alone; 36 dB below also one by one

Rooms, of models that can keep them: how much of the direct sound and of the late reverberation comes out (least
squares), and SI-SDR against the direct sound and against the reverberant speech, for ten mixtures with noise at 8 dB.

Quality cases: scores against the clean speech, of the input and of the output. MP3 comes back late by its own delay,
which PESQ takes out and ESTOI does not: there it says nothing.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from sbm_cli.audio.samples import Samples
from sbm_cli.audio.sdr import si_sdr
from sbm_cli.data.corpus import Corpus, open_corpus
from sbm_cli.data.filters import reverberate
from sbm_cli.data.manifest import RATE
from sbm_cli.data.mixing import noise_gain
from sbm_cli.data.room_responses import scaled, simulate_room
from sbm_cli.data.test_sets import ROOM_SEEDS, _Segments
from sbm_cli.enhancer import Enhancer
from sbm_cli.evaluation.metrics import METRICS, score
from sbm_cli.options import Options

SECONDS = 4.0
SNR_DB = 15.0
METRIC_NAMES = ("pesq", "estoi")


def utterances(corpus: Corpus, count: int) -> list[Samples]:
    """Return so many recordings of different speakers, each of four seconds at -26 dBFS."""
    found: dict[str, Samples] = {}
    for index in corpus.where("speech", "valid"):
        clip, samples = corpus.clips[index], corpus.clip(index)
        if (clip.snr_db or 99) >= 40 and len(samples) >= SECONDS * RATE:
            found.setdefault(clip.speaker, samples[: round(SECONDS * RATE)])
    return list(found.values())[:count]


def with_noise(speech: Samples, rng: np.random.Generator) -> Samples:
    noise = rng.standard_normal(speech.shape).astype(np.float32)
    return speech + noise * np.float32(np.std(speech) * 10 ** (-SNR_DB / 20))


def level_cases(
    first: Samples, second: Samples, rng: np.random.Generator
) -> Iterator[tuple[str, Samples, Samples, Options]]:
    """Yield the name of a case, the disturbed and the undisturbed input, of which the last four seconds count."""
    speech, other = with_noise(first, rng), with_noise(second, rng)
    pause = with_noise(np.zeros(RATE // 2, np.float32) + np.float32(1e-4), rng)
    bang = pause.copy()
    bang[RATE // 4 :][: RATE // 10] += rng.standard_normal(RATE // 10).astype(np.float32) * np.float32(5.0)
    yield "bang", np.concatenate([0.2 * bang, 0.2 * speech]), np.concatenate([0.2 * pause, 0.2 * speech]), Options()
    soft = np.float32(10 ** (-30 / 20))
    yield "second talker", np.concatenate([speech, soft * other]), soft * other, Options()
    soft = np.float32(10 ** (-20 / 20))
    yield "offset", soft * speech + np.float32(0.1), soft * speech, Options()
    hiss = rng.standard_normal(len(speech)).astype(np.float32) * np.std(speech)
    for below in (12, 18, 24, 36):
        soft = np.float32(10 ** (-below / 20))
        for name, loud in (("a talker", speech), ("hiss", hiss)):
            yield f"quiet channel, {below} dB below {name}", np.stack([loud, soft * other]), soft * other, Options()
    alone = Options(link_channels=False)
    yield "quiet channel, one by one", np.stack([speech, soft * other]), soft * other, alone


def change_db(enhancer: Enhancer, disturbed: Samples, plain: Samples, options: Options) -> float:
    """Return the level of the last four seconds beside that of the undisturbed output, projected onto it."""
    found, expected = (
        np.atleast_2d(enhancer.enhance(x, RATE, chosen))[-1][-round(SECONDS * RATE) :]
        for x, chosen in ((disturbed, options), (plain, Options()))
    )
    part = slice(0, 3 * RATE)
    gain = float(found[part] @ expected[part] / (expected[part] @ expected[part]))
    return 20 * np.log10(max(gain, 1e-3))


def room_rows(enhancer: Enhancer, corpus: Corpus) -> Iterator[tuple[str, list[float]]]:
    """Yield `--dereverb` and the means of direct sound, late reverberation and both SI-SDR, the input at the end."""
    segments, rng = _Segments(corpus, "valid"), np.random.default_rng(5)
    rows: dict[str, list[list[float]]] = {}
    for number in range(10):
        speech = segments.speech(rng, 5 * RATE, segments.speakers[number % len(segments.speakers)])
        response = torch.from_numpy(simulate_room(ROOM_SEEDS["valid"], 500 + number)[0])
        wet, dry = reverberate(speech, scaled(response)[None])
        noise = segments.noise(rng, 5 * RATE)
        noisy = wet + noise_gain(wet, noise, torch.tensor([8.0])) * noise
        noisy, wet, dry = ((0.3 * x[0]).numpy() for x in (noisy, wet, dry))
        outputs = {
            f"{share:g}": enhancer.enhance(noisy, RATE, Options(dereverb=share)) for share in (1, 0.75, 0.5, 0.25, 0)
        }
        for name, found in {**outputs, "input": noisy}.items():
            parts = np.linalg.lstsq(np.stack([dry, wet - dry], 1), found, rcond=None)[0]
            rows.setdefault(name, []).append([*parts, si_sdr(found, dry), si_sdr(found, wet)])
    for name, found in rows.items():
        yield name, np.mean(found, 0).tolist()


def telephone(speech: Samples) -> Samples:
    """Return speech after G.711 at 8 kHz."""
    narrow = soxr.resample(speech, RATE, 8000)
    return soxr.resample(through(narrow, 8000, format="WAV", subtype="ULAW"), 8000, RATE)[: len(speech)]


def mp3(speech: Samples) -> Samples:
    """Return speech after MP3 at 32 kbit/s."""
    return through(speech, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=(160 - 32) / (160 - 8))


def through(samples: Samples, rate: int, **how: Any) -> Samples:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    file.seek(0)
    found = soundfile.read(file, dtype="float32")[0]
    return np.pad(found, (0, max(0, len(samples) - len(found))))[: len(samples)]


CODECS = {"telephone, G.711 at 8 kHz": telephone, "MP3 at 32 kbit/s": mp3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    options = parser.parse_args()
    enhancer, rng = Enhancer.load(options.model), np.random.default_rng(0)
    corpus = open_corpus(options.cache, [options.manifest])
    voices = utterances(corpus, options.count)

    print(f"| level case, {enhancer.config.name} | median, dB | worst, dB |\n|---|---|---|")
    changes: dict[str, list[float]] = {}
    for first, second in zip(voices, voices[1:] + voices[:1], strict=True):
        for name, disturbed, plain, how in level_cases(first, second, rng):
            changes.setdefault(name, []).append(change_db(enhancer, disturbed, plain, how))
    for name, found in changes.items():
        print(f"| {name} | {np.median(found):+.1f} | {max(found, key=abs):+.1f} |")

    if enhancer.config.network.keep_room:
        print("\n| --dereverb | direct sound | late reverberation | SI-SDR, direct | SI-SDR, with the room |")
        print("|---|---|---|---|---|")
        for name, (direct, late, *ratios) in room_rows(enhancer, corpus):
            print(f"| {name} | {direct:.2f} | {late:.2f} | {ratios[0]:.1f} dB | {ratios[1]:.1f} dB |")

    print(f"\n| quality case | {' | '.join(f'{METRICS[name].label}, in | out' for name in METRIC_NAMES)} |")
    print("|---|" + "---|" * 2 * len(METRIC_NAMES))
    inputs = {"clean": voices} | {name: [code(voice) for voice in voices] for name, code in CODECS.items()}
    for name, signals in inputs.items():
        rows = []
        for voice, signal in zip(voices, signals, strict=True):
            before, after = (score(METRIC_NAMES, x, voice) for x in (signal, enhancer.enhance(signal, RATE)))
            rows.append([value for metric in METRIC_NAMES for value in (before[metric], after[metric])])
        print(f"| {name} | {' | '.join(f'{mean:.2f}' for mean in np.mean(np.array(rows, float), 0))} |")


if __name__ == "__main__":
    main()
