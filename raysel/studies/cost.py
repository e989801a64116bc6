"""`raysel plan EXPERIMENT --study NAME`: how many trials a study has, and how many GPU-hours they take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raysel.costs import gpu_hours, memory_lines, model_shape
from raysel.experiment import Experiment
from raysel.models.settings import ModelSettings
from raysel.settings import counted
from raysel.store import digest
from raysel.studies.made import SCHEME
from raysel.studies.plan import Plan, read_plan
from raysel.sweep.trials import value_at

# What decides a stage's work and result: equal in two trials, it is done once. The others are done in each trial.
SHARED = {
    "vectors": ("corpus", "model", "embedding"),
    "sums": ("corpus", "model", "embedding", "separability"),
    "warmup": ("corpus", "model", "selection.less", "seed"),
    "gradients": ("corpus", "model", "selection.less", "selection.candidates", "preselect", "seed"),
}


def study_hours(plan: Plan, rows: int, tokens_per_row: float) -> dict[str, tuple[int, float]]:
    """By stage, how often it runs in all trials and their GPU-hours together. rows, tokens_per_row: of the corpus."""
    done: set[str] = set()
    found: dict[str, tuple[int, float]] = {}
    for experiment in _trials(plan):
        for stage, hours in gpu_hours(experiment, rows, tokens_per_row).items():
            if stage in SHARED:
                key = digest([stage, *(_counted(experiment, section) for section in SHARED[stage])])
                if key in done:
                    continue
                done.add(key)
            runs, sofar = found.get(stage, (0, 0.0))
            found[stage] = (runs + 1, sofar + hours)
    return found


def _trials(plan: Plan) -> list[Experiment]:
    search = plan.search(plan.made.supposed())
    made = {path: name for name, path in plan.made.supposed().items()}
    trials = [
        search.trial(point, seed, name="trial") for point in search.points() or [] for seed in search.seeds
    ]  # fmt: skip
    return [_with_its_base(trial, plan, made.get(str(trial.model.path), "")) for trial in trials]


def _with_its_base(trial: Experiment, plan: Plan, made: str) -> Experiment:
    """A model that the study makes first has a shape before it is there."""
    if not made.startswith(f"{SCHEME}model/"):
        return trial
    base = plan.made.models[made.rpartition("/")[2]].base
    return trial.model_copy(update={"model": ModelSettings(base=base)})


def _counted(experiment: Experiment, key: str) -> Any:
    found = value_at(counted(experiment), key)
    # What is held out is the same in all trials, whether they say so or have the experiment's own seed.
    return {name: value for name, value in found.items() if name != "seed"} if key == "corpus" else found


def print_study_plan(
    name: str, file: Path, overrides: Sequence[str], console: Console, rows: int | None, tokens_per_row: float | None
) -> None:
    """Print it. `UserError` where the study cannot be asked of the experiment, or a trial does not fit."""
    plan = read_plan(name, overrides, file)
    trials = _trials(plan)
    seeds = len(plan.seeds)
    console.print(
        f"study {name}: {len(plan.conditions)} conditions x {seeds} seeds = {len(trials)} trials",
        markup=False,
        highlight=False,
    )
    first = trials[0]
    if first.cluster.gpus_per_node and plan.form.measure != "coverage":
        for line in memory_lines(first, model_shape(first.model)):
            console.print(line, markup=False, highlight=False)
    if rows is None or tokens_per_row is None:
        console.print("GPU-hours: not known without --rows and --tokens-per-row", markup=False, highlight=False)
        return
    hours = study_hours(plan, rows, tokens_per_row)
    console.print(f"{rows:,} rows of {tokens_per_row:g} tokens:", markup=False, highlight=False)
    table = Table("stage", box=None)
    for heading in ("runs", "GPU-hours"):
        table.add_column(heading, justify="right")
    for stage, (runs, of_stage) in hours.items():
        table.add_row(stage, str(runs), f"{of_stage:,.2f}")
    total = sum(of_stage for _, of_stage in hours.values())
    table.add_row("total", "", f"{total:,.2f}")
    console.print(table)
    gpus = first.cluster.nodes * first.cluster.gpus_per_node
    console.print(
        f"{total / gpus:,.1f} hours on {gpus} GPUs; evaluation is not in it" if gpus else "evaluation is not in it",
        markup=False,
        highlight=False,
    )
    unknown = [stage for stage in _unknown(plan, trials, hours) if stage not in hours]
    if unknown:
        console.print(f"not known: {', '.join(unknown)}", markup=False, highlight=False)


def _unknown(plan: Plan, trials: Sequence[Experiment], hours: dict[str, tuple[int, float]]) -> list[str]:
    """Stages that take GPUs and whose work is not known beforehand."""
    trained = plan.form.measure != "coverage"
    runs = hours.get("model", (0, 0.0))[0]
    return [f"model in {len(trials) - runs} trials"] if trained and runs < len(trials) else []
