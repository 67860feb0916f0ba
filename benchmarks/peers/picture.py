"""An SVG of quality over speed: a panel for each subset, our models in colour, names beside their points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

PANELS = {"noise": "noise only", "reverb": "reverberant and noisy"}  # subsets and their titles
WIDTH, HEIGHT, PANEL = 800, 330, 320  # pixels; a panel's width
LEFT, TOP, BOTTOM, APART = 55, 40, 280, 385  # of the first panel, and how far right the next one begins
SPEEDS = (5, 10, 20, 50, 100, 200, 500)  # times real time
LETTER, LINE = 7.4, 12  # pixels: about a letter's width, and its height
OURS, THEIRS = "#2a6fbb", "#777"
Box = tuple[float, float, float, float]  # left, top, right, bottom


def picture(rows: Sequence[dict[str, Any]], metric: str, name: str) -> str:
    """Return the document; rows: label, rtf and scores as `run.py` has them, what lacks one of the two is left out."""
    parts = []
    for number, (subset, title) in enumerate(PANELS.items()):
        found = [row for row in rows if (row.get("scores") or {}).get(subset, {}).get(metric)]
        heights = [row["scores"][subset][metric] for row in found]
        parts += panel(LEFT + APART * number, title, found, subset, metric, ticks(min(heights), max(heights)))
    middle = (TOP + BOTTOM) / 2
    parts += [
        f'<text x="16" y="{middle}" transform="rotate(-90 16 {middle})" text-anchor="middle">{escape(name)}</text>',
        text(WIDTH / 2, HEIGHT - 12, "times faster than real time, one CPU thread", "middle"),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    style = 'font-family="sans-serif" font-size="12" fill="#333"'
    return "\n".join([f'{head} {style}>\n<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def panel(
    left: float, title: str, rows: Sequence[dict[str, Any]], subset: str, metric: str, marks: Sequence[float]
) -> list[str]:
    def place(speed: float, value: float) -> tuple[float, float]:
        share = math.log(speed / SPEEDS[0]) / math.log(SPEEDS[-1] / SPEEDS[0])
        return left + PANEL * share, BOTTOM - (BOTTOM - TOP) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [text(left + PANEL / 2, 24, title, "middle", ' font-weight="bold"')]
    for value in marks:
        y = place(1, value)[1]
        parts += [f'<path d="M{left} {y:.0f}h{PANEL}" stroke="#ddd"/>', text(left - 8, y + 4, f"{value:.1f}", "end")]
    for speed in SPEEDS:
        x = place(speed, 0)[0]
        parts += [f'<path d="M{x:.0f} {TOP}V{BOTTOM}" stroke="#eee"/>', text(x, BOTTOM + 18, str(speed), "middle")]
    points = {}
    for row in rows:
        if "rtf" in row:
            points[row["label"]] = place(1 / row["rtf"], row["scores"][subset][metric])
        else:
            y = place(1, row["scores"][subset][metric])[1]
            line = f'<path d="M{left} {y:.0f}h{PANEL}" stroke="#999" stroke-dasharray="4 4"/>'
            parts += [line, text(left + 4, y - 6, row["label"])]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points.values()]
    for label, (x, y) in sorted(points.items(), key=lambda point: -len(point[0].split(",")[0])):  # the longest first
        name = label.split(",")[0]
        colour = OURS if name.startswith("sbm") else THEIRS
        box = free_place(x, y, LETTER * len(name), taken, (left, TOP, left + PANEL, BOTTOM))
        taken.append(box)
        shown = text(box[0], box[3] - 2, name, style=f' fill="{colour}"')
        parts += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="{colour}"/>', shown]
    return parts


def free_place(x: float, y: float, width: float, taken: Sequence[Box], inside: Box) -> Box:
    """Return the place for a name beside a point, of several the one that overlaps least with what is taken."""
    corners = [(x + 9, y - 7), (x - 9 - width, y - 7)]
    corners += [(left, top) for left in (x - width / 2, x - 4, x + 4 - width) for top in (y - 21, y + 7)]
    boxes = [(a, b, a + width, b + LINE + 2) for a, b in corners]

    def overlap(a: Box, b: Box) -> float:
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    size = width * (LINE + 2)
    return min(boxes, key=lambda box: sum(overlap(box, other) for other in taken) + 9 * (size - overlap(box, inside)))


def ticks(low: float, high: float) -> list[float]:
    """Return multiples of .1, .2 or .5 around a range."""
    step = next(step for step in (0.1, 0.2, 0.5) if (high - low) / step <= 4 or step == 0.5)
    first, last = math.floor(low / step), math.ceil(high / step + 0.05)
    return [round(step * k, 1) for k in range(first, last + 1)]


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'
