"""The HTML report of an evaluation: tables, a plot, and players with spectrograms, in one self-contained file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
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
from sbm_cli.evaluation.report import Evaluation, Table, absence, label, tables, to_svg
from sbm_cli.evaluation.spectrogram import draw, spectrogram
from sbm_cli.evaluation.systems import NOISY
from sbm_cli.plot.chart import WIDTH
from sbm_cli.timing.clips import Clip, write_clip

COLOURS = 32  # of a spectrogram in the report: a quarter of the bytes


@dataclass(frozen=True)
class Player:
    """An item to listen to and look at: FLAC by system, and PNG of the noisy input above each other system."""

    id: str
    sounds: Mapping[str, bytes]
    pictures: Mapping[str, bytes]


def chosen(count: int, players: int) -> list[int]:
    """Return the numbers of the items that get a player, evenly spread."""
    return sorted({index * count // players for index in range(players)}) if players else []


def make_player(item: Item, outputs: Mapping[str, Samples]) -> Player:
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
    return Player(item.id, sounds, pictures)


def to_html(evaluation: Evaluation, shown: Sequence[Player], about: str) -> str:
    """Return the report. about: a sentence on how the scores were obtained."""
    template = Template(Path(__file__).with_name("html_report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Evaluation on {evaluation.title}"),
        about=escape(f"{about} {absence(evaluation)}" if evaluation.absent else about),
        summary="\n".join(_summary(table) for table in tables(evaluation)),
        plot=_plot(evaluation),
        files=_files(evaluation),
        players="\n".join(_player(one) for one in shown),
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


def _player(player: Player) -> str:
    parts = [f"<section><h2>{escape(player.id)}</h2>"]
    for name, sound in player.sounds.items():
        parts.append(f"<h3>{escape(name)}</h3>")
        parts.append(f'<audio controls preload="metadata" src="{_data("audio/flac", sound)}"></audio>')
        if name in player.pictures:
            about = escape(f"Spectrograms of {player.id}: before, and after {name}")
            picture = f'<img alt="{about}" src="{_data("image/png", player.pictures[name])}">'
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
    """Return the chart of quality over real-time factor; "" if there is nothing to draw."""
    drawn = to_svg(evaluation)
    if drawn is None:
        return ""
    return (
        "<h2>Quality over real-time factor</h2>\n"
        '<p class="note">Mean of all files. The real-time factor (processing time over audio duration; left is faster)'
        " is only a rough guide: scoring shared the machine, and other programs include their start."
        " To measure it, use sbm rtf.</p>\n"
        f'<div class="wide" tabindex="0"><img alt="Quality over real-time factor" width="{WIDTH}" '
        f'src="{_data("image/svg+xml", drawn.encode())}"></div>'
    )
