"""A matplotlib figure as an inline SVG: the same bytes for the same data, text as text, colours as CSS variables."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysel.report.palette import LIGHT

# One unit of the figure is one pixel of the page at its natural width.
UNITS_PER_INCH = 72
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 11.5,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 11.5,
    "axes.linewidth": 1.0,
    "axes.unicode_minus": True,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11.5,
    "text.color": LIGHT["ink"],
}
PREAMBLE = re.compile(r"^.*?(?=<svg )", re.DOTALL)
ROOT = re.compile(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>")
GLOBAL_STYLE = re.compile(r"<defs>\s*<style type=\"text/css\">.*?</style>\s*</defs>", re.DOTALL)
FONTS = re.compile(r"font-family: [^;\"]*;? ?")
TAG = re.compile(r"<[^>]*>", re.DOTALL)
LONG_NUMBER = re.compile(r"(\d\.\d)(\d{2,})")
NO_ROTATION = re.compile(r" transform=\"rotate\(-0 [^\"]*\)\"")
COLOUR = re.compile("|".join(LIGHT.values()))
VARIABLE = {value: f"var(--{name})" for name, value in LIGHT.items()}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` pixels, in the report's style while the block runs."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width / UNITS_PER_INCH, height / UNITS_PER_INCH))


def place(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes with these margins in pixels from the figure's edges, without a frame."""
    width, height = (side * UNITS_PER_INCH for side in figure.get_size_inches())
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(length=0, pad=6)
    return axes


def inline(figure: Figure, name: str, description: str) -> Markup:
    """`figure` as an SVG element for an HTML page.

    `name` keeps its ids apart from those of the page's other figures; `description` is what a screen reader says.
    Coordinates are rounded to a hundredth of a pixel.
    """
    sink = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", metadata=nothing, transparent=True)
    text = PREAMBLE.sub("", sink.getvalue().decode(), count=1)
    text = GLOBAL_STYLE.sub("", text, count=1)
    text = TAG.sub(lambda tag: _tidy(tag[0], name), text)
    opening = f'<svg class="figure" role="img" aria-label="{escape(description)}" viewBox="'
    text = ROOT.sub(lambda root: f'{opening}{root[1]}">', text, count=1)
    # matplotlib escapes the texts it writes.
    return Markup(re.sub(r"\n\s*", "\n", text))


def _tidy(tag: str, name: str) -> str:
    tag = FONTS.sub("", tag)
    tag = NO_ROTATION.sub("", tag)
    tag = LONG_NUMBER.sub(lambda number: number[1] + number[2][0], tag)
    tag = COLOUR.sub(lambda colour: VARIABLE[colour[0]], tag)
    tag = tag.replace(' id="', f' id="{name}-').replace("url(#", f"url(#{name}-")
    tag = tag.replace('xlink:href="#', f'href="#{name}-')
    return re.sub(r"\s*\n", " ", tag)
