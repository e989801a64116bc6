"""A figure and its data: a table as CSV text, and a drawing that is made of that text alone."""

import base64
import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

# Cells are None, bool, int, float or str.
Row = dict[str, Any]
WHOLE = re.compile(r"-?[0-9]+")
REAL = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|inf)|nan")
WORDS = {"": None, "true": True, "false": False}
# What a spreadsheet takes for the beginning of a formula; the wide ones where Chinese, Japanese or Korean is set.
FORMULA = r"[=+\-@＝＋－＠]"
BEGINS_FORMULA = re.compile(rf"\s*{FORMULA}")
# Where another list separator is set, a cell may begin in the middle of a text.
INSIDE = re.compile(rf"([,;|\t\r\n\"]\s*'*)(?={FORMULA})")
MARKED_INSIDE = re.compile(rf"([,;|\t\r\n\"]\s*)'('*)(?={FORMULA})")


@dataclass(frozen=True)
class DataFigure:
    """A figure that is drawn from its CSV and from nothing else.

    name: sets its elements' ids apart from those of the page's other figures, and names the file; csv: its table, as
    `write_csv` writes it; draw: (name, rows) -> SVG. What is no data (labels, units, colours) is bound to `draw`.
    """

    name: str
    csv: str
    draw: Callable[[str, list[Row]], Markup]

    @classmethod
    def of(cls, name: str, rows: Sequence[Row], draw: Callable[[str, list[Row]], Markup]) -> "DataFigure":
        return cls(name, write_csv(rows), draw)

    @property
    def rows(self) -> list[Row]:
        return read_csv(self.csv)

    @cached_property
    def svg(self) -> Markup:
        return self.draw(self.name, self.rows)

    @property
    def data_uri(self) -> str:
        return csv_uri(self.csv)


def csv_uri(text: str) -> str:
    """A CSV (UTF-8) as an address, so that a page without scripts and files beside it can hand it out."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def write_csv(rows: Sequence[Row]) -> str:
    """At least one row, all with the same columns, as CSV (RFC 4180) that `read_csv` reads back equal.

    Floats have all their digits, None is an empty cell, bools are true and false. A text that would be read as one of
    these, or that a spreadsheet would take for a formula, has an apostrophe before it; so has what would be a formula
    if the text were cut at a comma, semicolon, bar, tab, quote or line break. Raises TypeError for any other type,
    ValueError for rows with other columns.
    """
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"a row has the columns {list(row)}, the first one {columns}")
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow([_written(column) for column in columns])
    writer.writerows([_written(value) for value in row.values()] for row in rows)
    return sink.getvalue()


def read_csv(text: str) -> list[Row]:
    """The rows that `write_csv` wrote."""
    columns, *cells = csv.reader(io.StringIO(text, newline=""))
    names = [_read(column) for column in columns]
    return [dict(zip(names, map(_read, line), strict=True)) for line in cells]


def grouped(rows: Sequence[Row], column: str) -> dict[Any, list[Row]]:
    """The rows by what they have in a column, in the order in which that first comes."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def numbers(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    """(n,) of a column, NaN where it is empty."""
    return np.array([row[column] for row in rows], dtype=np.float64)


def finite(value: float | None) -> float | None:
    """A cell for a number: empty where there is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if not isinstance(value, str):
        raise TypeError(f"a cell of a table is None, bool, int, float or str (found {type(value).__name__})")
    text = INSIDE.sub(r"\1'", value)
    is_text = isinstance(_read(text), str)
    return text if is_text and not text.startswith("'") and not BEGINS_FORMULA.match(text) else f"'{text}"


def _read(cell: str) -> Any:
    if cell.startswith("'"):
        return MARKED_INSIDE.sub(r"\1\2", cell[1:])
    if cell in WORDS:
        return WORDS[cell]
    if WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if REAL.fullmatch(cell) else MARKED_INSIDE.sub(r"\1\2", cell)
