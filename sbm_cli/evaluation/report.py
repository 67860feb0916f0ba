"""The tables of an evaluation: means by subset and metric, paired differences, and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sbm_cli.cells import table
from sbm_cli.evaluation.metrics import METRICS
from sbm_cli.evaluation.scoring import Record, real_time_factor
from sbm_cli.evaluation.statistics import Interval, difference_interval, mean_interval
from sbm_cli.evaluation.systems import NOISY

QUALITY = ("pesq", "ovrl", "estoi", "si_sdr", "p808")  # the first one that was scored is drawn over the cost
ROUGH_COST = "real-time factor beside the scoring, a rough guide (see sbm rtf)"  # with more workers it is larger


@dataclass(frozen=True)
class Cell:
    """One system in one row: the mean and the mean paired differences, with 95 % intervals.

    gain: over the noisy input, None for itself. lead: over the first system, None for that one and the noisy input.
    """

    mean: Interval
    gain: Interval | None
    lead: Interval | None


@dataclass(frozen=True)
class Row:
    """One metric on one subset: a cell for every system, the noisy input first.

    files: in the subset; a mean covers fewer if some could not be scored.
    """

    subset: str
    metric: str
    cells: Mapping[str, Cell]
    files: int


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. title: name of the set. absent: metrics that could not be computed, and why.

    partial: whether it was interrupted; the title then says how far it came.
    """

    title: str
    records: Sequence[Record]
    rows: Sequence[Row]
    absent: Mapping[str, str]
    unmatched: Sequence[str] = ()
    level: float | None = None
    partial: bool = False

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(record.system for record in self.records))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(row.metric for row in self.rows))

    @property
    def problems(self) -> list[Record]:
        return [record for record in self.records if record.problem]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, not escaped."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def to_svg(evaluation: Evaluation) -> str | None:
    """Draw quality, the mean over all files, over the real-time factor; None if nothing was timed or scored."""
    from sbm_cli.plot.chart import points

    records = evaluation.records
    for metric in (*(name for name in QUALITY if name in evaluation.metrics), *evaluation.metrics):
        means = {
            name: mean_interval([record.scores[metric] for record in records if record.system == name]).mean
            for name in evaluation.systems
        }
        places = {
            name: (factor, mean)
            for name, mean in means.items()
            if (factor := real_time_factor(records, name)) and math.isfinite(mean)
        }
        if places:
            return points(evaluation.title, places, ROUGH_COST, label(metric), (NOISY, means[NOISY]))
    return None


def summarise(records: Sequence[Record], metrics: Sequence[str]) -> list[Row]:
    """Return a row for every subset and metric, in the order of the records.

    A metric of something that no input lacks has no row.
    """
    systems = list(dict.fromkeys(record.system for record in records))
    rows = []
    for subset in dict.fromkeys(record.subset for record in records):
        for metric in metrics:
            values = {
                system: [r.scores[metric] for r in records if r.subset == subset and r.system == system]
                for system in systems
            }
            if METRICS[metric].needs_noisy and not any(value is not None for row in values.values() for value in row):
                continue
            cells = {
                system: Cell(
                    mean_interval(values[system]),
                    difference_interval(values[system], values[NOISY]) if system != NOISY else None,
                    difference_interval(values[system], values[systems[1]]) if system not in systems[:2] else None,
                )
                for system in systems
            }
            rows.append(Row(subset, metric, cells, max(map(len, values.values()))))
    return rows


def tables(evaluation: Evaluation) -> list[Table]:
    """Return the table of means and gains and, for several systems, that of their differences to the first."""
    noisy, *systems = evaluation.systems
    rows = [
        [row.subset, label(row.metric), *(_cell(row.cells[system], row.files) for system in (noisy, *systems))]
        for row in evaluation.rows
    ]
    found = [Table(f"{evaluation.title}: mean (gain, 95 % interval)", ["subset", "metric", noisy, *systems], rows)]
    if len(systems) > 1:
        first, *others = systems
        leads = [
            [row.subset, label(row.metric), *(_difference(row.cells[system].lead, row.files) for system in others)]
            for row in evaluation.rows
        ]
        found.append(Table(f"difference to {first} (95 % interval)", ["subset", "metric", *others], leads))
    return found


