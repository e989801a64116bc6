"""`raysel compare` of two evaluations: two models on the same items, with tests, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysel.errors import UserError
from raysel.evaluation.heldout import METRIC, PREFIX
from raysel.evaluation.intervals import Interval, is_share, mean_interval
from raysel.report.comparison import Comparison, compare
from raysel.report.formats import decimal, integer, metric_digits, probability
from raysel.report.gather_stage import read_items
from raysel.report.result_lines import MODELS, Compared, ItemValues, Key
from raysel.store import Artifact, Store

WIDTH = 120
# What can make two evaluations of the same items two different questions.
CONDITIONS = ("split", "shots", "template", "harness")


class EvaluationError(UserError):
    """Results that cannot be read, or two evaluations that have nothing in common."""


@dataclass(frozen=True)
class Evaluation:
    """One model's results. rows: of the `results` table; items: by (lang, task, metric); targets: the right answers by
    (lang, task, item); limit: evaluation.limit."""

    location: str
    rows: list[dict[str, Any]]
    items: Mapping[Key, ItemValues]
    targets: Mapping[tuple[str, str, int], str]
    limit: int | None

    def size(self) -> int:
        """How many items there are, whatever their metrics."""
        cells: dict[tuple[str, str], int] = {}
        for (lang, task, _), of in self.items.items():
            cells[lang, task] = max(len(of.numbers), cells.get((lang, task), 0))
        return sum(cells.values())

    def values(self, name: str) -> list[str]:
        """What the results say of a condition, sorted."""
        return sorted({str(row[name]) for row in self.rows if name in row})


def find_both(first: str, second: str, of: str | None) -> tuple[Evaluation, Evaluation] | None:
    """Both evaluations; None where scores are to be compared: `of` says so, or says nothing and neither place has
    results (of experiment files: one of them has none)."""
    if of not in (None, "scores", "results"):
        raise EvaluationError(f"--of {of}: scores or results can be compared")
    if of == "scores":
        return None
    found = [(location, find_results(location)) for location in (first, second)]
    without = [location for location, artifact in found if artifact is None]
    folders = [location for location, artifact in found if artifact is not None and not _is_experiment(location)]
    if without and (of == "results" or folders):
        raise EvaluationError(
            f"{without[0]} has no published results; give the folder STORAGE/results/FINGERPRINT or an experiment file "
            "that was evaluated (raysel evaluate)"
        )
    read = [read_evaluation(location, artifact) for location, artifact in found if artifact is not None]
    return (read[0], read[1]) if len(read) == len(found) else None


def _is_experiment(location: str) -> bool:
    return location.endswith((".yaml", ".yml"))


def find_results(location: str) -> Artifact | None:
    """The published `results` that `location` names: their folder, or an experiment file (of the tuned model where it
    is evaluated). None where it names none."""
    if _is_experiment(location):
        return _of_experiment(Path(location))
    if "://" not in location:
        folder = Path(location).expanduser().resolve()
        return Store(str(folder.parent.parent)).artifact("results", folder.name) if _in_results(folder) else None
    place, mark, options = location.partition("?")
    scheme, _, path = place.partition("://")
    remote = PurePosixPath(path)
    storage = f"{scheme}://{remote.parent.parent}{mark}{options}"
    return Store(storage).artifact("results", remote.name) if _in_results(remote) else None


def _in_results(folder: PurePath) -> bool:
    # A bucket named `results` is no folder in a storage.
    return folder.parent.name == "results" and len(folder.parts) > 2


def _of_experiment(path: Path) -> Artifact | None:
    from raysel.experiment import load_experiment
    from raysel.pipeline import expand

    experiment = load_experiment(path, [])
    if not experiment.evaluation.is_asked:
        return None
    store = Store(experiment.storage)
    steps = {step.name: step for step in expand(experiment, store)}
    named = [steps[f"results_{model}"] for model in reversed(MODELS) if f"results_{model}" in steps]
    return store.artifact(named[0].stage, named[0].fingerprint) if named else None


def read_evaluation(location: str, artifact: Artifact) -> Evaluation:
    settings = artifact.manifest["settings"]
    limit = settings.get("evaluation", {}).get("limit") if isinstance(settings, dict) else None
    return Evaluation(location, artifact.read("results").to_pylist(), read_items(artifact), _targets(artifact), limit)


def _targets(artifact: Artifact) -> dict[tuple[str, str, int], str]:
    table = artifact.read("items", ["lang", "task", "item", "target"])
    columns = (table[name].to_pylist() for name in table.column_names)
    return {(lang, task, item): target for lang, task, item, target in zip(*columns, strict=True)}


def compare_evaluations(first: Evaluation, second: Evaluation, *, console: Console, seed: int = 0) -> None:
    """Print the second model less the first, on the items that both were asked."""
    one, two = _on_common_items(first, second)
    pair = {"base": one, "tuned": two}
    rows, items = ({model: getattr(of, part) for model, of in pair.items()} for part in ("rows", "items"))
    found = compare(rows, items, seed=seed)
    console.print(f"A: {first.location}\nB: {second.location}", markup=False, highlight=False)
    for name in CONDITIONS:
        if one.values(name) != two.values(name):
            said = f"warning: {name} is {_some(one.values(name))} in A and {_some(two.values(name))} in B"
            console.print(said, style="yellow", markup=False, highlight=False)
    counts = [of.size() for of in (one, first, second)]
    more = f"; of A's {counts[1]:,} and B's {counts[2]:,}, those that both have" if len(set(counts)) > 1 else ""
    tasks = len({(line.lang, line.label) for line in found.cells})
    console.print(f"{counts[0]:,} items of {tasks} tasks in {len(found.by_language)} languages{more}", highlight=False)
    # Beyond a narrow terminal's edge rather than a number in three pieces.
    console.width = max(console.width, WIDTH)
    for table in _tables(found):
        console.print(table)
    console.print(
        "Difference: B less A with its paired 95% interval. p: permutation test, corrected (Holm) over the lines of a "
        "table with the same metric, the average of all excepted. Detectable: the true difference that at least four "
        "of five such evaluations would call clear, at that correction.",
        highlight=False,
    )
    if found.less_is_better:
        console.print(f"Of {', '.join(found.less_is_better)} less is better.", highlight=False)
    if found.partial:
        console.print(
            f"In {found.partial:,} results some items have a value in one model only; values, test and number of items "
            "are of those that have one in both.",
            highlight=False,
        )


def _on_common_items(first: Evaluation, second: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both with only the items that the other has too. `EvaluationError` where there are none."""
    kept: dict[Key, tuple[ItemValues, ItemValues]] = {}
    splits = [{_key(row): row["split"] for row in of.rows} for of in (first, second)]
    for key in first.items.keys() & second.items.keys():
        if splits[0].get(key) != splits[1].get(key):
            continue
        one, two = first.items[key], second.items[key]
        common, at_one, at_two = np.intersect1d(one.numbers, two.numbers, return_indices=True)
        if len(common):
            kept[key] = (_part(one, at_one), _part(two, at_two))
    if not kept:
        raise EvaluationError(
            f"{first.location} and {second.location} have no evaluated item in common: {_what_differs(first, second)}"
        )
    for (lang, task, item), target in first.targets.items():
        if second.targets.get((lang, task, item), target) != target:
            raise EvaluationError(
                f"item {item} of task {task} has another right answer in {second.location} than in {first.location}: "
                "the data of the tasks have changed; evaluate both models on the same files"
            )
    pair = []
    for evaluation, items in zip((first, second), ({k: v[i] for k, v in kept.items()} for i in range(2)), strict=True):
        rows = [row for row in (_row(row, evaluation, items) for row in evaluation.rows) if row is not None]
        pair.append(replace(evaluation, rows=rows, items=items))
    both = _keys(pair[0].rows) & _keys(pair[1].rows)
    if not both:
        raise EvaluationError(
            f"{first.location} and {second.location} have only items in common whose metrics are of a whole corpus "
            f"({', '.join(sorted({metric for _, _, metric in kept}))}) and cannot be had of a part of it; "
            "evaluate both with the same evaluation.limit and heldout_samples"
        )
    found = [replace(of, rows=[row for row in of.rows if _keys([row]) <= both]) for of in pair]
    return found[0], found[1]


