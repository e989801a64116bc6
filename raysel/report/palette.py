"""The report's colours, light and dark, and one CSS variable for each.

Figures are drawn in the light colours; `svg.inline` then replaces each by its variable, so that a page in the dark
colours shows them dark. The eight categorical colours were searched for: each can be read as text on its ground
(contrast 4.5), and the two nearest of them are CIEDE2000 23 apart, 13 with protanopia or deuteranopia, 11 with
tritanopia. `before`, `pool` and `accent` are marks (contrast 3); `all` fills what has an outline.
"""

from collections.abc import Iterable
from zlib import crc32

LIGHT = {
    "paper": "#fefefe",
    "ink": "#1b2430",
    "muted": "#5b6675",
    "line": "#d9dee6",
    "grid": "#eceff4",
    "before": "#7f8a99",
    "all": "#c3cad4",
    "pool": "#4f97c7",
    "accent": "#0a68b4",
    "c0": "#0172e6",
    "c1": "#e2185b",
    "c2": "#2d7f64",
    "c3": "#835a00",
    "c4": "#272bb2",
    "c5": "#7d678f",
    "c6": "#770055",
    "c7": "#303c14",
}
DARK = {
    "paper": "#12161c",
    "ink": "#e7ebf1",
    "muted": "#a2adbb",
    "line": "#343d4a",
    "grid": "#232a34",
    "before": "#7d8897",
    "all": "#4b5665",
    "pool": "#2f6c98",
    "accent": "#5cb3f5",
    "c0": "#0392ff",
    "c1": "#e9482b",
    "c2": "#5d9b6a",
    "c3": "#fed4ab",
    "c4": "#c5c4ff",
    "c5": "#fda4bc",
    "c6": "#ff0cc7",
    "c7": "#c8cd20",
}
CATEGORICAL = [LIGHT[f"c{number}"] for number in range(8)]


def language_colours(corpus: Iterable[str], others: Iterable[str] = ()) -> dict[str, int]:
    """The number in `CATEGORICAL` of each language's colour: the same in every figure and on all pages of a corpus.

    One after the other, by code, the corpus's languages first, they take a colour that is taken least; of several the
    next one from where the code's checksum points, so that most keep their colour in another corpus. Up to eight have
    one each.
    """
    first = sorted(set(corpus))
    found: dict[str, int] = {}
    taken = [0] * len(CATEGORICAL)
    for lang in [*first, *sorted(set(others) - set(first))]:
        home = crc32(lang.encode())
        found[lang] = min(range(len(taken)), key=lambda number: (taken[number], (number - home) % len(taken)))
        taken[found[lang]] += 1
    return found


def css_variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
