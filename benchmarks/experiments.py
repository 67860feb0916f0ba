"""What the bridge does inside a trained model: docs/experiments.md. Of seeded validation mixtures.

    python benchmarks/experiments.py time corpus.csv bridge=sbm-tiny mapping=runs/mapping-0/sbm-tiny.safetensors
    python benchmarks/experiments.py steps corpus.csv bridge=sbm-tiny
    python benchmarks/experiments.py probe corpus.csv bridge=sbm-tiny mapping=... [untrained=]

time: quality over the bridge time t, with (a) the noisy spectrum as the state and only the label t changed, (b) the
true bridge state at t, which needs the clean file; and how far the label alone moves the output along the mean.
steps: quality over the number of network calls, by both samplers.
probe: how much of clean - noisy, and of the difference of their magnitudes, a linear map finds in each block's scan
state at t = 1, for speakers that it was not fitted to. A model without a path is the first one's network, untrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sbm_cli import hub
from sbm_cli.bridge.sampler import draw_noise, sample
from sbm_cli.bridge.schedule import sample_state
from sbm_cli.data.corpus import open_corpus
from sbm_cli.data.test_sets import SUBSETS, Mixture, evaluation_set
from sbm_cli.evaluation.metrics import METRICS, score
from sbm_cli.model import Model, ModelConfig
from sbm_cli.plot.chart import lines

SCORES = ("si_sdr", "estoi", "pesq")  # DNSMOS would take longer than all the rest
TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
STEPS = (1, 2, 5, 10, 50)
EVERY = 8  # frames from one look at the states to the next
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)  # as shares of the mean variance of a feature


def load(path: str, like: Model | None) -> Model:
    if path:
        return Model.load(hub.resolve(path)).to("cpu")
    assert like is not None, "the first model needs a path"
    torch.manual_seed(0)
    return Model(like.config.network.build(), like.config).to("cpu")


def spectra(config: ModelConfig, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Return compressed noisy and clean spectra [1, freq, frames] and the level [1, frames]."""
    noisy, clean = (torch.from_numpy(x)[None] for x in (mixture.noisy, mixture.clean))
    y, level = config.to_network(noisy)
    return y, config.compress(config.stft.forward(clean), level), level


def waveform(config: ModelConfig, estimate: Tensor, level: Tensor, samples: int) -> np.ndarray:
    return config.to_waveform(estimate, level, samples)[0].numpy()


