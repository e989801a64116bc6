"""The report's colours, light and dark, and one CSS variable for each.

Figures are drawn in the light colours; `svg.inline` then replaces each by its variable, so that a page in the dark
colours shows them dark. The eight categorical colours follow Okabe and Ito's set for colour-blind readers, darkened
until each can be read as text on its ground.
"""

from collections.abc import Iterable
from zlib import crc32

LIGHT = {
    "paper": "#fefefe",
    "ink": "#1b2430",
    "muted": "#5b6675",
    "line": "#d9dee6",
    "grid": "#eceff4",
    "before": "#98a2b0",
    "all": "#c3cad4",
    "pool": "#8fc1e3",
    "accent": "#0a68b4",
    "c0": "#0072b2",
    "c1": "#c94f00",
    "c2": "#008060",
    "c3": "#b0468c",
    "c4": "#7a6a00",
    "c5": "#2a86bd",
    "c6": "#882255",
    "c7": "#59606c",
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
    "c0": "#4da9ea",
    "c1": "#ff8a4c",
    "c2": "#35c79d",
    "c3": "#e88cc6",
    "c4": "#d4c13d",
    "c5": "#9bd6ff",
    "c6": "#dd6f98",
    "c7": "#abb2be",
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
