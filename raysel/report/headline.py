"""What was asked and what came out, in five lines: the first screen of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysel.evaluation.intervals import Interval
from raysel.report.asked import budget_words, model_name, pool_words, selector_words, training_words
from raysel.report.comparison import Comparison
from raysel.report.findings import Findings
from raysel.report.formats import MISSING, counted, decimal, integer, language_name, metric_name, percent, probability
from raysel.report.metric_text import metric_writer
from raysel.report.result_lines import Compared

# So many languages are named on each side; the others are counted.
NAMED = 5


@dataclass(frozen=True)
class Line:
    """One line: what it is about, its figure, and the rest of the sentence. tone: `better`, `worse` or `unclear` of a
    difference that is judged, else empty."""

    label: str
    figure: str
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Strip:
    """A difference and its interval on a scale with zero in its middle; in percent of the scale's width."""

    left: float
    width: float
    value: float


def headline(findings: Findings, experiment: Mapping[str, Any]) -> list[Line]:
    """Five lines, always: of what the run did not come to, the line says so."""
    return [
        _corpus(findings),
        _selection(findings, experiment),
        _training(findings, experiment),
        _result(findings.comparison),
        _languages(findings.comparison),
    ]


def strip(difference: Interval | None) -> Strip | None:
    """None without an interval."""
    if difference is None or difference.low is None or difference.high is None:
        return None
    reach = 1.15 * max(abs(difference.low), abs(difference.high), abs(difference.value))
    if not reach:
        return None
    low, value, high = (round(50 + 50 * of / reach, 2) for of in (difference.low, difference.value, difference.high))
    return Strip(low, round(high - low, 2), value)


def _corpus(findings: Findings) -> Line:
    rows = list(findings.languages.values())
    if not rows:
        return Line("Corpus", MISSING, "no corpus was read by this run")
    parts = [f"{integer(min(rows))} to {integer(max(rows))} rows a language"]
    if findings.heldout:
        parts.append(f"{integer(findings.heldout)} more held out")
    if findings.audit is not None:
        found = sum(sum(of.values()) for of in findings.audit.counts.values())
        parts.append(f"the audit has {counted(found, 'finding')}" if found else "the audit found nothing")
    return Line("Corpus", f"{counted(sum(rows), 'row')} in {counted(len(rows), 'language')}", "; ".join(parts))


def _selection(findings: Findings, experiment: Mapping[str, Any]) -> Line:
    how = " ".join(part for part in (selector_words(experiment), f"from {pool_words(experiment)}") if part)
    budget = budget_words(experiment)
    asked = f"; asked for: {budget}" if budget else ""
    chosen = findings.chosen.get("subset")
    if chosen is None:
        return Line("Selection", MISSING, f"nothing was selected yet ({how}{asked})")
    number, rows = sum(chosen.values()), sum(findings.languages.values())
    share = f" of {integer(rows)} ({percent(number / rows)})" if rows else ""
    scores, selected = findings.scores, findings.selected_scores
    means = (scores.mean, selected.mean) if scores is not None and selected is not None else (None, None)
    moved = "" if None in means else f". Mean separability {decimal(means[0])} → {decimal(means[1])}"
    return Line("Selection", f"{counted(number, 'row')}{share}", f"{how}{asked}{moved}")


def _training(findings: Findings, experiment: Mapping[str, Any]) -> Line:
    how = training_words(experiment)
    model = f"{model_name(experiment) or 'the model'}{f' ({how})' if how else ''}"
    log, heldout = findings.log, findings.heldout_loss
    if log is None:
        return Line("Training", MISSING, f"not trained yet: {model}")
    tokens = f", {integer(log.tokens)} tokens" if log.tokens else ""
    loss, of = (heldout.loss, "held-out loss") if heldout is not None else (log.smoothed, "training loss")
    moved = f"; {of} {decimal(float(loss[0]), 2)} → {decimal(float(loss[-1]), 2)}"
    return Line("Training", counted(len(log.steps), "step"), f"{model}{tokens}{moved}")


def _result(comparison: Comparison | None) -> Line:
    if comparison is None:
        return Line("Result", MISSING, "no model was evaluated")
    line = comparison.headline
    if line is None:
        return Line("Result", MISSING, "the two models have no result in common")
    write = metric_writer(comparison)
    unit = "%" if line.metric in comparison.shares else ""
    less = " (less is better)" if line.metric in comparison.less_is_better else ""
    over = f"mean {metric_name(line.metric)}{less} over {counted(len(comparison.by_language), 'language')}"
    if line.base is None or line.tuned is None or line.difference is None:
        one = line.tuned if line.base is None else line.base
        assert one is not None
        ends = _ends(one, line, write, sign=False)
        text = f"{over} of the {comparison.models[0]} model alone{ends}: there is no other to compare it with"
        return Line("Result", f"{write(one.value, line.metric)}{unit}", text)
    figure = f"{write(line.difference.value, line.metric, sign=True)}{' points' if unit else ''}"
    moved = f"{write(line.base.value, line.metric)}{unit} → {write(line.tuned.value, line.metric)}{unit}"
    ends = _ends(line.difference, line, write, sign=True)
    return Line("Result", figure, f"{over}, {moved}{ends}. {_verdict(line)}", _tone(line.better))


def _ends(shown: Interval, line: Compared, write: Any, *, sign: bool) -> str:
    if shown.low is None or shown.high is None:
        return ""
    return f", 95% interval {write(shown.low, line.metric, sign=sign)} to {write(shown.high, line.metric, sign=sign)}"


def _verdict(line: Compared) -> str:
    p = f" (p {probability(line.p)})" if line.p is not None else ""
    if line.better is not None:
        return f"Clearly {'better' if line.better else 'worse'}{p}"
    return {
        "no item changed": "No item's score changed",
        "no interval": "Without an interval nothing says whether that is more than chance",
    }.get(line.verdict, f"No clear difference: the choice of test items alone may explain it{p}")


def _tone(better: bool | None) -> str:
    return {True: "better", False: "worse", None: "unclear"}[better]


def _languages(comparison: Comparison | None) -> Line:
    lines = comparison.by_language if comparison is not None else []
    judged = [line for line in lines if line.difference is not None]
    if comparison is None or not judged:
        return Line("By language", MISSING, "no language has a result of both models")
    better = [line for line in judged if line.better is True]
    worse = [line for line in judged if line.better is False]
    figure = f"{len(better)} better, {len(worse)} worse"
    parts = [f"{word} in {_named(of, comparison)}" for word, of in (("better", better), ("worse", worse)) if of]
    unclear = len(judged) - len(better) - len(worse)
    if unclear:
        parts.append(f"no clear difference in {counted(unclear, 'language')}, each on its own")
    if len(judged) < len(lines):
        parts.append(f"{len(lines) - len(judged)} without a result of both models")
    return Line("By language", figure, "; ".join(parts), "" if better or worse else "unclear")


def _named(lines: Sequence[Compared], comparison: Comparison) -> str:
    write = metric_writer(comparison)
    far = sorted(lines, key=lambda line: -abs(_change(line)))
    names = [f"{language_name(line.lang)} {write(_change(line), line.metric, sign=True)}" for line in far[:NAMED]]
    return ", ".join(names) + (f" and {len(far) - NAMED} more" if len(far) > NAMED else "")


def _change(line: Compared) -> float:
    assert line.difference is not None
    return line.difference.value
