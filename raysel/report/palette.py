"""The report's colours, light and dark, and one CSS variable for each.

Figures are drawn in the light colours; `svg.inline` then replaces each by its variable, so that a page in the dark
colours shows them dark. The eight categorical colours follow Okabe and Ito's set for colour-blind readers, darkened
until each can be read as text on its ground.
"""

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


def css_variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