def means(mixtures: Sequence[Mixture], outputs: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Return the means of every score, of noise alone and of reverberant mixtures."""
    scores = [score(SCORES, output, mixture.clean) for output, mixture in zip(outputs, mixtures, strict=True)]
    return {
        name: [
            float(np.mean([s[name] for s, m in zip(scores, mixtures, strict=True) if m.subset == subset]))
            for subset in SUBSETS
        ]
        for name in SCORES
    }


def row(*cells: object, scores: dict[str, list[float]]) -> None:
    print(
        "| "
        + " | ".join(map(str, cells))
        + " | "
        + " | ".join(f"{scores[name][0]:.3f} / {scores[name][1]:.3f}" for name in SCORES)
        + " |",
        flush=True,
    )


def heading(*names: str) -> None:
    names += tuple(METRICS[name].label for name in SCORES)
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")


def time(models: dict[str, Model], mixtures: Sequence[Mixture], out: Path) -> None:
    heading("model", "state", "t")
    curves: dict[str, list[tuple[float, float]]] = {}
    moved: list[str] = []
    for name, model in models.items():
        network, config = model.network, model.config
        for kind in ("noisy", "bridge"):
            for t in TIMES:
                outputs, along = [], []
                generator = torch.Generator().manual_seed(0)
                for mixture in mixtures:
                    y, x0, level = spectra(config, mixture)
                    at = torch.tensor([t])
                    state = y if kind == "noisy" else sample_state(config.schedule, x0, y, at, draw_noise(y, generator))
                    estimate = network(state, y, at)[0]
                    outputs.append(waveform(config, estimate, level, mixture.clean.size))
                    if kind == "noisy":
                        along.append(projection(estimate - network(y, y, torch.ones(1))[0], x0 - y))
                scores = means(mixtures, outputs)
                row(name, kind, t, scores=scores)
                curves.setdefault(f"{name}, {kind}", []).append((t, float(np.mean(scores["pesq"]))))
                if kind == "noisy":
                    weight = config.schedule.marginal(torch.tensor([t]))[0].item()
                    share, cosine = np.mean(along, 0)
                    moved.append(f"| {name} | {t} | {weight:.3f} | {share:+.4f} | {cosine:+.3f} |")
    print("\n| model | t | weight of clean in the mean | moved, as a share of clean - noisy | cosine |")
    print("|---|---|---|---|---|")
    print("\n".join(moved))
    (out / "time.svg").write_text(lines("PESQ-wb, mean of both subsets", curves, "bridge time t", ""))


def projection(change: Tensor, direction: Tensor) -> tuple[float, float]:
    """Return the share of `direction` that a change holds, and the cosine between the two."""
    product = (change * direction.conj()).real.sum()
    norms = change.norm() * direction.norm()
    return (product / direction.norm() ** 2).item(), (product / norms).item() if norms > 0 else 0.0


def steps(models: dict[str, Model], mixtures: Sequence[Mixture], out: Path) -> None:
    heading("model", "sampler", "steps")
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, model in models.items():
        network, config = model.network, model.config
        for sampler in ("ode", "sde"):
            for count in STEPS:
                outputs = []
                generator = torch.Generator().manual_seed(0)
                for mixture in mixtures:
                    y, _, level = spectra(config, mixture)
                    estimate = sample(
                        lambda *inputs, network=network: network(*inputs)[0],
                        config.schedule,
                        y,
                        count,
                        sampler,
                        lambda like, generator=generator: draw_noise(like, generator),
                    )
                    outputs.append(waveform(config, estimate, level, mixture.clean.size))
                scores = means(mixtures, outputs)
                row(name, sampler, count, scores=scores)
                curves.setdefault(f"{name}, {sampler}", []).append((np.log10(count), float(np.mean(scores["pesq"]))))
    (out / "steps.svg").write_text(lines("PESQ-wb, mean of both subsets", curves, "log10 of the network calls", ""))


def probe(models: dict[str, Model], mixtures: Sequence[Mixture], out: Path) -> None:
    speakers = sorted({mixture.speaker for mixture in mixtures})
    held_out = set(speakers[::3])
    shuffle = np.random.default_rng(0)
    print(f"{len(speakers) - len(held_out)} speakers to fit, {len(held_out)} held out\n")
    print("| model | what is looked at | clean - noisy | shuffled | difference of magnitudes | shuffled |")
    print("|---|---|---|---|---|---|")
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, model in models.items():
        network, config = model.network, model.config
        blocks = config.network.blocks
        looks: dict[str, list[list[np.ndarray]]] = {"noisy frames": [[], []]}
        looks |= {f"block {i + 1}": [[], []] for i in range(blocks)}
        labels: list[list[np.ndarray]] = [[], []]
        for mixture in mixtures:
            side = mixture.speaker in held_out
            y, x0, _ = spectra(config, mixture)
            carry = None
            for first in range(0, y.shape[2] - EVERY + 1, EVERY):
                block = slice(first, first + EVERY)
                carry = network(y[..., block], y[..., block], torch.ones(1), carry)[1]
                last = first + EVERY - 1
                now, before = slice(last, last + 1), slice(last - 3, last + 1)
                both = x0 - y, x0.abs() - y.abs()
                labels[side].append(np.hstack([banded(part[0, :, now], config) for part in both]))
                frames = y[0, :, before]
                looks["noisy frames"][side].append(np.hstack([banded(frames, config), banded(frames.abs(), config)]))
                for i in range(blocks):
                    looks[f"block {i + 1}"][side].append(carry[f"narrow.{i}.scan"][0].flatten(1).numpy())
        fit_labels, test_labels = (np.concatenate(side) for side in labels)
        fit_labels = np.hstack([fit_labels, fit_labels[shuffle.permutation(len(fit_labels))]])
        test_labels = np.hstack([test_labels, test_labels])
        stride = config.network.stride
        groups = np.split(np.arange(6 * stride), [2 * stride, 3 * stride, 5 * stride])
        for look, sides in looks.items():
            fit_on, test_on = (np.concatenate(side) for side in sides)
            whole, sizes, whole_shuffled, sizes_shuffled = explained(fit_on, fit_labels, test_on, test_labels, groups)
            numbers = f"{whole:.3f} | {whole_shuffled:+.3f} | {sizes:.3f} | {sizes_shuffled:+.3f}"
            print(f"| {name} | {look} | {numbers} |", flush=True)
            if look.startswith("block"):
                curves.setdefault(name, []).append((float(look[6:]), sizes))
    (out / "probe.svg").write_text(lines("variance of the difference of magnitudes explained", curves, "block", ""))


def banded(spectrum: Tensor, config: ModelConfig) -> np.ndarray:
    """Return the numbers of a spectrum [freq, frames], real or complex, band by band: [bands, numbers]."""
    values = torch.view_as_real(spectrum) if spectrum.is_complex() else spectrum
    values = values[: config.network.bands * config.network.stride]
    return values.reshape(config.network.bands, -1).numpy()


def explained(
    fit_on: np.ndarray, fit_to: np.ndarray, test_on: np.ndarray, test_to: np.ndarray, groups: Sequence[np.ndarray]
) -> list[float]:
    """Return the share of the variance that ridge regression explains of what it was not fitted to, for each group.

    Groups are columns of fit_to and test_to. The ridge of each is the one of RIDGES that does best on the last fifth of
    what is fitted, without it.
    """
    centre, scale, mean = fit_on.mean(0), fit_on.std(0) + 1e-6, fit_to.mean(0)
    fit_on, test_on, fit_to, test_to = (
        (fit_on - centre) / scale,
        (test_on - centre) / scale,
        fit_to - mean,
        test_to - mean,
    )
    split = len(fit_on) * 4 // 5
    tried = _errors(fit_on[:split], fit_to[:split], fit_on[split:], fit_to[split:])
    errors, found = _errors(fit_on, fit_to, test_on, test_to), []
    for columns in groups:
        best = int(np.argmin(tried[:, columns].sum(1)))
        found.append(float(1 - errors[best, columns].sum() / np.square(test_to[:, columns]).sum()))
    return found


def _errors(fit_on: np.ndarray, fit_to: np.ndarray, test_on: np.ndarray, test_to: np.ndarray) -> np.ndarray:
    """Return the squared error of every column with each of RIDGES, [ridges, columns]."""
    values, vectors = np.linalg.eigh(fit_on.T @ fit_on)
    projected, seen = vectors.T @ (fit_on.T @ fit_to), test_on @ vectors
    ridges = np.array(RIDGES, np.float32) * len(fit_on)
    return np.stack([np.square(seen @ (projected / (values + ridge)[:, None]) - test_to).sum(0) for ridge in ridges])


WHAT: dict[str, Callable[[dict[str, Model], Sequence[Mixture], Path], None]] = {
    "time": time,
    "steps": steps,
    "probe": probe,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    options = parser.parse_args()
    models: dict[str, Model] = {}
    for name, path in (model.split("=", 1) for model in options.models):
        models[name] = load(path, next(iter(models.values()), None))
    mixtures = list(evaluation_set(open_corpus(options.cache, [options.manifest]), "valid", options.count))
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        WHAT[options.what](models, mixtures, options.out)


if __name__ == "__main__":
    main()
