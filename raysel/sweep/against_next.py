"""Whether a point of the ranking differs from the next beyond noise: their trials' results, item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from raysel.report.gather_stage import read_items
from raysel.report.result_lines import ItemValues, Key
from raysel.store import Store
from raysel.sweep.objective import Rows, chosen_rows, contrast_of_results, contrast_of_values
from raysel.sweep.records import Contrast, Ranked, TrialRecord
from raysel.sweep.settings import Objective

# Further down nobody asks which of two is better.
COMPARED = 20


def with_contrasts(
    store: Store, objective: Objective, ranking: Sequence[Ranked], trials: Mapping[int, TrialRecord], seed: int
) -> list[Ranked]:
    """The ranking, each of its first lines with its contrast to the next. A Ray task: it reads items."""
    found = list(ranking)
    for place, (one, other) in enumerate(pairwise(ranking[:COMPARED])):
        found[place] = replace(one, against_next=_contrast(store, objective, one, other, trials, seed=seed))
    return found


def _contrast(
    store: Store, objective: Objective, one: Ranked, other: Ranked, trials: Mapping[int, TrialRecord], *, seed: int
) -> Contrast | None:
    """None where they have no result in common."""
    of = [[trials[number] for number in line.trials] for line in (one, other)]
    if objective.of != "results":
        return contrast_of_values(*([trial.objectives[0].value for trial in line] for line in of))
    first, second = ([_results(store, objective, trial) for trial in line] for line in of)
    in_common = all(one_of[0].keys() & other_of[0].keys() for one_of, other_of in zip(first, second, strict=True))
    return contrast_of_results(first, second, seed=seed) if in_common else None


def _results(store: Store, objective: Objective, trial: TrialRecord) -> tuple[Rows, Mapping[Key, ItemValues]]:
    address = next(address for address in trial.artifacts if address.startswith("results/"))
    artifact: Any = store.artifact(*address.split("/"))
    if artifact is None:
        raise FileNotFoundError(f"{store.shown(address)}, from which trial {trial.number} was ranked, is gone")
    rows = chosen_rows(objective, artifact.read("results").to_pylist())
    return rows, read_items(artifact)
