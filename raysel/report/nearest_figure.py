"""Which other language the samples of each are nearest to: a matrix of discs, as SVG."""

from markupsafe import Markup

from raysel.report.formats import shorten
from raysel.report.palette import LIGHT
from raysel.report.rows_figures import row_name
from raysel.report.score_summary import ScoreSummary
from raysel.report.svg import drawing, inline, place

# Shares below this are not drawn.
SMALLEST_SHARE = 0.01
CELL = {8: 36, 20: 24, 60: 15}  # up to so many languages: pixels of a cell


def nearest_matrix(scores: ScoreSummary) -> Markup:
    """One row a language; the area of a disc is the share of its samples that the column's is nearest to."""
    langs = sorted(scores.by_mean())
    others = sorted({other for lang in langs for other in scores.nearest[scores.row[lang]]})
    cell = next((pixels for most, pixels in CELL.items() if max(len(langs), len(others)) <= most), 12)
    left, bottom = 150, 46
    with drawing(left + cell * len(others) + 10, 8 + bottom + cell * len(langs)) as figure:
        axes = place(figure, left, 8, 10, bottom)
        axes.set_xlim(-0.5, len(others) - 0.5)
        axes.set_ylim(len(langs) - 0.5, -0.5)
        axes.set_yticks(range(len(langs)), [row_name(lang) for lang in langs])
        axes.set_xticks(range(len(others)), [shorten(other, 8) for other in others], rotation=90 if cell < 30 else 0)
        axes.grid(color=LIGHT["grid"], linewidth=1)
        axes.set_axisbelow(True)
        column = {other: k for k, other in enumerate(others)}
        points = [
            (column[near.lang], number, near.share)
            for number, lang in enumerate(langs)
            for near in scores.nearest_to(lang, len(others))
            if near.share >= SMALLEST_SHARE
        ]
        if points:
            x, y, share = zip(*points, strict=True)
            diameter = 0.92 * cell
            axes.scatter(x, y, [diameter**2 * s for s in share], color=LIGHT["accent"], linewidths=0, zorder=3)
        return inline(figure, "nearest", "For each language, the shares of its samples by the nearest other language")
