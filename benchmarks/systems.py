"""The table of docs/systems.md, from what `sbm evaluate` found of models that were trained side by side.

    sbm evaluate corpus.csv --split report --model models/tiny-0.safetensors --model ... --json > one-step.json
    sbm rtf --seconds 10 --model models/tiny-0.safetensors --json > tiny-0.json
    python benchmarks/systems.py models one-step.json [more.json ...] [--rtf tiny-0.json ...] [--plot systems.svg]

A model lies in the folder `models` under the name that it has in the scores. Seeds of a system share a real-time
factor. M/s: million multiply-adds a second, those of products and convolutions as PyTorch counts them in a forward pass
over ten seconds; scans are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sbm_cli.data.test_sets import SUBSETS
from sbm_cli.model import Model
from sbm_cli.nn import kernels
from sbm_cli.plot.chart import Point, points

SCORES = {"pesq": ".2f", "estoi": ".3f", "si_sdr": ".1f", "ovrl": ".2f", "nisqa": ".2f"}
SECONDS = 10


def size(model: Model) -> tuple[int, float]:
    """Return how many parameters a model has that enhances, and the multiply-adds of a second of one call."""
    network, rate = model.network.fold(), model.config.rate
    spectrum, _ = model.config.to_network(torch.randn(1, SECONDS * rate) * 0.1)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), kernels.use("reference"):
        network(spectrum, spectrum, torch.ones(1))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 2 / SECONDS


def row(document: dict[str, Any], system: dict[str, Any], models: Path) -> str:
    """Return a line of the table."""
    cells = [system["name"]]
    for metric, form in SCORES.items():
        means = [document["scores"][subset][metric][system["name"]]["mean"]["mean"] for subset in SUBSETS]
        cells.append(" / ".join(format(mean, form) for mean in means))
    name = system["name"].partition(" ")[0]  # of the model; what follows are its steps
    count, operations = size(Model.load(models / f"{name}.safetensors"))
    cells += [f"{system['rtf']:.3f}", f"{count:,}".replace(",", " "), f"{operations / 1e6:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("scores", type=Path, nargs="+", help="JSON of `sbm evaluate`")
    parser.add_argument("--rtf", type=Path, nargs="*", default=[], help="JSON of `sbm rtf`, instead of the scores' own")
    parser.add_argument(
        "--plot", type=Path, help="SVG: PESQ with noise alone over the real-time factor, means of seeds"
    )
    options = parser.parse_args()
    timed = [json.loads(path.read_text()) for path in options.rtf]
    factors = {document["model"].rpartition("-")[0]: document["rows"][0]["rtf"] for document in timed}
    heads = ("system", "PESQ-wb", "ESTOI", "SI-SDR, dB", "DNSMOS OVRL", "NISQA", "RTF", "parameters", "M/s")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    places: dict[str, Point] = {}
    for path in options.scores:
        document = json.loads(path.read_text())
        for system in document["systems"]:
            name = system["name"]
            system["rtf"] = factors.get(name.rpartition("-")[0], system["rtf"])
            if name not in places:
                places[name] = system["rtf"], document["scores"]["noise"]["pesq"][name]["mean"]["mean"]
                print(row(document, system, options.models))
    if options.plot:
        together: dict[str, list[Point]] = {}  # seeds of a system, which its name ends in
        for name, place in places.items():
            together.setdefault(name.rpartition("-")[0] or name, []).append(place)
        found = {name: (fmean(x for x, _ in seeds), fmean(y for _, y in seeds)) for name, seeds in together.items()}
        options.plot.write_text(points("Systems of the paper, tiny", found, "real-time factor", "PESQ-wb, noise only"))


if __name__ == "__main__":
    main()
