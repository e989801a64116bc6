"""Which other language the samples of each are nearest to: a matrix of discs, as SVG."""

from collections.abc import Sequence

from markupsafe import Markup

from raysel.report.figure_data import Row, grouped
from raysel.report.formats import shorten
from raysel.report.palette import LIGHT
from raysel.report.rows_figures import row_name
from raysel.report.score_summary import ScoreSummary
from raysel.report.svg import drawing, inline, place

# Shares below this are not drawn.
SMALLEST_SHARE = 0.01
CELL = {8: 36, 20: 24, 60: 15}  # up to so many languages: pixels of a cell


def nearest_rows(scores: ScoreSummary) -> list[Row]:
    """The share of each language's samples that each other language is nearest to, by code; an empty row for a
    language that has no other."""
    rows: list[Row] = []
    for lang in sorted(scores.by_mean()):
        found = scores.nearest_to(lang, len(scores.languages))
        rows += [{"lang": lang, "nearest_lang": near.lang, "share": near.share} for near in found]
        if not found:
            rows.append({"lang": lang, "nearest_lang": None, "share": None})
    return rows


def nearest_matrix(name: str, rows: Sequence[Row]) -> Markup:
    """One row a language; the area of a disc is the share of its samples that the column's is nearest to."""
    langs = list(grouped(rows, "lang"))
    others = sorted({row["nearest_lang"] for row in rows} - {None})
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
        row_of, column_of = ({lang: k for k, lang in enumerate(named)} for named in (langs, others))
        shown = [row for row in rows if row["share"] is not None and row["share"] >= SMALLEST_SHARE]
        if shown:
            x, y = [column_of[row["nearest_lang"]] for row in shown], [row_of[row["lang"]] for row in shown]
            areas = [(0.92 * cell) ** 2 * row["share"] for row in shown]
            axes.scatter(x, y, areas, color=LIGHT["accent"], linewidths=0, zorder=3)
        return inline(figure, name, "For each language, the shares of its samples by the nearest other language")
