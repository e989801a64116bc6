"""A study's answer in plain sentences. Pure."""

from collections.abc import Sequence

from raysel.report.formats import decimal
from raysel.studies.analysis import Findings, Line, Outcome
from raysel.studies.contrasts import Contrast
from raysel.studies.levelling import Levelled, plateau_words

DIGITS = 3
# Of many conditions so many are named; all are in the table.
MOST_NAMED = 3


def answer(findings: Findings, levelled: Sequence[Levelled] = ()) -> str:
    """What came out, in a few sentences. levelled: where its curves level off, where that was asked."""
    unseen = [of.of.what for of in findings.outcomes if of.of.expected == "detected" and not of.holds]
    if unseen:
        return (
            "This run cannot tell: an effect that is known to be there was not seen, or its control is missing "
            f"({'; '.join(unseen)}). What the conditions differ by, or not, says nothing."
        )
    found = [_compared(findings)]
    found += [f"{_head(of.name)}{plateau_words(of)} samples per language." for of in levelled]
    if findings.missing:
        lost = len(findings.missing)
        found.append(f"{lost} condition{'s are' if lost > 1 else ' is'} missing.")
    seen = [of for of in findings.outcomes if of.of.expected == "not detected"]
    if any(of.holds is False for of in seen):
        found.append(
            "But a difference was seen where there can be none, as happens by chance in one of twenty such runs: "
            "differences of its size say nothing."
        )
    if any(of.holds is None for of in seen):
        found.append("Whether differences are seen where there can be none is not known: that control is missing.")
    return " ".join(found)


def _compared(findings: Findings) -> str:
    compared = [line for line in findings.lines if line.against is not None]
    if not compared:
        lost = f"{findings.reference} is missing, and there" if findings.reference else "There"
        return f"{lost} is nothing to compare the conditions with."
    groups = list(dict.fromkeys(line.group for line in compared))
    if len(groups) > 1 or any(line.across is not None for line in compared):
        return " ".join(
            _of_group(group, [line for line in compared if line.group == group], findings) for group in groups
        )
    return _sorted_out(compared, findings)


def _of_group(group: str, lines: Sequence[Line], findings: Findings) -> str:
    """Of one line of a figure: what differs from what it is compared with, and the trend."""
    told = _sorted_out(lines, findings)
    over = findings.trends.get(group)
    trend = {"rises": " The values rise from left to right.", "falls": " The values fall from left to right."}
    return f"{_head(group)}{told}{trend.get(over.verdict, '') if over is not None else ''}"


def _head(group: str) -> str:
    return f"{group}: " if group else ""


def _sorted_out(lines: Sequence[Line], findings: Findings) -> str:
    """What is better, worse and neither."""
    better, worse = (_clear(lines, verdict) for verdict in (findings.better, findings.worse))
    found = [f"better than {findings.reference}: {_listed(better, findings.unit)}"] if better else []
    found += [f"worse than {findings.reference}: {_listed(worse, findings.unit)}"] if worse else []
    if unclear := [line for line in lines if line not in better and line not in worse]:
        if found:
            found.append(f"no clear difference: {_some([_within(line) for line in unclear])}")
        else:
            found.append(f"no difference from {findings.reference} beyond the noise{_reach(unclear, findings.unit)}")
    told = "; ".join(found)
    return f"{told[:1].upper()}{told[1:]}."


def _within(line: Line) -> str:
    """Its name without what the name of its group says already."""
    said = line.group.split(", ")
    return ", ".join(part for part in line.named.split(", ") if part not in said)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _against(line: Line) -> Contrast:
    assert line.against is not None
    return line.against


def _gain(line: Line) -> float:
    return _against(line).overall.interval.value


def _reach(lines: Sequence[Line], unit: str) -> str:
    """What would have been seen."""
    reach = max((_against(line).overall.detectable or 0.0 for line in lines), default=0.0)
    said = f" of the seeds (a difference of {decimal(reach, DIGITS)} {unit} would have been seen in most such runs)"
    return said if reach else " of the seeds"


def control_words(outcome: Outcome, unit: str) -> str:
    """What a control was, and whether it came out as it must."""
    if outcome.contrast is None:
        return "missing: a trial of it did not finish"
    seen = difference_words(outcome.contrast, unit)
    if outcome.holds:
        return f"{outcome.of.expected}, as it must be ({seen})"
    opposite = "not detected" if outcome.of.expected == "detected" else "detected"
    return f"{opposite}, though it should be {outcome.of.expected} ({seen})"


def difference_words(contrast: Contrast, unit: str) -> str:
    """`−0.031 bits per byte [−0.050, −0.012]`."""
    return f"{_signed(contrast.overall.interval.value)} {unit}{_ends(contrast)}"


def _signed(value: float | None) -> str:
    return decimal(value, DIGITS, sign=True)


def _ends(contrast: Contrast) -> str:
    shown = contrast.overall.interval
    return f" [{_signed(shown.low)}, {_signed(shown.high)}]" if shown.low is not None else ""


def verdict_word(line: Line, findings: Findings) -> str:
    """Of a condition, against what it is compared with."""
    if line.against is None:
        return ""
    overall = line.against.overall
    if overall.verdict is None:
        return "the same" if not overall.interval.value else "cannot be told"
    return {findings.better: "better", findings.worse: "worse"}.get(overall.verdict, overall.verdict)


def _clear(lines: Sequence[Line], verdict: str) -> list[Line]:
    """Those with this verdict, the largest difference first."""
    found = [line for line in lines if line.against is not None and line.against.overall.verdict == verdict]
    return sorted(found, key=lambda line: -abs(_gain(line)))


def _listed(lines: Sequence[Line], unit: str) -> str:
    said = [f"{_within(line)} by {_signed(_gain(line))}{_ends(_against(line))}" for line in lines[:MOST_NAMED]]
    said[0] = said[0].replace(_signed(_gain(lines[0])), f"{_signed(_gain(lines[0]))} {unit}", 1)
    more = [f"and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    return ", ".join(said + more)
