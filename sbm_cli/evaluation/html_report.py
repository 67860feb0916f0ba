"""The HTML report of an evaluation: tables, a plot, and players with spectrograms, in one self-contained file."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import numpy as np

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.folders import Item
from sbm_cli.evaluation.metrics.metric import RATE
from sbm_cli.evaluation.report import Evaluation, Table, absence, label, tables
from sbm_cli.evaluation.scoring import real_time_factor
from sbm_cli.evaluation.spectrogram import draw, spectrogram
from sbm_cli.evaluation.statistics import mean_interval
from sbm_cli.evaluation.systems import NOISY
from sbm_cli.timing.clips import Clip, write_clip

PLOTTED = ("pesq", "ovrl", "estoi", "si_sdr", "p808")  # the first one that was scored is the axis of quality
WIDTH, HEIGHT, LEFT, RIGHT, LOW = 448, 300, 55, 60, 40  # pixels of the plot and its margins
COLOURS = 32  # of a spectrogram in the report: a quarter of the bytes


@dataclass(frozen=True)
class Heard:
    """An item to hear and see: FLAC by system, and PNG of the noisy input above each other system."""

    id: str
    sounds: Mapping[str, bytes]
    pictures: Mapping[str, bytes]


def chosen(count: int, players: int) -> list[int]:
    """Return the numbers of the items that get a player, evenly spread."""
    return sorted({index * count // players for index in range(players)}) if players else []


def keep(item: Item, outputs: Mapping[str, Samples]) -> Heard:
    """Return the signals of an item, the noisy input among them, as sound in 16 bits and as pictures.

    Raises DependencyError without Pillow.
    """
    sounds, pictures, seen = {}, {}, {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sound.flac"
        for name, samples in outputs.items():
            write_clip(path, Clip(item.id, np.atleast_2d(samples), RATE), "FLAC")
            sounds[name], seen[name] = path.read_bytes(), spectrogram(path)
        for name in outputs:
            if name != NOISY:
                draw(seen[NOISY], seen[name], path)
                pictures[name] = _small_palette(path.read_bytes())
    return Heard(item.id, sounds, pictures)


def to_html(evaluation: Evaluation, heard: Sequence[Heard], about: str) -> str:
    """Return the report. about: a sentence on how the scores were obtained."""
    template = Template(Path(__file__).with_name("html_report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Evaluation on {evaluation.title}"),
        about=escape(f"{about} {absence(evaluation)}" if evaluation.absent else about),
        summary="\n".join(_summary(table) for table in tables(evaluation)),
        plot=_plot(evaluation),
        files=_files(evaluation),
        players="\n".join(_player(one) for one in heard),
    )


def _summary(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_named_cell, table.head, row))}</tr>" for row in table.rows)
    return (
        f'<h2>{escape(table.title[:1].upper() + table.title[1:])}</h2>\n<div class="wide cards" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _named_cell(column: str, text: str) -> str:
    return f'<td data-head="{escape(column)}">{escape(text)}</td>'


def _files(evaluation: Evaluation) -> str:
    names = ["file", "subset", "system", "seconds", *(label(metric) for metric in evaluation.metrics)]
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in names)
    rows = []
    for record in evaluation.records:
        numbers = [record.seconds, *(record.scores.get(metric) for metric in evaluation.metrics)]
        cells = [f"<td>{escape(text)}</td>" for text in (record.id, record.subset, record.system)]
        cells += [
            f'<td title="{escape(record.problem)}">–</td>' if x is None else f'<td data-value="{x:.6g}">{x:.3f}</td>'
            for x in numbers
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _player(heard: Heard) -> str:
    parts = [f"<section><h2>{escape(heard.id)}</h2>"]
    for name, sound in heard.sounds.items():
        parts.append(f"<h3>{escape(name)}</h3>")
        parts.append(f'<audio controls preload="metadata" src="{_data("audio/flac", sound)}"></audio>')
        if name in heard.pictures:
            about = escape(f"Spectrograms of {heard.id}: before, and after {name}")
            picture = f'<img alt="{about}" src="{_data("image/png", heard.pictures[name])}">'
            parts.append(f'<div class="wide" tabindex="0">{picture}</div>')
    return "\n".join([*parts, "</section>"])


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _small_palette(picture: bytes) -> bytes:
    from PIL import Image

    smaller = BytesIO()
    Image.open(BytesIO(picture)).quantize(COLOURS, dither=Image.Dither.NONE).save(smaller, "PNG", optimize=True)
    return smaller.getvalue()


def _plot(evaluation: Evaluation) -> str:
    """Return quality over real-time factor as SVG; "" if no system was timed or no metric computed."""
    metric = next((metric for metric in PLOTTED if metric in evaluation.metrics), None)
    if metric is None:
        return ""
    means = {
        system: mean_interval([r.scores[metric] for r in evaluation.records if r.system == system]).mean
        for system in evaluation.systems
    }
    factors = {system: real_time_factor(evaluation.records, system) for system in evaluation.systems}
    points = [(name, rtf, means[name]) for name, rtf in factors.items() if rtf and not math.isnan(means[name])]
    if not points:
        return ""
    return (
        f"<h2>{escape(label(metric))} over real-time factor</h2>\n"
        '<p class="note">Mean of all files. The real-time factor (processing time over audio duration; left is faster)'
        " is only a rough guide: scoring shared the machine, and other programs include their start."
        f" To measure it, use sbm rtf.</p>\n{''.join(_svg(points, means[NOISY], label(metric)))}"
    )


def _svg(points: Sequence[tuple[str, float, float]], noisy: float, quality: str) -> Iterator[str]:
    values = [value for *_, value in points] + ([] if math.isnan(noisy) else [noisy])
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.1
    low, high = low - room, high + room
    first = math.floor(math.log10(min(rtf for _, rtf, _ in points)))
    last = max(first + 1, math.ceil(math.log10(max(rtf for _, rtf, _ in points))))

    def x(rtf: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(rtf) - first) / (last - first)

    def y(value: float) -> float:
        return (HEIGHT - LOW) - (HEIGHT - LOW - 20) * (value - low) / (high - low)

    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(quality)} over RTF">'
    for decade in range(first, last + 1):
        at = f"{x(10.0**decade):.1f}"
        yield f'<line x1="{at}" x2="{at}" y1="20" y2="{HEIGHT - LOW}"/>'
        yield f'<text x="{at}" y="{HEIGHT - LOW + 18}" text-anchor="middle">{10.0**decade:g}</text>'
    for value in np.linspace(low, high, 4):
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
    if not math.isnan(noisy):
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(noisy):.1f}" y2="{y(noisy):.1f}" stroke-dasharray="6 4"/>'
        yield f'<text x="{WIDTH - RIGHT + 6}" y="{y(noisy) + 4:.1f}">{NOISY}</text>'
    for name, rtf, value in points:
        side, anchor = (-9, "end") if x(rtf) > WIDTH / 2 else (9, "start")  # where a long name has room
        yield f'<circle cx="{x(rtf):.1f}" cy="{y(value):.1f}" r="5"/>'
        yield f'<text x="{x(rtf) + side:.1f}" y="{y(value) + 4:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">real-time factor</text></svg>'