def _keys(rows: list[dict[str, Any]]) -> set[Key]:
    return {_key(row) for row in rows}


def _key(row: dict[str, Any]) -> Key:
    return row["lang"], row["task"], row["metric"]


def _part(of: ItemValues, at: NDArray[np.int64]) -> ItemValues:
    return ItemValues(of.numbers[at], of.values[at], [of.groups[i] for i in at])


def _row(row: dict[str, Any], evaluation: Evaluation, items: Mapping[Key, ItemValues]) -> dict[str, Any] | None:
    """The row of the results on the kept items; None where it cannot be had without those that were left out."""
    key = _key(row)
    if key not in items:
        return None
    if len(items[key].values) == len(evaluation.items[key].values):
        return row
    if row["task"].startswith(PREFIX) and row["metric"] == METRIC:
        # What an item adds to a ratio depends on all others.
        return None
    values = items[key].values[np.isfinite(items[key].values)]
    if not len(values) or not evaluation.items[key].averages_to(row["value"]):
        return None
    low, high = mean_interval(values, seed=row["seed"], share=is_share(row["metric"]))
    return {**row, "value": float(values.mean()), "ci_low": low, "ci_high": high, "n": len(values)}


def _what_differs(first: Evaluation, second: Evaluation) -> str:
    found = []
    for name in ("task", "metric", *CONDITIONS):
        one, two = first.values(name), second.values(name)
        if one != two:
            found.append(f"{name} is {_some(one)} in the first and {_some(two)} in the second")
    if first.limit != second.limit:
        found.append(f"evaluation.limit is {first.limit} in the first and {second.limit} in the second")
    return "; ".join(found) or "their items have other numbers"


def _some(values: list[str]) -> str:
    if not values:
        return "not given"
    return ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")


def _tables(found: Comparison) -> list[Table]:
    overall = [("all" + (", by items" if line.by_items else ""), line) for line in found.overall]
    families = [(line.label + (", by items" if line.by_items else ""), line) for line in found.by_family]
    languages = [(line.lang, line) for line in found.by_language]
    several = len({line.label for line in found.by_family}) > 1
    parts = [("averages", overall), ("family", families if several else []), ("language", languages)]
    return [_table(title, lines, found.shares) for title, lines in parts if lines]


def _table(title: str, lines: list[tuple[str, Compared]], shares: set[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    table.add_column("metric")
    for heading in ("A", "B", "difference", "p", "detectable", "items"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, line in lines:
        factor, digits = (100, 1) if line.metric in shares else (1, metric_digits(line.metric))

        def write(value: float | None, sign: bool = False, factor: int = factor, digits: int = digits) -> str:
            return decimal(None if value is None else factor * value, digits, sign=sign)

        values = (write(shown.value if shown else None) for shown in (line.base, line.tuned))
        shown = line.difference or Interval(float("nan"))
        ends = f" [{write(shown.low, True)}, {write(shown.high, True)}]" if shown.low is not None else ""
        table.add_row(
            escape(name),
            escape(line.metric + (" %" if factor == 100 else "")),
            *values,
            escape(write(shown.value, True) + ends),
            probability(line.p),
            write(line.detectable),
            integer(line.n),
            line.verdict,
        )
    return table
