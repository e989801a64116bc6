"""Where curves over samples per language level off: a study's own, and the published ones. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysel.report.formats import decimal, integer
from raysel.studies import published
from raysel.studies.analysis import Line
from raysel.studies.saturation import CLAIMED, MORE, Saturation, relative_to_english, saturation


@dataclass(frozen=True)
class Levelled:
    """A curve by its name, the largest x that was measured and what was fitted; asks_the_guide: whether the guide's
    claim, of 400 samples and of 5,000, was asked of it."""

    name: str
    last: float
    of: Saturation
    asks_the_guide: bool


def of_lines(lines: Sequence[Line]) -> list[Levelled]:
    """Of every group of a study's conditions that is a curve of at least five places, with a run for each seed."""
    found = []
    for group in dict.fromkeys(line.group for line in lines):
        own = sorted((line for line in lines if line.group == group), key=lambda line: line.across or 0.0)
        places = [line.across for line in own if line.across is not None]
        if len(set(places)) == len(own) >= 5 and places[0] == 0:
            seeds = sorted(own[0].condition.values)
            runs = [[_mean(line, seed) for line in own] for seed in seeds]
            asks = {CLAIMED, MORE} <= set(places)
            # What the guide claims of hundreds of samples is not asked of tens.
            claimed, more = (CLAIMED, MORE) if asks else (places[-2], places[-1])
            fitted = saturation(places, runs, seed=0, claimed=claimed, more=more)
            found.append(Levelled(group, places[-1], fitted, asks))
    return found


def _mean(line: Line, seed: int) -> float:
    return float(np.mean([line.condition.values[seed][lang] for lang in line.langs]))


def of_published(mixture: str = "single") -> list[Levelled]:
    """Of the guide's tables with this mixture, the other languages relative to English."""
    found = []
    for table in (published.transfer_table(number) for number in range(3, 24)):
        if table.mixture == mixture:
            ratios = [relative_to_english(values) for values in table.values.values()]
            places = list(table.values)
            fitted = saturation(places, ratios, seed=0)
            found.append(Levelled(f"{table.task}, {table.model} (Table {table.table})", places[-1], fitted, True))
    return found


def plateau_words(of: Levelled) -> str:
    """`levels off at 510 [262, beyond 5,000]`."""
    fitted = of.of
    if fitted.verdict == "flat":
        return "no curve: flat within noise"
    if fitted.verdict == "not reached":
        low = f", not before {integer(round(fitted.low))}" if fitted.low is not None else ""
        return f"does not level off up to {integer(round(of.last))}{low}"
    ends = [
        f"beyond {integer(round(of.last))}" if end is None else integer(round(end)) for end in (fitted.low, fitted.high)
    ]
    assert fitted.plateau is not None
    return f"levels off at {integer(round(fitted.plateau))} [{', '.join(ends)}]"


def claim_words(of: Levelled) -> str:
    """Whether 400 samples per language are the plateau, and what 13 times as many bring."""
    fitted = of.of
    if fitted.claim is None:
        return "cannot be told"
    gain = ""
    if fitted.gain is not None:
        ends = ", ".join(decimal(end, sign=True) for end in (fitted.gain.low, fitted.gain.high))
        gain = f"; from there to 5,000: {decimal(fitted.gain.value, sign=True)} [{ends}]"
    return {"consistent": "400 is within", "earlier": "before 400", "later": "after 400"}[fitted.claim] + gain
