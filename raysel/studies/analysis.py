"""What a study's values say: every condition beside what it is compared with, and whether the controls hold. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raysel.evaluation.intervals import Interval, t_interval
from raysel.studies.contrasts import Contrast, Trend, Verdict, contrast, corrected, trend
from raysel.studies.results import Condition, languages, less_is_better, unit
from raysel.studies.settings import Compared, Control
from raysel.sweep.values import value_text

CLEAR: tuple[Verdict, ...] = ("lower", "higher")


@dataclass(frozen=True)
class Line:
    """A condition, or a condition in a group of languages.

    label: what is varied, in words, with the group of languages; named: without it; across: its place on the horizontal
    axis, where there is one; kind: its value of the key that divides the conditions into lines; panel: the group of
    languages; "" where there is none. langs: of which it all is; mean: over languages and seeds; by_language: over
    seeds; against: less the condition it is compared with, None for that one itself.
    """

    condition: Condition
    label: str
    named: str
    across: float | None
    kind: str
    panel: str
    langs: list[str]
    mean: Interval
    by_language: Mapping[str, Interval]
    against: Contrast | None
    is_reference: bool

    @property
    def group(self) -> str:
        """What one curve is of."""
        return ", ".join(filter(None, (self.kind, self.panel)))


@dataclass(frozen=True)
class Outcome:
    """A control: what was expected and what was seen. holds: None where a condition of it is missing."""

    name: str
    of: Control
    contrast: Contrast | None
    holds: bool | None


@dataclass(frozen=True)
class Findings:
    """langs: those that every condition has a value in, of which the means are. unit: of the values; better: the
    verdict of what is better than another. reference: what is compared with, in words; "" where nothing is. dropped:
    languages with a value in some conditions only; ungrouped: those that are in none of the study's groups. trends: by
    group of lines, over at least three places.
    """

    langs: list[str]
    unit: str
    better: Verdict
    reference: str
    lines: list[Line]
    missing: list[Condition]
    outcomes: list[Outcome]
    dropped: list[str] = field(default_factory=list)
    ungrouped: list[str] = field(default_factory=list)
    trends: Mapping[str, Trend] = field(default_factory=dict)

    @property
    def worse(self) -> Verdict:
        return "higher" if self.better == "lower" else "lower"

    @property
    def axis(self) -> str:
        """What the values' axis is called."""
        return f"{self.unit} ({'less' if self.better == 'lower' else 'more'} is better)"


def analyse(
    conditions: Sequence[Condition],
    compared: Compared,
    controls: Mapping[str, Control],
    measure: str = "bits_per_byte",
) -> Findings:
    """Raises ValueError where nothing has a value."""
    whole = [condition for condition in conditions if condition.is_whole]
    langs = [lang for lang in languages(whole) if lang in (compared.languages or [lang])]
    if not langs:
        raise ValueError("no condition has values in every seed and a common language")
    asked = [condition for condition in whole if condition.control is None]
    groups = {name: [lang for lang in own if lang in langs] for name, own in compared.groups.items()} or {"": langs}
    # Two conditions with the same results are one run, and say once how runs scatter.
    runs = list({str(sorted(of.values.items())): of for of in whole}.values())
    lines = [
        _line(condition, asked, runs, compared, own, name) for name, own in groups.items() if own for condition in asked
    ]
    lines = sorted(_with_corrected(lines), key=_place)
    better: Verdict = "lower" if less_is_better(measure) else "higher"
    pairs = {name: [one for one in conditions if one.control == name] for name in controls}
    outcomes = [_outcome(name, of, pairs[name], runs, langs, better) for name, of in controls.items()]
    anywhere = {lang for condition in whole for of in condition.values.values() for lang in of}
    return Findings(
        langs,
        unit(measure),
        better,
        _reference_words(lines, compared),
        lines,
        [condition for condition in conditions if not condition.is_whole],
        outcomes,
        dropped=sorted(anywhere - set(languages(whole))),
        ungrouped=sorted(set(langs) - {lang for own in groups.values() for lang in own}),
        trends=_trends(lines),
    )


