"""Real-time factors as a bar chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sbm_cli.errors import DependencyError
from sbm_cli.timing.rtf import Row

WIDTH, LINE, MARGIN = 960, 34, 24  # pixels
LABELS = 260  # left of the bars
VALUES = 200  # right of the longest one
BARS = ("#2a6fbb", "#8c8c8c")  # ours, others
INK, GRID = "#222222", "#dddddd"


def require_pillow() -> None:
    """Raise DependencyError if pictures cannot be drawn."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DependencyError("pictures need Pillow", 'pip install "sbm-cli[plot]"') from error


def bar_chart(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG with a bar for every row: times real time on a logarithmic axis, longer is faster.

    Bars begin at 1: slower than real time, there is none. The system of the first row is ours.

    Raises DependencyError without Pillow.
    """
    require_pillow()
    from PIL import Image, ImageDraw, ImageFont

    rows = [row for row in rows if row.rtf]  # 0: work too short to tell from the start of the program
    speeds = [1 / row.rtf for row in rows]
    decades = max(1, math.ceil(math.log10(max(speeds, default=1.0))))
    unit = (WIDTH - LABELS - VALUES) / decades  # pixels per decade
    top = MARGIN + 2 * LINE
    bottom = top + LINE * len(rows)
    image = Image.new("RGB", (WIDTH, bottom + LINE + MARGIN), "white")
    draw = ImageDraw.Draw(image)
    font, bold = ImageFont.load_default(16), ImageFont.load_default(20)
    draw.text((MARGIN, MARGIN), title, INK, bold)
    for decade in range(decades + 1):
        x = LABELS + unit * decade
        draw.line((x, top, x, bottom), GRID)
        draw.text((x, bottom + 6), f"{10**decade}", INK, font, anchor="mt")
    draw.text((WIDTH - MARGIN, bottom + 6), "times real time", INK, font, anchor="rt")
    for index, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
        middle = top + LINE * (index + 0.5)
        end = LABELS + unit * max(0.0, math.log10(speed))
        draw.text((LABELS - 10, middle), f"{row.system}, {row.clip}", INK, font, anchor="rm")
        draw.rectangle((LABELS, middle - 0.33 * LINE, end, middle + 0.33 * LINE), BARS[row.system != rows[0].system])
        draw.text((end + 8, middle), f"{speed:.1f} (RTF {row.rtf:.4f})", INK, font, anchor="lm")
    image.save(path, "PNG")
