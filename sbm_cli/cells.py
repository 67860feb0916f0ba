"""Cells of CSV files that spreadsheets do not run as formulas: anybody may have named the files in them."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def cell(value: Value) -> Value | str:
    """Return a value as a cell: text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def table(rows: Iterable[Iterable[object]], end: str = "\n") -> str:
    """Return rows of values as the text of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(map(cell, row) for row in rows)
    return text.getvalue()


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by the names of its columns, none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
        return list(csv.DictReader(file))


def text_of(cell: str) -> str:
    """Return the text that `cell` turned into a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
