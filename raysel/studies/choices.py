"""Conditions of which only the choice is measured: how separable it is and how well it covers the rest, by language."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from rich.console import Console

from raysel.errors import UserError
from raysel.execution import run_folder
from raysel.experiment import Experiment
from raysel.interruption import raise_if_interrupted
from raysel.runner import run_on
from raysel.store import Artifact, Store
from raysel.studies.results import Condition
from raysel.sweep.trials import Search, shown, trial_folder, trial_name


def measured_choices(
    search: Search, conditions: Sequence[Condition], store: Store, cluster: Any, console: Console
) -> list[Condition]:
    """The conditions with the coverage and the separability of what each chooses, one after another: without a training
    they take seconds, and share nearly everything."""
    found = []
    numbers = count()
    for condition, point in zip(conditions, search.space.points, strict=True):
        values: dict[int, dict[str, float]] = {}
        separability: dict[int, float] = {}
        addresses: dict[int, str] = {}
        missing: dict[int, str] = {}
        for seed in search.seeds:
            number = next(numbers)
            experiment = search.trial(point, seed, name=trial_name(search.name, number))
            folder = trial_folder(run_folder(search.name), number)
            try:
                artifacts = run_on(cluster, experiment, store, Console(quiet=True), until="diversity", folder=folder)
            except UserError as error:
                missing[seed] = str(error)
                continue
            artifact = artifacts["diversity"]
            rows = cluster.run_task(_of_choice, artifact, experiment)
            values[seed] = {row["lang"]: _of_left_out(row) for row in rows}
            separability[seed] = sum(row["separability"] for row in rows) / len(rows)
            addresses[seed] = artifact.address
            raise_if_interrupted()
        console.print(f"measured: {shown(condition.parameters)}", highlight=False, markup=False)
        found.append(replace(condition, values=values, addresses=addresses, missing=missing, separability=separability))
    return found


def _of_left_out(row: dict[str, Any]) -> float:
    """The table has the mean distance over all rows, 0 for those that were chosen."""
    left_out = row["corpus_rows"] - row["n"]
    return float(row["coverage"] * row["corpus_rows"] / left_out) if left_out else 0.0


def _of_choice(artifact: Artifact, experiment: Experiment) -> list[dict[str, Any]]:
    """Ray task: what the table `diversity` says of the experiment's own choice, by language."""
    own = (experiment.selection.method, experiment.selection.candidates)
    rows = artifact.read("diversity").to_pylist()
    return [row for row in rows if (row["method"], row["candidates"]) == own and row["lang"] is not None]
