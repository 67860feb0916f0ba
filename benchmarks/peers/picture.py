"""Draw quality over real-time factor, in the peers' environment: python picture.py FILE.png < rows of run.py, JSON."""

from __future__ import annotations

import json
import sys

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

SUBSETS = {"noise": "noise alone", "reverb": "reverberant and noisy"}
METRICS = {"ovrl": "DNSMOS OVRL", "pesq": "PESQ-wb"}

rows = json.load(sys.stdin)
figure = Figure(figsize=(10, 7.5), layout="constrained")
grid = figure.subplots(len(METRICS), len(SUBSETS), sharex=True, squeeze=False)
for line, (metric, name) in zip(grid, METRICS.items(), strict=True):
    for axes, (subset, title) in zip(line, SUBSETS.items(), strict=True):
        axes.set(xscale="log", ylabel=name, title=title)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        for row in rows:
            if "rtf" not in row:
                axes.axhline(row["scores"][subset][metric], color="grey", linestyle=":", label="unprocessed")
            elif row["scores"]:
                axes.scatter(row["rtf"], row["scores"][subset][metric], label=row["label"], zorder=2)
            else:
                axes.axvline(row["rtf"], color="lightgrey", zorder=0)
                axes.text(row["rtf"], 0.02, row["label"], rotation=90, fontsize=7, transform=axes.get_xaxis_transform())
for axes in grid[-1]:
    axes.set_xlabel("real-time factor, one thread (left is faster)")
figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
figure.savefig(sys.argv[1], dpi=100)
