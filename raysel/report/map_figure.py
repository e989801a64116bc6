"""The 2-D map of the vectors, with the languages' names on it, and one small map for each language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from raysel.report.figure_data import Row, grouped, numbers
from raysel.report.formats import language_name
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.projection import VectorMap, spread_labels
from raysel.report.svg import drawing, inline, place

SIDE = 520
VIEW_BOX = f"0 0 {SIDE} {SIDE}"
MARGIN = 8
# Names fit on the map of a few languages, codes on that of many.
NAMED_LANGUAGES = 12
LABEL_HEIGHT = 16
PIXELS_PER_CHARACTER = 7.5


@dataclass(frozen=True)
class LanguagePanel:
    """A language's small map: the id of its points in the large one."""

    lang: str
    points_id: str


def map_rows(vectors: VectorMap) -> list[Row]:
    """The points as shares of the frame, to a hundredth of a pixel."""
    points = vectors.points.round(5).tolist()
    return [{"lang": lang, "x": x, "y": y} for lang, (x, y) in zip(vectors.langs, points, strict=True)]


def draw_map(name: str, rows: Sequence[Row], *, colours: Mapping[str, int]) -> Markup:
    """The large map. colours: the numbers of the languages' colours."""
    of_lang = _by_size(rows)
    points = [np.stack([numbers(own, "x"), numbers(own, "y")], axis=1) for own in of_lang.values()]
    middles = np.array([np.median(own, axis=0) for own in points])
    shades = [CATEGORICAL[colours[lang]] for lang in of_lang]
    labels = [language_name(lang) if len(of_lang) <= NAMED_LANGUAGES else lang for lang in of_lang]
    thickness = round(float(np.clip(150 / np.sqrt(len(rows)), 2.4, 6)), 2)
    with drawing(SIDE, SIDE) as figure:
        axes = place(figure, MARGIN, MARGIN, MARGIN, MARGIN)
        axes.set_gid("cloud")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([])
        axes.set_yticks([])
        for number, own in enumerate(points):
            # Strokes of no length with round ends: a dot in 20 bytes, and a language in one element.
            dots = np.repeat(own, 3, axis=0)
            dots[2::3] = np.nan
            axes.plot(dots[:, 0], dots[:, 1], color=shades[number], linewidth=thickness, alpha=0.8,
                      solid_capstyle="round", clip_on=False, gid=f"points-{number}")  # fmt: skip
        inside = SIDE - 2 * MARGIN
        room = PIXELS_PER_CHARACTER * max(len(label) for label in labels) / inside
        for number, (x, y) in enumerate(spread_labels(middles, room, LABEL_HEIGHT / inside)):
            figure.text((MARGIN + x * inside) / SIDE, (MARGIN + y * inside) / SIDE, labels[number], ha="center",
                        va="center", fontsize=13, weight="bold", color=shades[number],
                        gid=f"halo-{number}")  # fmt: skip
        corner = MARGIN / SIDE
        side = inside / SIDE
        frame = Rectangle((corner, corner), side, side, fill=False, edgecolor=LIGHT["line"], linewidth=1)
        figure.add_artist(frame)
        svg = inline(figure, name, "The first two principal components of the vectors, by language")
        # The small maps show the same elements with larger dots.
        width = f"stroke-width: {thickness:g};"
        return Markup(svg.replace(width, f"stroke-width: var(--dot, {thickness:g});"))


def map_panels(name: str, rows: Sequence[Row]) -> list[LanguagePanel]:
    """The small maps that show parts of the large one, by the languages' names."""
    panels = [LanguagePanel(lang, f"{name}-points-{number}") for number, lang in enumerate(_by_size(rows))]
    return sorted(panels, key=lambda panel: language_name(panel.lang))


def _by_size(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The points of each language, the most first."""
    of_lang = grouped(rows, "lang")
    return {lang: of_lang[lang] for lang in sorted(of_lang, key=lambda lang: (-len(of_lang[lang]), lang))}
