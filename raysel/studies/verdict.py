"""A study's answer in plain sentences. Pure."""

from collections.abc import Sequence

from raysel.report.formats import decimal
from raysel.studies.analysis import CLEAR, Findings, Line, Outcome
from raysel.studies.contrasts import Contrast

DIGITS = 3
# Of many conditions so many are named; all are in the table.
MOST_NAMED = 3


def answer(findings: Findings) -> str:
    """What came out, in one or two sentences."""
    if findings.is_sensitive is False:
        unseen = [
            outcome.of.what for outcome in findings.outcomes if outcome.of.expected == "detected" and not outcome.holds
        ]
        return (
            "This run cannot tell: an effect that is known to be there was not seen "
            f"({'; '.join(unseen)}). What the conditions differ by, or not, says nothing."
        )
    found = _compared(findings)
    if findings.is_specific is False:
        found += " But a difference was seen where there can be none, so that differences of its size say nothing."
    return found


def _compared(findings: Findings) -> str:
    compared = [line for line in findings.lines if line.against is not None]
    if not compared:
        return _range(findings.lines, findings.unit)
    groups = list(dict.fromkeys(line.group for line in compared))
    if len(groups) > 1 or any(line.across is not None for line in compared):
        return " ".join(
            _best_of(group, [line for line in compared if line.group == group], findings.reference, findings.unit)
            for group in groups
        )
    better, worse = (_clear(compared, verdict) for verdict in CLEAR)
    found = [f"Better than {findings.reference}: {_listed(better, findings.unit)}."] if better else []
    found += [f"Worse than {findings.reference}: {_listed(worse, findings.unit)}."] if worse else []
    unclear = [line for line in compared if line not in better and line not in worse]
    if unclear:
        verb = "does" if len(unclear) == 1 else "do"
        who = f"{len(unclear)} of {len(compared)} conditions {verb} not differ" if found else "No condition differs"
        found.append(f"{who} beyond the noise of the seeds{_reach(unclear, findings.unit)}.")
    return " ".join(found)


def _best_of(group: str, lines: Sequence[Line], reference: str, unit: str) -> str:
    """Of one line of a figure: what gains most over what it is compared with, where something clearly does; else what
    loses most."""
    better, worse = (_clear(lines, verdict) for verdict in CLEAR)
    head = f"{group}: " if group else ""
    if better:
        best = min(better, key=_gain)
        return f"{head}best with {_within(best)}, {difference_words(_against(best), unit)} against {reference}."
    if worse:
        of = max(worse, key=_gain)
        said = difference_words(_against(of), unit)
        return f"{head}none is better than {reference}; worst with {_within(of)}, {said} against it."
    return f"{head}no difference from {reference} beyond the noise of the seeds{_reach(lines, unit)}."


def _within(line: Line) -> str:
    """Its name without what the name of its group says already."""
    said = line.group.split(", ")
    return ", ".join(part for part in line.named.split(", ") if part not in said)


def _against(line: Line) -> Contrast:
    assert line.against is not None
    return line.against


def _gain(line: Line) -> float:
    return _against(line).overall.interval.value


def _reach(lines: Sequence[Line], unit: str) -> str:
    """What would have been seen."""
    reach = max((_against(line).overall.detectable or 0.0 for line in lines), default=0.0)
    said = f"; a difference of {decimal(reach, DIGITS)} {unit} would have been seen in most such runs"
    return said if reach else ""


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
    shown = contrast.overall.interval
    ends = (
        f" [{decimal(shown.low, DIGITS, sign=True)}, {decimal(shown.high, DIGITS, sign=True)}]"
        if shown.low is not None
        else ""
    )
    return f"{decimal(shown.value, DIGITS, sign=True)} {unit}{ends}"


def verdict_word(line: Line) -> str:
    """Of a condition, against what it is compared with."""
    if line.against is None:
        return ""
    found = line.against.overall.verdict
    return {"lower": "better", "higher": "worse", None: "cannot be told"}.get(found, str(found))


def _clear(lines: Sequence[Line], verdict: str) -> list[Line]:
    return [line for line in lines if line.against is not None and line.against.overall.verdict == verdict]


def _listed(lines: Sequence[Line], unit: str) -> str:
    ranked = sorted(lines, key=lambda line: -abs(_gain(line)))
    said = [f"{line.label} by {difference_words(_against(line), unit)}" for line in ranked[:MOST_NAMED]]
    more = [f"and {len(ranked) - MOST_NAMED} more"] if len(ranked) > MOST_NAMED else []
    return "; ".join(said + more)


def _range(lines: Sequence[Line], unit: str) -> str:
    best, worst = (pick(lines, key=lambda line: line.mean.value) for pick in (min, max))
    return (
        f"From {decimal(best.mean.value, DIGITS)} {unit} ({best.label}) to {decimal(worst.mean.value, DIGITS)} "
        f"({worst.label})."
    )
