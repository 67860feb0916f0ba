"""Bars, lines and points: each function returns a whole SVG document as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT, LINE = 760, 400, 30  # pixels; of a bar with its gap
TOP, BOTTOM, LEFT, RIGHT = 64, 56, 72, 170  # around the points; names stand on the right
LABELS, VALUES = 200, 180  # left and right of bars
# At least 3:1 beside the backgrounds of light pages and of dark ones.
COLOURS = ("#3b82d6", "#c9740a", "#16967a", "#a45bc9", "#d64b4b", "#7d858e")
_STYLE = """\
text{fill:#24292f;font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.line{fill:none;stroke-width:2}
.grid{stroke:#d0d7de}.back{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#3d444d}.back{fill:#0d1117}}"""


def bars(title: str, rows: Sequence[tuple[str, float, str]], axis: str, ours: int) -> str:
    """Draw a bar for every (label, value, what is written beside it), on a logarithmic axis from 1.

    ours: how many of the first rows have the first colour.
    """
    decades = max(1, math.ceil(math.log10(max((value for _, value, _ in rows), default=1.0))))
    unit, bottom = (WIDTH - LABELS - VALUES) / decades, TOP + LINE * len(rows)
    parts = []
    for decade in range(decades + 1):
        x = LABELS + unit * decade
        parts += [_grid(x, TOP, x, bottom), _text(x, bottom + 20, f"{10**decade}", "middle")]
    parts.append(_text(WIDTH - 16, bottom + 20, axis, "end"))
    for number, (label, value, note) in enumerate(rows):
        y, length = TOP + LINE * number, unit * max(0.0, math.log10(value))
        colour = COLOURS[0] if number < ours else COLOURS[-1]
        parts += [
            f'<rect x="{LABELS}" y="{y + 5}" width="{length:.1f}" height="{LINE - 10}" fill="{colour}"/>',
            _text(LABELS - 8, y + 20, label, "end"),
            _text(LABELS + length + 8, y + 20, note),
        ]
    return _document(title, parts, bottom + 36)


def lines(title: str, curves: Mapping[str, Sequence[Point]], across: str, up: str) -> str:
    """Draw a line for every name."""
    plane = _Plane([point for curve in curves.values() for point in curve])
    parts = plane.axes(across, up)
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(plane.place, curve))
        parts += [f'<polyline class="line" stroke="{colour}" points="{places}"/>', *_named(number, name)]
    return _document(title, parts, HEIGHT)


def points(
    title: str, named: Mapping[str, Point], across: str, up: str, level: tuple[str, float] = ("", math.nan)
) -> str:
    """Draw a point for every name, on a logarithmic axis across; level: a name and its height, if it has one."""
    name, height = level
    found, known = list(named.values()), math.isfinite(height)
    plane = _Plane(found + [(found[0][0], height)] * known, log=True)
    parts = plane.axes(across, up)
    if known:
        y = plane.place((1.0, height))[1]
        parts += [_grid(LEFT, y, WIDTH - RIGHT, y, ' stroke-dasharray="6 4"'), _text(LEFT + 6, y - 6, name)]
    for number, (name, point) in enumerate(named.items()):
        x, y = plane.place(point)
        colour = COLOURS[number % len(COLOURS)]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>', *_named(number, name)]
    return _document(title, parts, HEIGHT)


class _Plane:
    """The range of the points, a little widened, and where they lie in the picture."""

    def __init__(self, found: Sequence[Point], log: bool = False) -> None:
        self._log = log
        self._across = _range([self._scaled(x) for x, _ in found])
        self._up = _range([y for _, y in found])

    def place(self, point: Point) -> Point:
        (left, right), (low, high) = self._across, self._up
        x, y = (self._scaled(point[0]) - left) / (right - left), (point[1] - low) / (high - low)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    def axes(self, across: str, up: str) -> list[str]:
        parts = [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, across, "middle"), _text(16, TOP - 14, up)]
        for x in ticks(*self._across):
            value = 10**x if self._log else x
            place = self.place((value, self._up[0]))[0]
            parts.append(_grid(place, TOP, place, HEIGHT - BOTTOM))
            parts.append(_text(place, HEIGHT - BOTTOM + 18, f"{value:.2g}" if self._log else f"{value:g}", "middle"))
        for y in ticks(*self._up):
            place = self.place((1.0, y))[1]
            parts += [_grid(LEFT, place, WIDTH - RIGHT, place), _text(LEFT - 8, place + 4, f"{y:g}", "end")]
        return parts

    def _scaled(self, x: float) -> float:
        return math.log10(x) if self._log else x


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * (high - low) or 0.5 * (abs(high) or 1.0)
    return low - room, high + room


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers in a range, at most `most` + 1."""
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times * most >= high - low)
    return [round(k * step, 9) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _named(number: int, name: str) -> list[str]:
    """Return the mark and the name of a line or point, on the right."""
    x, y, colour = WIDTH - RIGHT + 16, TOP + 22 * number, COLOURS[number % len(COLOURS)]
    return [f'<rect x="{x}" y="{y}" width="14" height="8" rx="2" fill="{colour}"/>', _text(x + 22, y + 9, name)]


def _grid(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{style}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)  # XML takes few
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(shown)}</text>'


def _document(title: str, parts: Sequence[str], height: int) -> str:
    heading = _text(16, 30, title, kind=' class="title"')
    body = "\n".join([f"<style>{_STYLE}</style>", '<rect class="back" width="100%" height="100%"/>', heading, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n{body}\n</svg>\n'
