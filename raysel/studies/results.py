"""What came out of a study's trials: one value for each condition, seed and language. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysel.report.formats import metric_name
from raysel.report.result_lines import lower_is_better

COVERAGE = "coverage"
UNITS = {
    "bits_per_byte": "bits per byte",
    COVERAGE: "distance to the nearest chosen sample",
    "rouge_l": "ROUGE-L",
    "chrf_pp": "chrF++",
}


def unit(measure: str) -> str:
    """In words; of a metric of the results its name."""
    return UNITS.get(measure) or metric_name(measure)


def amount(number: str, unit: str) -> str:
    """`0.031 bits per byte`, `0.031 in accuracy`."""
    return f"{number} {unit if unit == UNITS['bits_per_byte'] else f'in {unit}'}" if unit else number


def less_is_better(measure: str) -> bool:
    return measure == COVERAGE or lower_is_better(measure)


@dataclass(frozen=True)
class Condition:
    """A point of the study. name: as its file calls it, or ""; control: the control that it belongs to, or None.

    values: seed -> language -> value; addresses: seed -> the artifact that its values are rows of; missing: of a seed
    without values why not. separability: seed -> mean over languages, of what was chosen, where that is measured.
    """

    number: int
    name: str
    parameters: Mapping[str, Any]
    control: str | None
    values: Mapping[int, Mapping[str, float]]
    addresses: Mapping[int, str] = field(default_factory=dict)
    missing: Mapping[int, str] = field(default_factory=dict)
    separability: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every seed has values."""
        return bool(self.values) and not self.missing


def as_data(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """For a JSON file."""
    return [
        {
            "name": of.name,
            "parameters": dict(of.parameters),
            "control": of.control,
            "values": {str(seed): dict(found) for seed, found in of.values.items()},
            "results": {str(seed): address for seed, address in of.addresses.items()},
            "missing": {str(seed): why for seed, why in of.missing.items()},
            "separability": {str(seed): value for seed, value in of.separability.items()},
        }
        for of in conditions
    ]


def from_data(data: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """What `as_data` gave."""

    def by_seed(of: Mapping[str, Any]) -> dict[int, Any]:
        return {int(seed): value for seed, value in of.items()}

    return [
        Condition(
            number,
            of["name"],
            of["parameters"],
            of["control"],
            by_seed(of["values"]),
            by_seed(of["results"]),
            by_seed(of["missing"]),
            by_seed(of["separability"]),
        )
        for number, of in enumerate(data)
    ]


def languages(conditions: Sequence[Condition]) -> list[str]:
    """Those that every condition with values has a value of."""
    found = [set(of) for condition in conditions for of in condition.values.values()]
    return sorted(set.intersection(*found)) if found else []
