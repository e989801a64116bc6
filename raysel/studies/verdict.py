"""A study's answer in plain sentences: one, and a few short lines beneath it. Pure."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raysel.evaluation.intervals import Interval
from raysel.report.formats import decimal, integer
from raysel.studies.analysis import Findings, Line, Outcome
from raysel.studies.contrasts import Contrast
from raysel.studies.levelling import Levelled, plateau_words
from raysel.studies.results import amount

DIGITS = 3
# Of many conditions so many are named, and of many groups of them so many have a line; all are in the table.
MOST_NAMED = 3
MOST_LINES = 4
Tone = Literal["better", "worse", ""]


@dataclass(frozen=True)
class Told:
    """A line: of what it is, and what it says. tone: whether that is for the better or the worse; "" of neither."""

    head: str
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Answer:
    """The sentence that answers the question, and what stands beneath it."""

    sentence: str
    lines: list[Told] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"{of.head}: {of.text}" for of in self.lines)])


def answer(findings: Findings, levelled: Sequence[Levelled] = ()) -> Answer:
    """What came out. levelled: where its curves level off, where that was asked."""
    unseen = [of.of.what for of in findings.outcomes if of.of.expected == "detected" and not of.holds]
    if unseen:
        return Answer(
            "This run cannot tell: an effect that is known to be there was not seen, or its control is missing "
            f"({'; '.join(unseen)}). What the conditions differ by, or not, says nothing."
        )
    compared = [line for line in findings.lines if line.against is not None]
    cautions = [*_missing(findings), *_cautions(findings)]
    if not compared:
        lost = f"{findings.reference} is missing, and there" if findings.reference else "There"
        return Answer(f"{lost} is nothing to compare the conditions with.", cautions)
    groups = _grouped(compared)
    if len(groups) == 1:
        [group] = groups
        told = _of_all(group, compared, findings)
        found = [*_noise(compared, findings), *_trend(group, findings)]
    else:
        told = _of_groups(groups, findings)
        found = _group_lines(groups, findings, {of.name: of for of in levelled})
        if told == [_nothing(findings)] and not levelled and not any(_trend(group, findings) for group in groups):
            found = _noise(compared, findings)
    clear = {line.group for line in compared if _against(line).overall.verdict in (findings.better, findings.worse)}
    return Answer(" ".join([*_levels(levelled, clear), *told]), [*found, *cautions])


def _grouped(lines: Sequence[Line]) -> dict[str, list[Line]]:
    return {group: [line for line in lines if line.group == group] for group in dict.fromkeys(of.group for of in lines)}


def _levels(levelled: Sequence[Levelled], clear: Container[str]) -> list[str]:
    """Where the curves level off, in a sentence; that they do not is said of those with a clear difference."""
    if not levelled:
        return []
    reached = [of for of in levelled if of.of.verdict == "reached"]
    told = [f"{of.name} {plateau_words(of)}" for of in reached]
    if told:
        return [f"{_capital(_some(told, '; '))} samples per language."]
    if all(of.of.verdict == "flat" for of in levelled):
        return ["No curve is clearer than noise."]
    going_on = [of for of in levelled if of.of.verdict != "flat" and of.name in clear]
    if not going_on:
        return []
    last = integer(max(of.last for of in going_on))
    return [f"No levelling off up to {last} samples per language: {_some([of.name for of in going_on])}."]


def _of_all(group: str, lines: Sequence[Line], findings: Findings) -> list[str]:
    """Where all conditions are of one kind: each by its name."""
    better, worse = (_clear(lines, verdict) for verdict in (findings.better, findings.worse))
    if not better and not worse:
        return [_nothing(findings)]
    of = f"{_capital(group)} is " if group else ""
    if len(worse) == len(lines) and not group:
        return [f"Best: {findings.reference}.", f"Worse: {_listed(worse, findings.unit)}."]
    told = [
        _capital(f"{of}{word} than {findings.reference}: {_listed(clear, findings.unit)}.")
        for word, clear in (("better", better), ("worse", worse))
        if clear
    ]
    if unclear := [line for line in lines if line not in better and line not in worse]:
        told.append(f"No clear difference: {_some([_within(line) for line in unclear])}.")
    return told


def _nothing(findings: Findings) -> str:
    """And how large one could be and not be seen, where that is more than what the control that was seen differs by."""
    compared = [line for line in findings.lines if line.against is not None]
    most = max(_reaches(compared), default=0.0)
    known = [
        abs(of.contrast.overall.interval.value)
        for of in findings.outcomes
        if of.of.expected == "detected" and of.contrast is not None
    ]
    if known and most > max(known):
        size = amount(decimal(most, DIGITS), findings.unit)
        return f"No clear difference from {findings.reference}; one of {size} might not be seen here."
    corrected = f", corrected for {len(compared)} comparisons" if len(compared) > 1 else ""
    return f"No clear difference from {findings.reference}{corrected}."


def _of_groups(groups: dict[str, list[Line]], findings: Findings) -> list[str]:
    """Where conditions are of several kinds, or measured in several groups of languages: each group by its largest."""
    told, seen = [], set()
    between = "; " if any(", " in group for group in groups) else ", "
    for word, verdict in (("Better", findings.better), ("Worse", findings.worse)):
        clear = {group: found for group, lines in groups.items() if (found := _clear(lines, verdict))}
        if not clear:
            continue
        seen |= set(clear)
        largest = sorted(clear, key=lambda group: -abs(_gain(clear[group][0])))
        units = [findings.unit, *[""] * (len(largest) - 1)]
        named = [
            _of_group(group, clear[group], groups[group], unit) for group, unit in zip(largest, units, strict=True)
        ]
        everywhere = all(len(clear.get(group, [])) == len(lines) for group, lines in groups.items())
        told.append(
            f"{word} than {findings.reference} everywhere, most of all {named[0]}."
            if everywhere
            else f"{word} than {findings.reference}: {_some(named, between)}."
        )
    if not told:
        return [_nothing(findings)]
    if rest := [group for group in groups if group not in seen]:
        told.append(f"No clear difference: {_some(rest, between)}.")
    return told


def _of_group(group: str, clear: Sequence[Line], lines: Sequence[Line], unit: str) -> str:
    """By how much, and which of the group's conditions, where it has several."""
    largest = clear[0]
    size = f"by {'up to ' if len(clear) > 1 else ''}{amount(decimal(abs(_gain(largest)), DIGITS), unit)}"
    if len(lines) == 1:
        return f"{group} ({size})"
    if group == largest.panel:  # a group of languages
        return f"{_within(largest)} for {group} ({size})"
    return f"{group} ({size}, {_within(largest)})"


