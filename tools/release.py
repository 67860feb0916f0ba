"""Release a trained model: copy its weights into the package and describe them in checkpoints.json.

    sbm evaluate corpus.csv --split report --model runs/tiny/sbm-tiny.safetensors --json > scores.json
    python tools/release.py runs/tiny/sbm-tiny.safetensors scores.json

The scores are those of the stored file. The model card in docs/models/ is written by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ["see docs/models for corpora, licences and attributions"]


def release(weights: Path, scores: Path, command: str) -> None:
    """Copy NAME.safetensors and NAME.json, and write the entry NAME; the first model becomes the default."""
    target = ROOT / "sbm_cli" / "weights"
    for source in (weights, weights.with_suffix(".json")):
        shutil.copyfile(source, target / source.name)
    document = json.loads(scores.read_text())
    system = document["systems"][0]["name"]
    means = {
        half: {metric: _means(row["noisy"], row[system]) for metric, row in rows.items()}
        for half, rows in document["scores"].items()
    }
    checkpoints = ROOT / "checkpoints.json"
    entries = json.loads(checkpoints.read_text())
    config = weights.with_suffix(".json")
    entries["models"][weights.stem] = {
        "source": "bundled",
        "file": weights.name,
        "config": config.name,
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "license": "Apache-2.0",
        "training_data": DATA,
        "scores": means,
        "command": command,
    }
    checkpoints.write_text(json.dumps(entries, indent=2) + "\n")


def _means(noisy: dict[str, Any], enhanced: dict[str, Any]) -> dict[str, float]:
    found = {"noisy": noisy["mean"], "enhanced": enhanced["mean"], "gain": enhanced["gain"]}
    return {name: round(interval["mean"], 3) for name, interval in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("scores", type=Path, help="JSON of `sbm evaluate --split report`")
    parser.add_argument("--command", default="sbm evaluate MANIFEST --split report --model NAME --json")
    arguments = parser.parse_args()
    release(arguments.weights, arguments.scores, arguments.command)