def _with_corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines, their contrasts corrected for how many there are."""
    found = iter(corrected([line.against for line in lines if line.against is not None]))
    return [line if line.against is None else replace(line, against=next(found)) for line in lines]


def _trends(lines: Sequence[Line]) -> dict[str, Trend]:
    found = {}
    for group in dict.fromkeys(line.group for line in lines):
        own = [line for line in lines if line.group == group]
        if len(own) >= 3 and len({line.across for line in own}) == len(own) and own[0].across is not None:
            found[group] = trend([_runs(line.condition, line.langs) for line in own])
    return found


def _line(
    condition: Condition,
    others: Sequence[Condition],
    whole: Sequence[Condition],
    compared: Compared,
    langs: Sequence[str],
    group_of_languages: str,
) -> Line:
    reference = _reference(condition, others, compared)
    across = condition.parameters.get(compared.across) if compared.across is not None else None
    divided = [_word(condition.parameters.get(key), compared) for key in compared.lines]
    named = condition.name or label(condition.parameters, compared)
    return Line(
        condition,
        ", ".join(filter(None, (named, group_of_languages))),
        named,
        float(across) if isinstance(across, int | float) else None,
        ", ".join(divided),
        group_of_languages,
        list(langs),
        over_seeds([sum(of[lang] for lang in langs) / len(langs) for of in condition.values.values()]),
        {lang: over_seeds([of[lang] for of in condition.values.values()]) for lang in langs},
        None if reference is None or reference is condition else difference(condition, reference, whole, langs),
        reference is condition,
    )


def _reference(condition: Condition, others: Sequence[Condition], compared: Compared) -> Condition | None:
    """The condition that the reference's values are all there is to say of; or the one with these values that is equal
    in everything else that is shown; of none such the only one that has these values."""
    wanted = compared.reference
    fitting = [other for other in others if wanted and _has(other.parameters, wanted)]
    besides = {*wanted, *compared.unnamed}
    alone = [other for other in fitting if not _without(other, besides)]
    if len(alone) == 1:
        return alone[0]
    same = [other for other in fitting if _without(other, besides) == _without(condition, besides)]
    if same:
        return same[0]
    return fitting[0] if len(fitting) == 1 else None


def _without(condition: Condition, keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in condition.parameters.items() if key not in keys}


def _has(parameters: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(key in parameters and parameters[key] == value for key, value in wanted.items())


def _reference_words(lines: Sequence[Line], compared: Compared) -> str:
    names = {line.condition.name for line in lines if line.is_reference} - {""}
    return names.pop() if len(names) == 1 else label(compared.reference, compared)


def difference(first: Condition, second: Condition, among: Sequence[Condition], langs: Sequence[str]) -> Contrast:
    """The first less the second, seed by seed; among: all that have values."""
    return contrast(_runs(first, langs), _runs(second, langs), [_runs(of, langs) for of in among])


def _runs(condition: Condition, langs: Sequence[str]) -> dict[int, dict[str, float]]:
    return {seed: {lang: of[lang] for lang in langs} for seed, of in condition.values.items()}


def _outcome(
    name: str,
    of: Control,
    pair: Sequence[Condition],
    whole: Sequence[Condition],
    langs: Sequence[str],
    better: Verdict,
) -> Outcome:
    if len(pair) != 2 or not all(condition.is_whole for condition in pair):
        return Outcome(name, of, None, None)
    found = difference(pair[0], pair[1], whole, langs)
    # An effect is only the expected one if it is for the better.
    seen = found.overall.verdict == better if of.expected == "detected" else found.overall.verdict in CLEAR
    return Outcome(name, of, found, seen == (of.expected == "detected"))


def over_seeds(values: Sequence[float]) -> Interval:
    mean = sum(values) / len(values)
    return Interval(mean, *t_interval(values)) if len(values) > 1 else Interval(mean)


def label(parameters: Mapping[str, Any], compared: Compared) -> str:
    """What is varied, in the words of the study's file."""
    shown = {key: value for key, value in parameters.items() if key not in compared.unnamed}
    return ", ".join(_worded(key, value, compared) for key, value in shown.items())


def _worded(key: str, value: Any, compared: Compared) -> str:
    name, written = compared.named.get(key, key.rpartition(".")[2]), _word(value, compared)
    if "{}" not in name:
        return f"{name} {written}".strip()
    return name.replace("{}", written).replace("(s)", "" if value == 1 else "s")


def _word(value: Any, compared: Compared) -> str:
    written = value_text(value)
    return compared.named.get(written, written)


def _place(line: Line) -> tuple[str, float, int]:
    return line.group, line.across if line.across is not None else 0.0, line.condition.number
