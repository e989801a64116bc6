"""Two parameters together: the mean objective of the points in every cell, as SVG."""

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

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


def heat_map(name: str, found: Interaction, measure: Measure) -> Markup:
    """Cells are the stronger the better; in each the mean and, small, the number of trials."""
    rows, columns = found.mean.shape
    left = 34 + PIXELS_PER_CHARACTER * max(len(label) for label in found.row_labels)
    cell = (WIDTH - left - RIGHT) / columns
    wrapped = [_wrapped(label, int(cell / PIXELS_PER_CHARACTER)) for label in found.column_labels]
    bottom = 24 + LINE * max(label.count("\n") + 1 for label in wrapped)
    with drawing(WIDTH, TOP + bottom + CELL_HEIGHT * rows) as figure:
        axes = place(figure, left, TOP, RIGHT, bottom)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_yticks(range(rows), found.row_labels)
        axes.set_xticks(range(columns), wrapped)
        axes.set_xlabel(found.columns)
        across, up = (8 - left) / (WIDTH - left - RIGHT), 0.5
        axes.text(across, up, found.rows, transform=axes.transAxes, rotation=90, ha="center", va="center",
                  color=LIGHT["muted"])  # fmt: skip
        for (row, column), strength in np.ndenumerate(_strengths(found, measure)):
            corner = column - 0.48, row - 0.46
            if not found.trials[row, column]:
                axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor="none", edgecolor=LIGHT["grid"], linewidth=1))
                continue
            axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=LIGHT["pool"], alpha=strength, linewidth=0))
            written = measure.write(float(found.mean[row, column]))
            axes.text(column, row - 0.12, written, ha="center", va="center", fontsize=12)
            axes.text(column, row + 0.25, f"n {found.trials[row, column]}", ha="center", va="center", fontsize=9)
        return inline(figure, name, f"Mean {measure.label} by {found.rows} and {found.columns}")


def _strengths(found: Interaction, measure: Measure) -> np.ndarray:
    there = found.mean[found.trials > 0]
    low, high = float(there.min()), float(there.max())
    share = (found.mean - low) / (high - low) if high > low else np.full(found.mean.shape, 0.5)
    share = share if measure.is_maximized or high == low else 1 - share
    return np.asarray(WEAKEST + np.nan_to_num(share) * (STRONGEST - WEAKEST))


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
