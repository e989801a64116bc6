"""`raysel plan EXPERIMENT --study NAME`: how many trials a study has, and how many GPU-hours they take."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raysel.costs import gpu_hours, memory_lines, model_shape, refuse_warmup_that_does_not_fit, wall_hours
from raysel.experiment import Experiment
from raysel.models.settings import ModelSettings
from raysel.planning.operations import gpu_of
from raysel.settings import counted
from raysel.store import digest
from raysel.studies.made import SCHEME
from raysel.studies.plan import Plan, read_plan
from raysel.studies.results import COVERAGE
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
    for experiment, made in _trials(plan):
        for stage, hours in gpu_hours(experiment, rows, tokens_per_row).items():
            if stage == "model" and plan.form.measure == COVERAGE:
                continue
            if stage in SHARED:
                key = digest([stage, made, *(_counted(experiment, section) for section in SHARED[stage])])
                if key in done:
                    continue
                done.add(key)
            runs, sofar = found.get(stage, (0, 0.0))
            found[stage] = (runs + 1, sofar + hours)
    return found


def _trials(plan: Plan) -> list[tuple[Experiment, str]]:
    """Each trial, and the model that the study makes first for it, or ""."""
    search = plan.search(plan.made.supposed())
    made = {path: name for name, path in plan.made.supposed().items() if name.startswith(f"{SCHEME}model/")}
    trials = [search.trial(point, seed, name="trial") for point in search.points() or [] for seed in search.seeds]
    named = [(trial, made.get(str(trial.model.path), "")) for trial in trials]
    return [(_with_its_base(trial, plan, name) if name else trial, name) for trial, name in named]


def _with_its_base(trial: Experiment, plan: Plan, made: str) -> Experiment:
    """A model that is made first has a shape before it is there."""
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
    points, seeds = len(trials) // len(plan.seeds), len(plan.seeds)
    trained = plan.form.measure != COVERAGE
    said = [f"study {name}: {points} conditions x {seeds} seeds = {len(trials)} trials"]
    first = trials[0][0]
    cluster = first.cluster
    if trained:
        # A trial may be larger than the first; those that are equal are said once.
        own = {
            digest([counted(of.training), made, counted(of.model), sorted(of.selection.methods)]): of
            for of, made in trials
        }
        each = [tuple(_memory_lines(of)) for of in own.values() if cluster.gpus_per_node]
        said += [line for lines in dict.fromkeys(each) for line in lines]
    if not cluster.gpus_per_node:
        said.append("GPU-hours: none without GPUs (cluster.gpus_per_node is 0)")
    elif rows is None or tokens_per_row is None:
        said.append("GPU-hours: not known without --rows and --tokens-per-row")
    else:
        said += _hours_lines(plan, first, trials, rows, tokens_per_row)
    for line in said:
        console.print(line, markup=False, highlight=False)


def _memory_lines(trial: Experiment) -> list[str]:
    shape = model_shape(trial.model)
    refuse_warmup_that_does_not_fit(trial, shape, ("warmup", "gradients") if "less" in trial.selection.methods else ())
    return memory_lines(trial, shape)


def _hours_lines(
    plan: Plan, first: Experiment, trials: Sequence[tuple[Experiment, str]], rows: int, tokens_per_row: float
) -> Iterator[str]:
    cluster = first.cluster
    hours = study_hours(plan, rows, tokens_per_row)
    kind = gpu_of(cluster.gpu, cluster.gpu_memory_gb)
    taken = "" if cluster.gpu is not None else f" (taken for that by {cluster.gpu_memory_gb:g} GB: cluster.gpu)"
    yield f"GPU-hours on {kind}{taken}, {rows:,} rows of {tokens_per_row:g} tokens:"
    for stage, (runs, of_stage) in hours.items():
        yield f"  {stage:<10}{runs:>6} runs {of_stage:>12,.2f}"
    total = {stage: of_stage for stage, (_, of_stage) in hours.items()}
    yield f"  {'total':<10}{sum(total.values()):>24,.2f}  {wall_hours(first, total):,.1f} hours by the clock"
    unknown = ["results"] if plan.form.measure != COVERAGE else []
    unknown += ["base_model"] if any(made for _, made in trials) else []
    missing = len(trials) - hours.get("model", (0, 0.0))[0]
    unknown += [f"model in {missing} trials"] if missing and plan.form.measure != COVERAGE else []
    if unknown:
        yield f"  not known: {', '.join(unknown)}"
