"""The 2-D map of the vectors, with the languages' names on it, and one small map for each language."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from raysel.report.formats import language_name
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.projection import VectorMap, contrasting_colours, spread_labels
from raysel.report.svg import drawing, inline, place

SIDE = 520
MARGIN = 8
# Names fit on the map of a few languages, codes on that of many.
NAMED_LANGUAGES = 12
LABEL_HEIGHT = 16
PIXELS_PER_CHARACTER = 7.5


@dataclass(frozen=True)
class LanguagePanel:
    """A language's small map: the id of its points in the large one, and its colour as CSS."""

    lang: str
    points_id: str
    colour: str


@dataclass(frozen=True)
class MapFigure:
    """svg: the large map; cloud_id: its element that holds all points; view_box: of the points in it."""

    svg: Markup
    cloud_id: str
    view_box: str
    panels: list[LanguagePanel]


def draw_map(vectors: VectorMap) -> MapFigure:
    centres = vectors.centres()
    langs = sorted(centres, key=lambda lang: (-vectors.langs.count(lang), lang))
    middles = np.array([centres[lang] for lang in langs])
    colours = contrasting_colours(middles, len(CATEGORICAL))
    labels = [language_name(lang) if len(langs) <= NAMED_LANGUAGES else lang for lang in langs]
    own = np.array(vectors.langs)
    thickness = round(float(np.clip(150 / np.sqrt(len(own)), 2.4, 6)), 2)
    with drawing(SIDE, SIDE) as figure:
        axes = place(figure, MARGIN, MARGIN, MARGIN, MARGIN)
        axes.set_gid("cloud")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([])
        axes.set_yticks([])
        for number, lang in enumerate(langs):
            # Strokes of no length with round ends: a dot in 20 bytes, and a language in one element.
            dots = np.repeat(vectors.points[own == lang], 3, axis=0)
            dots[2::3] = np.nan
            axes.plot(dots[:, 0], dots[:, 1], color=CATEGORICAL[colours[number]], linewidth=thickness, alpha=0.65,
                      solid_capstyle="round", clip_on=False, gid=f"points-{number}")  # fmt: skip
        inside = SIDE - 2 * MARGIN
        room = PIXELS_PER_CHARACTER * max(len(label) for label in labels) / inside
        for number, (x, y) in enumerate(spread_labels(middles, room, LABEL_HEIGHT / inside)):
            figure.text((MARGIN + x * inside) / SIDE, (MARGIN + y * inside) / SIDE, labels[number], ha="center",
                        va="center", fontsize=13, weight="bold", color=CATEGORICAL[colours[number]],
                        gid=f"halo-{number}")  # fmt: skip
        corner = MARGIN / SIDE
        side = inside / SIDE
        frame = Rectangle((corner, corner), side, side, fill=False, edgecolor=LIGHT["line"], linewidth=1)
        figure.add_artist(frame)
        svg = inline(figure, "map", "The first two principal components of the vectors, by language")
        # The small maps show the same elements with larger dots.
        width = f"stroke-width: {thickness:g};"
        svg = Markup(svg.replace(width, f"stroke-width: var(--dot, {thickness:g});"))
    panels = [LanguagePanel(lang, f"map-points-{n}", f"var(--c{colours[n]})") for n, lang in enumerate(langs)]
    return MapFigure(svg, "map-cloud", f"0 0 {SIDE} {SIDE}", _by_name(panels))


def _by_name(panels: Sequence[LanguagePanel]) -> list[LanguagePanel]:
    return sorted(panels, key=lambda panel: language_name(panel.lang))