def _group_lines(groups: dict[str, list[Line]], findings: Findings, levelled: dict[str, Levelled]) -> list[Told]:
    """One for each group; of many, those with the largest clear differences."""
    found = []
    some_level = any(of.of.verdict == "reached" for of in levelled.values())
    for group, lines in groups.items():
        better, worse = (_clear(lines, verdict) for verdict in (findings.better, findings.worse))
        told = [f"better{_where(better, lines)}"] if better else []
        told += [f"worse{_where(worse, lines)}"] if worse else []
        if not told:
            told = [f"no clear difference{_reach(lines)}"]
            told += [f"but a trend: {of.text}" for of in _trend(group, findings)]
        told += [plateau_words(levelled[group])] if group in levelled and some_level else []
        tone: Tone = "better" if better else "worse" if worse else ""
        most = max((abs(_gain(line)) for line in (*better, *worse)), default=0.0)
        found.append((most, Told(group, "; ".join(told), tone)))
    if len(found) <= MOST_LINES:
        return [told for _, told in found]
    first = sorted(found, key=lambda of: -of[0])[: MOST_LINES - 1]
    rest = len(found) - len(first)
    return [*(told for _, told in first), Told("Others", f"{rest} more are in the table below")]


def _where(clear: Sequence[Line], lines: Sequence[Line]) -> str:
    """Which of a group's conditions: `from 6 samples on`, where there is such a place."""
    placed = sorted(lines, key=lambda line: line.across or 0.0)
    first = placed.index(min(clear, key=lambda line: line.across or 0.0))
    if len(clear) > 1 and clear[0].across is not None and len(placed) - first == len(clear):
        start, largest = _within(placed[first]), _within(clear[0])
        return f" from {start} on: by {_size(clear[0], '')} at {_shortened(largest, start)}"
    return f": {_listed(clear, '')}"


def _shortened(name: str, beside: str) -> str:
    """`24` of `24 samples`, where samples are spoken of."""
    head, _, tail = name.partition(" ")
    return head if tail == beside.partition(" ")[2] else name


def _trend(group: str, findings: Findings) -> list[Told]:
    """Whether the values of a group rise or fall over their places, in its words."""
    over = findings.trends.get(group)
    if over is None or over.verdict == "no clear trend":
        return []
    better = (over.verdict == "falls") == (findings.better == "lower")
    own = [line for line in findings.lines if line.group == group]
    first, last = (_within(line) for line in (own[0], own[-1]))
    ends = f"from {_shortened(first, last)} to {last}"
    return [Told("Trend", f"{'better' if better else 'worse'} {ends}", "better" if better else "worse")]


