"""Two parameters together: the mean objective of the points in every cell, as SVG."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from raysel.report.figure_data import Row, finite, numbers
from raysel.report.palette import LIGHT
from raysel.report.rows_figures import PIXELS_PER_CHARACTER
from raysel.report.svg import drawing, inline, place
from raysel.sweep.dimensions import Interaction
from raysel.sweep.values import Measure

WIDTH = 520
TOP, RIGHT, LINE = 10, 10, 16
CELL_HEIGHT = 40
# The weakest and the strongest tint: what is written on the strongest can still be read, light and dark.
WEAKEST, STRONGEST = 0.08, 0.95


def cell_rows(found: Interaction) -> list[Row]:
    """The mean objective of the points in each cell, and the number of their trials."""
    return [
        {
            "row": row,
            "column": column,
            "row_label": found.row_labels[row],
            "column_label": found.column_labels[column],
            "mean": finite(float(found.mean[row, column])),
            "trials": int(found.trials[row, column]),
        }
        for row, column in np.ndindex(found.mean.shape)
    ]


def heat_map(name: str, rows: Sequence[Row], *, down: str, across: str, measure: Measure) -> Markup:
    """Cells are the stronger the better; in each the mean and, small, the number of trials. down, across: the names of
    the parameters."""
    row_labels, column_labels = (
        list({row[place]: row[f"{place}_label"] for row in rows}.values()) for place in ("row", "column")
    )
    left = 34 + PIXELS_PER_CHARACTER * max(len(label) for label in row_labels)
    cell = (WIDTH - left - RIGHT) / len(column_labels)
    wrapped = [_wrapped(label, int(cell / PIXELS_PER_CHARACTER)) for label in column_labels]
    bottom = 24 + LINE * max(label.count("\n") + 1 for label in wrapped)
    with drawing(WIDTH, TOP + bottom + CELL_HEIGHT * len(row_labels)) as figure:
        axes = place(figure, left, TOP, RIGHT, bottom)
        axes.set_xlim(-0.5, len(column_labels) - 0.5)
        axes.set_ylim(len(row_labels) - 0.5, -0.5)
        axes.set_yticks(range(len(row_labels)), row_labels)
        axes.set_xticks(range(len(column_labels)), wrapped)
        axes.set_xlabel(across)
        beside = (8 - left) / (WIDTH - left - RIGHT)
        axes.text(beside, 0.5, down, transform=axes.transAxes, rotation=90, ha="center", va="center",
                  color=LIGHT["muted"])  # fmt: skip
        for row, strength in zip(rows, _strengths(rows, measure), strict=True):
            x, y = row["column"], row["row"]
            corner = x - 0.48, y - 0.46
            if not row["trials"]:
                axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor="none", edgecolor=LIGHT["grid"], linewidth=1))
                continue
            axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=LIGHT["pool"], alpha=strength, linewidth=0))
            axes.text(x, y - 0.12, measure.write(row["mean"]), ha="center", va="center", fontsize=12)
            axes.text(x, y + 0.25, f"n {row['trials']}", ha="center", va="center", fontsize=9)
        return inline(figure, name, f"Mean {measure.label} by {down} and {across}")


def _strengths(rows: Sequence[Row], measure: Measure) -> list[float]:
    mean = numbers(rows, "mean")
    low, high = float(np.nanmin(mean)), float(np.nanmax(mean))
    share = (mean - low) / (high - low) if high > low else np.full(mean.shape, 0.5)
    share = share if measure.is_maximized or high == low else 1 - share
    strengths: list[float] = (WEAKEST + np.nan_to_num(share) * (STRONGEST - WEAKEST)).tolist()
    return strengths


def _wrapped(label: str, characters: int) -> str:
    """The label in lines of at most so many characters, broken between words where there are any."""
    lines = [""]
    for word in label.split(" "):
        whole = f"{lines[-1]} {word}".strip()
        if len(whole) <= characters or not lines[-1]:
            lines[-1] = whole
        else:
            lines.append(word)
    room = max(characters, 4)
    return "\n".join(part for line in lines for part in (line[k : k + room] for k in range(0, len(line), room)))
