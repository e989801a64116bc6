"""Keys, values and objectives as a sweep's tables and figures write them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysel.evaluation.intervals import Interval, is_share
from raysel.report.formats import MINUS, both_ends, decimal, integer, scientific, without_secrets
from raysel.sweep.settings import Objective, Space

# A number that is written with no more characters than this was written by somebody: it stays as it is.
WRITTEN = 7
# In running text and tooltips a value has so many characters at most.
VALUE_CHARACTERS = 60
# What stands for a key whose condition did not hold: the experiment's own value was used.
UNCHANGED = "unchanged"


def value_text(value: Any) -> str:
    """A value in one line, as YAML words: drawn numbers with 3 significant digits, lists and mappings without
    brackets (`en, sw`; `en 0.25, sw 0.75`)."""
    return _text(without_secrets(value), "{}")


def _text(value: Any, outermost: str = "") -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, list | tuple):
        inside = ", ".join(_text(item) for item in value)
        return inside if outermost and inside else f"[{inside}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{key} {_text(item)}" for key, item in value.items())
        return inside if outermost and inside else f"{{{inside}}}"
    return str(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value).replace("-", MINUS)
    if value and not 1e-3 < abs(value) < 1e6:
        return scientific(value)
    written = f"{value:g}"
    if float(written) != value or len(written) > WRITTEN:
        written = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return written.replace("-", MINUS)


def identity(value: Any) -> str:
    """Equal for equal values, whatever their type."""
    return json.dumps(value, sort_keys=True, default=str)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted keys by their last part, with as many parts before it as tell them apart."""
    kept = list(dict.fromkeys(keys))
    parts = dict.fromkeys(kept, 1)
    while True:
        names = {key: ".".join(key.split(".")[-parts[key] :]) for key in kept}
        longer = [k for k in kept if list(names.values()).count(names[k]) > 1 and parts[k] < len(k.split("."))]
        if not longer:
            return names
        for key in longer:
            parts[key] += 1


def labels(values: Sequence[Any], length: int) -> list[str]:
    """The values in at most `length` characters each; what is the same when shortened is numbered."""
    texts = [both_ends(value_text(value), length) for value in values]
    if len(set(texts)) == len(texts):
        return texts
    room = length - len(f" ({len(texts)})")
    return [f"{both_ends(value_text(value), room)} ({number})" for number, value in enumerate(values, 1)]


def parameters_text(parameters: Mapping[str, Any], keys: Sequence[str]) -> str:
    """`rho 0.5, method kmc`: the keys that are there, by their short names, long values shortened."""
    names = short_names(keys)
    texts = {key: _text(without_secrets(parameters[key])) for key in keys if key in parameters}
    return ", ".join(f"{names[key]} {both_ends(text, VALUE_CHARACTERS)}" for key, text in texts.items())


@dataclass(frozen=True)
class Measure:
    """How an objective's values are written. scale: 100 for shares, which are written as percentages; digits: after
    the point, 0 for whole numbers."""

    label: str
    is_maximized: bool
    scale: int
    digits: int

    @property
    def heading(self) -> str:
        return f"{self.label}, %" if self.scale == 100 else self.label

    @property
    def better(self) -> str:
        return "more is better" if self.is_maximized else "less is better"

    def write(self, value: float | None, sign: bool = False) -> str:
        if value is not None and not self.digits and math.isfinite(value):
            return f"+{integer(value)}" if sign and value > 0 else integer(value)
        return decimal(None if value is None else self.scale * value, self.digits, sign=sign)

    def ends(self, shown: Interval, sign: bool = False) -> str:
        """`[0.61, 0.65]`; nothing where there is no interval."""
        if shown.low is None or shown.high is None:
            return ""
        return f"[{self.write(shown.low, sign)}, {self.write(shown.high, sign)}]"

    def with_ends(self, shown: Interval, sign: bool = False) -> str:
        """`61.2 [58.1, 64.0]`."""
        return f"{self.write(shown.value, sign)} {self.ends(shown, sign)}".rstrip()

    def said(self, shown: Interval) -> str:
        """`acc 61.2% [58.1, 64.0]`."""
        unit = "%" if self.scale == 100 else ""
        return f"{self.label} {self.write(shown.value)}{unit} {self.ends(shown)}".rstrip()


def measures(space: Space, found: Sequence[Sequence[Interval]]) -> list[Measure]:
    """One for each objective of the space. found: the values of each trial, in that order, as far as there are any."""
    return [_measure(of, [one[k].value for one in found]) for k, of in enumerate(space.objective)]


def _measure(objective: Objective, values: Sequence[float]) -> Measure:
    if objective.of == "trained_tokens":
        return Measure(objective.label, objective.is_maximized, scale=1, digits=0)
    return metric_measure(objective.metric or "", values, label=objective.label, is_maximized=objective.is_maximized)


def metric_measure(metric: str, values: Sequence[float], *, label: str, is_maximized: bool) -> Measure:
    """A metric that can be a share, and all of whose values are in [0, 1], in percent. So many digits are written
    that a twentieth of the distance between the values can be seen, at most 5."""
    finite = [value for value in values if math.isfinite(value)]
    share = bool(metric) and is_share(metric) and all(0 <= value <= 1 for value in finite)
    scale = 100 if share else 1
    distance = scale * (max(finite) - min(finite)) if finite else 0.0
    least = 1 if share else 3
    digits = math.ceil(-math.log10(distance / 20)) if distance > 0 else least
    return Measure(label, is_maximized, scale, min(max(digits, least), 5))