def _noise(lines: Sequence[Line], findings: Findings) -> list[Told]:
    """What would have been seen of what was not clear."""
    unclear = [line for line in lines if _against(line).overall.verdict == "no clear difference"]
    if not (reaches := _reaches(unclear)):
        return []
    return [
        Told("Noise", f"a difference of {_from_to(reaches, findings.unit)} would be seen in four of five such runs")
    ]


def _reach(lines: Sequence[Line]) -> str:
    return f" (one of {_from_to(_reaches(lines), '')} would mostly be seen)" if _reaches(lines) else ""


def _reaches(lines: Sequence[Line]) -> list[float]:
    """The differences that would mostly be seen, of each line where that is known."""
    return [reach for line in lines if (reach := _against(line).overall.detectable) is not None]


def _from_to(values: Sequence[float], unit: str) -> str:
    least, most = (decimal(of, DIGITS) for of in (min(values), max(values)))
    return amount(most, unit) if least == most else f"{amount(f'{least} to {most}', unit)}, by condition,"


def _missing(findings: Findings) -> list[Told]:
    lost = len(findings.missing)
    return [Told("Missing", f"{lost} condition{'s did' if lost > 1 else ' did'} not finish")] if lost else []


def _cautions(findings: Findings) -> list[Told]:
    held = [of.holds for of in findings.outcomes if of.of.expected == "not detected"]
    told = []
    if any(holds is False for holds in held):
        told.append(
            "a difference was seen where there can be none, as happens by chance in one of twenty such runs: "
            "differences of its size say nothing"
        )
    if any(holds is None for holds in held):
        told.append("whether differences are seen where there can be none is not known: that control is missing")
    return [Told("Caution", text, "worse") for text in told]


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _within(line: Line) -> str:
    """Its name without what the name of its group says already."""
    said = line.group.split(", ")
    return ", ".join(part for part in line.named.split(", ") if part not in said) or line.named


def _some(names: Sequence[str], between: str = ", ") -> str:
    if len(names) <= MOST_NAMED + 1:  # "and 1 more" is no shorter
        return between.join(names)
    return f"{between.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"


def _against(line: Line) -> Contrast:
    assert line.against is not None
    return line.against


def _gain(line: Line) -> float:
    return _against(line).overall.interval.value


def _size(line: Line, unit: str) -> str:
    """`0.031 bits per byte [0.012, 0.050]`: how far it is from what it is compared with; better or worse is said."""
    shown = _against(line).overall.interval
    written = amount(decimal(abs(shown.value), DIGITS), unit)
    if shown.low is None or shown.high is None:
        return written
    ends = (shown.low, shown.high) if shown.value > 0 else (-shown.high, -shown.low)
    return f"{written} [{', '.join(decimal(end, DIGITS) for end in ends)}]"


def _clear(lines: Sequence[Line], verdict: str) -> list[Line]:
    """Those with this verdict, the largest difference first."""
    found = [line for line in lines if line.against is not None and line.against.overall.verdict == verdict]
    return sorted(found, key=lambda line: -abs(_gain(line)))


def _listed(lines: Sequence[Line], unit: str) -> str:
    first, *others = lines
    told = [f"{_within(line)} by {decimal(abs(_gain(line)), DIGITS)}" for line in others]
    return _some([f"{_within(first)} by {_size(first, unit)}", *told])


def _leaves_out_0(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None and not interval.low <= 0 <= interval.high


def control_words(outcome: Outcome, unit: str) -> str:
    """Whether a control came out as it must, and what it was."""
    if outcome.contrast is None:
        return f"✗ A control is missing, as a trial of it did not finish: {outcome.of.what}"
    seen = difference_words(outcome.contrast, unit)
    if outcome.of.expected == "detected":
        said = "✓ A known effect is seen" if outcome.holds else "✗ A known effect is not seen"
    else:
        said = "✓ No effect is seen where there is none" if outcome.holds else "✗ An effect is seen where there is none"
    return f"{said}: {outcome.of.what} ({seen})"


def difference_words(contrast: Contrast, unit: str) -> str:
    """`−0.031 bits per byte [−0.050, −0.012]`."""
    shown = contrast.overall.interval
    ends = f" [{_signed(shown.low)}, {_signed(shown.high)}]" if shown.low is not None else ""
    return f"{amount(_signed(shown.value), unit)}{ends}"


def _signed(value: float | None) -> str:
    return decimal(value, DIGITS, sign=True)


def verdict_word(line: Line, findings: Findings) -> str:
    """Of a condition, against what it is compared with."""
    if line.against is None:
        return ""
    overall = line.against.overall
    if overall.verdict is None:
        return "the same" if not overall.interval.value else "cannot be told"
    if overall.verdict == "no clear difference" and _leaves_out_0(overall.interval):
        return "no clear difference, corrected for all comparisons"
    return {findings.better: "better", findings.worse: "worse"}.get(overall.verdict, overall.verdict)
