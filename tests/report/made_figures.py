"""What a page shows of its figures: each with its SVG and the CSV that it hands out."""

import base64
import html
import re

FIGURE = re.compile(r"<figure[^>]*>.*?</figure>", re.DOTALL)
SVG = re.compile(r'<svg class="figure".*?</svg>\n?', re.DOTALL)
LINK = re.compile(r'<a class="data" download="([^"]*)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)">')
NAMED = re.compile(r'<text style="([^"]*)"[^>]*>([^<]*)</text>')


def figures_of(page: str) -> dict[str, tuple[str, str]]:
    """name -> (SVG, CSV) of the figures; every drawn one has to hand out its table."""
    found = {}
    for figure in FIGURE.findall(page):
        drawn, links = SVG.findall(figure), LINK.findall(figure)
        assert len(drawn) == len(links)
        for svg, (name, data) in zip(drawn, links, strict=True):
            assert name not in found
            found[name] = svg, base64.b64decode(data).decode()
    assert len(found) == len(SVG.findall(page))
    return found


def named_colours(svg: str) -> dict[str, str]:
    """text -> the CSS colour that it is written in, where that is one of the categorical ones."""
    colours = {html.unescape(text): re.search(r"fill: var\(--(c\d)\)", style) for style, text in NAMED.findall(svg)}
    return {text: found[1] for text, found in colours.items() if found}