def to_markdown(evaluation: Evaluation) -> str:
    """Return the tables in Markdown, all but the first with a title, and what is absent from them."""
    blocks: list[str] = []
    for found in tables(evaluation):
        lines = [_line(found.head), "|" + "---|" * len(found.head), *map(_line, found.rows)]
        blocks.append("\n".join(lines if not blocks else [f"{found.title}:", "", *lines]))
    if evaluation.absent:
        blocks.append(absence(evaluation))
    if evaluation.partial:
        blocks.append(f"Partial: {evaluation.title}.")
    return "\n\n".join(blocks)


def to_latex(evaluation: Evaluation) -> str:
    """Return the tables in LaTeX, for booktabs."""
    blocks = []
    for found in tables(evaluation):
        rows = [" & ".join(cell.translate(_LATEX) for cell in cells) + r" \\" for cells in (found.head, *found.rows)]
        body = [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
        columns = "ll" + "r" * (len(found.head) - 2)
        blocks.append("\n".join([f"% {found.title}", rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", ""]))
    return "\n".join([*blocks, *[f"% {absence(evaluation)}\n"] * bool(evaluation.absent)])


def to_csv(evaluation: Evaluation) -> str:
    """Return the scores of every file and system; one that could not be computed is an empty field."""
    rows: list[Sequence[str]] = [("file", "half", "system", "seconds", *evaluation.metrics, "problem")]
    for record in evaluation.records:
        scores = ["" if value is None else f"{value:.6g}" for value in map(record.scores.get, evaluation.metrics)]
        rows.append((record.id, record.subset, record.system, f"{record.seconds:.3f}", *scores, record.problem))
    return table(rows)


def to_json(evaluation: Evaluation) -> dict[str, object]:
    """Return everything as one document; NaN becomes null. rtf: a rough guide, as scoring shares the machine."""
    scores: dict[str, dict[str, object]] = {}
    for row in evaluation.rows:
        cells = {name: {key: _numbers(part) for key, part in vars(cell).items()} for name, cell in row.cells.items()}
        scores.setdefault(row.subset, {})[row.metric] = cells
    return {
        "set": evaluation.title,
        "count": len({record.id for record in evaluation.records}),
        "partial": evaluation.partial,
        "level": evaluation.level,
        "systems": [
            {"name": name, "rtf": real_time_factor(evaluation.records, name)} for name in evaluation.systems[1:]
        ],
        "absent": dict(evaluation.absent),
        "scores": scores,
        "unmatched": list(evaluation.unmatched),
        "problems": [{"file": r.id, "system": r.system, "reason": r.problem} for r in evaluation.problems],
        "files": [
            {
                "file": record.id,
                "half": record.subset,
                "system": record.system,
                "seconds": record.seconds,
                "elapsed": record.elapsed,
                "scores": dict(record.scores),
                "reasons": record.scores.reasons,
            }
            for record in evaluation.records
        ],
    }


def absence(evaluation: Evaluation) -> str:
    """Return a line with the metrics that could not be computed."""
    return f"Absent: {', '.join(METRICS[metric].label for metric in evaluation.absent)}."


def label(metric: str) -> str:
    """Return a metric's name with its unit."""
    found = METRICS[metric]
    return f"{found.label} ({found.unit})" if found.unit else found.label


def _cell(cell: Cell, files: int) -> str:
    mean = f"{cell.mean.mean:.3f}{_fewer(cell.mean, files)}" if cell.mean.count else "–"
    return f"{mean} ({_difference(cell.gain, cell.mean.count)})" if cell.gain is not None and cell.gain.count else mean


def _difference(interval: Interval | None, files: int) -> str:
    if interval is None or not interval.count:
        return "–"
    spread = "" if math.isnan(interval.low) else f", {interval.low:+.3f} to {interval.high:+.3f}"
    return f"{interval.mean:+.3f}{spread}{_fewer(interval, files)}"


def _fewer(interval: Interval, files: int) -> str:
    """Return how many files a mean covers, if not all."""
    return f" [{interval.count} of {files}]" if interval.count < files else ""


def _numbers(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {key: None if math.isnan(value) else value for key, value in asdict(interval).items()}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
)
