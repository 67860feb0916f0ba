"""Charts that light and dark pages can show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sbm_cli.plot.chart import COLOURS, bars, lines, points, ticks

DRAWN = {
    "bars": bars("a & b", [("ours, 10 s", 38.0, "38.0"), ("<theirs>", 0.5, "0.5")], "times real time", 1),
    "lines": lines("run", {"training": [(0, 2.0), (100, 1.0)], "valid": [(100, 1.5)], "none": []}, "step", "loss"),
    "points": points("set", {"one": (0.02, 2.4), "two": (0.09, 2.1)}, "real-time factor", "PESQ"),
    "a level": points("set", {"one": (0.02, 2.4)}, "real-time factor", "PESQ", ("noisy", 1.5)),
    "one point": points("set", {"one": (0.02, 2.4)}, "real-time factor", "PESQ"),
    "nothing": lines("run", {}, "step", "loss"),
    "no bars": bars("none", [], "times real time", 0),
    "no text": bars("a\0", [("b\n", 2.0, "\udcff")], "times real time", 1),
}
_SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_is_an_svg_whose_parts_lie_inside(name: str) -> None:
    root = ElementTree.fromstring(DRAWN[name].encode())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.iter(f"{_SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width and 0 <= float(text.attrib["y"]) <= height
    for circle in root.iter(f"{_SVG}circle"):
        assert 0 < float(circle.attrib["cx"]) < width and 0 < float(circle.attrib["cy"]) < height
    for line in root.iter(f"{_SVG}polyline"):
        assert all(0 <= float(number) <= width for number in re.findall(r"[\d.-]+", line.attrib["points"]))


def test_what_is_drawn_has_names() -> None:
    texts = {
        name: [text.text for text in ElementTree.fromstring(svg).iter(f"{_SVG}text")] for name, svg in DRAWN.items()
    }
    assert {"a & b", "ours, 10 s", "<theirs>", "38.0", "times real time", "1", "10", "100"} <= set(texts["bars"])
    assert {"run", "training", "valid", "step", "loss", "0", "100", "1.6"} <= set(texts["lines"])
    assert {"one", "two", "real-time factor", "PESQ"} <= set(texts["points"])
    assert "noisy" in texts["a level"] and "stroke-dasharray" in DRAWN["a level"]


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("back", ["#ffffff", "#0d1117"])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_on_light_and_dark(colour: str, back: str) -> None:
    one, other = sorted([luminance(colour), luminance(back)])
    assert (other + 0.05) / (one + 0.05) >= 3


def test_text_follows_the_page() -> None:
    light, dark = DRAWN["lines"].split("@media(prefers-color-scheme:dark)")
    assert "text{fill:#24292f" in light and "text{fill:#e6edf3}" in dark


@pytest.mark.parametrize(
    ("end", "most", "expected"),
    [
        (8000, 7, [0, 2000, 4000, 6000, 8000]),
        (22050, 7, [0, 5000, 10000, 15000, 20000]),
        (0.3, 10, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (3600, 10, [0, 500, 1000, 1500, 2000, 2500, 3000, 3500]),
    ],
)
def test_ticks_are_round(end: float, most: int, expected: list[float]) -> None:
    assert ticks(0, end, most) == expected
