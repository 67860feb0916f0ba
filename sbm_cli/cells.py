"""Cells of CSV files that spreadsheets show as what they are: names of files come from anybody."""

import re
from typing import TypeVar

Value = TypeVar("Value")

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def cell(value: Value) -> Value | str:
    """Return a value as a cell: a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def text_of(cell: str) -> str:
    """Return the text that `cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
