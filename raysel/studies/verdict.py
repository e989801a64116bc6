"""A study's answer in plain sentences. Pure."""

from collections.abc import Sequence

from raysel.report.formats import decimal
from raysel.studies.analysis import Findings, Line, Outcome
from raysel.studies.contrasts import Contrast

DIGITS = 3


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
    compared = [line for line in findings.lines if line.against is not None]
    if not compared:
        return _range(findings.lines)
    better, worse = (_clear(compared, verdict) for verdict in ("lower", "higher"))
    than = next((line.label for line in findings.lines if line.is_reference), "the condition it is compared with")
    references = [line for line in findings.lines if line.is_reference]
    than = f"than {than}" if len(references) == 1 else "than what they are compared with"
    found = [f"Better {than}: {_listed(better)}."] if better else []
    found += [f"Worse {than}: {_listed(worse)}."] if worse else []
    unclear = [line for line in compared if line not in better and line not in worse]
    if unclear:
        reach = max((line.against.overall.detectable or 0.0 for line in unclear if line.against), default=0.0)
        who = "No condition" if not found else f"{len(unclear)} of {len(compared)} conditions"
        not_ = "differs" if not found else "do not differ"
        limit = f"; a difference of {decimal(reach, DIGITS)} bits per byte would have been seen in most such runs"
        found.append(f"{who} {not_} beyond the noise of the seeds{limit if reach else ''}.")
    return " ".join(found)


def control_words(outcome: Outcome) -> str:
    """What a control was, and whether it came out as it must."""
    if outcome.contrast is None:
        return "missing: a trial of it did not finish"
    seen = difference_words(outcome.contrast)
    if outcome.holds:
        return f"{outcome.of.expected}, as it must be ({seen})"
    opposite = "not detected" if outcome.of.expected == "detected" else "detected"
    return f"{opposite}, though it should be {outcome.of.expected} ({seen})"


def difference_words(contrast: Contrast) -> str:
    """`−0.031 bits per byte [−0.050, −0.012]`."""
    shown = contrast.overall.interval
    ends = (
        f" [{decimal(shown.low, DIGITS, sign=True)}, {decimal(shown.high, DIGITS, sign=True)}]"
        if shown.low is not None
        else ""
    )
    return f"{decimal(shown.value, DIGITS, sign=True)} bits per byte{ends}"


def verdict_word(line: Line) -> str:
    """Of a condition, against what it is compared with."""
    if line.against is None:
        return ""
    found = line.against.overall.verdict
    return {"lower": "better", "higher": "worse", None: "cannot be told"}.get(found, str(found))


def _clear(lines: Sequence[Line], verdict: str) -> list[Line]:
    return [line for line in lines if line.against is not None and line.against.overall.verdict == verdict]


def _listed(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.label} by {difference_words(line.against)}" for line in lines if line.against is not None)


def _range(lines: Sequence[Line]) -> str:
    best, worst = (pick(lines, key=lambda line: line.mean.value) for pick in (min, max))
    return (
        f"From {decimal(best.mean.value, DIGITS)} bits per byte ({best.label}) to {decimal(worst.mean.value, DIGITS)} "
        f"({worst.label})."
    )
