"""`raysel sweep`: runs the trials, ranks them, scores the winners on test items and writes down what came out."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from raysel.errors import IncompleteError
from raysel.evaluation.heldout import METRIC, PREFIX, is_asked_by
from raysel.evaluation.tasks import load_tasks
from raysel.execution import local_scratch, run_folder
from raysel.experiment import Experiment, checked
from raysel.interruption import raise_if_interrupted, remembered_interrupts
from raysel.output import quiet_process
from raysel.pipeline import expand
from raysel.report.gather_stage import read_items
from raysel.report.result_lines import MetricLines
from raysel.runner import run_on
from raysel.store import Artifact, Store
from raysel.sweep.against_next import with_contrasts
from raysel.sweep.live import LiveTrials
from raysel.sweep.page import sweep_page
from raysel.sweep.ranking import winners
from raysel.sweep.records import Ranked, Sweep, TestScore, TrialRecord
from raysel.sweep.settings import Objective, SpaceError
from raysel.sweep.sweep_progress import SweepProgress
from raysel.sweep.table import ranking_table
from raysel.sweep.trials import Search, read_search, shown

TABLE_WIDTH = 120


def run_sweep(experiment_file: Path, space_file: Path, overrides: Sequence[str] = ()) -> int:
    """Run a sweep, or what is left of it. Returns the exit code, 0. `IncompleteError` where no trial finished."""
    search = read_search(experiment_file, space_file, overrides)
    store = Store(search.experiment.storage)
    store.refuse_unwritable()
    refuse_points_that_cannot_run(search, store)
    log = local_scratch(store, search.name) / "log.txt"
    with quiet_process(log) as console:
        _tell_what_is_searched(search, store, console)
        console.print(f"output of Ray, DeepSpeed and their workers: {log}", style="dim", highlight=False)
        with remembered_interrupts():
            sweep = _run_trials(search, store, console)
        _write(store, search, sweep)
        _tell_ranking(search, store, sweep, console)
    return 0


def refuse_points_that_cannot_run(search: Search, store: Store) -> None:
    """What can be checked of every known point before anything runs: files, tasks, their development items, what an
    objective names of them, and what the winner is to be scored on."""
    for point in search.known_points():
        experiment = search.trial(point, search.seeds[0], name="trial")
        expand(experiment, store, search.until)
        refuse_what_is_not_evaluated(search, experiment)
        if scores_winners(search.experiment):
            best = search.trial_data(point, search.seeds[0], name="best", of_trial=False)
            expand(checked(best, where=shown(point)), store, "results")


def refuse_what_is_not_evaluated(search: Search, experiment: Experiment) -> None:
    """`SpaceError` where an objective names tasks, languages or a metric that no task of the experiment has."""
    for objective in search.space.objective:
        if objective.of != "results":
            continue
        if asks_heldout(objective, experiment):
            continue
        if experiment.evaluation.tasks is None:
            raise SpaceError(
                f"{search.space_file}: objective {objective.label}: the experiment evaluates only the tasks "
                f"{PREFIX}<lang>, by {METRIC}"
            )
        tasks = load_tasks(experiment.evaluation)
        chosen = [task for task in tasks if any(fnmatchcase(task.name, glob) for glob in objective.tasks)]
        chosen = [task for task in chosen if task.lang in (objective.languages or [task.lang])]
        metrics = {entry["metric"] for task in chosen for entry in task.config.get("metric_list") or []}
        unnamed = any(not task.config.get("metric_list") for task in chosen)
        named = objective.metric.partition(",")[0] if objective.metric is not None else ""
        if not chosen or not (unnamed or named in metrics):
            raise SpaceError(
                f"{search.space_file}: objective {objective.label}: the experiment evaluates tasks "
                f"{_some(task.name for task in tasks)} in {_some(task.lang for task in tasks)}, by "
                f"{_some(entry['metric'] for task in tasks for entry in task.config.get('metric_list') or [])}"
            )


def asks_heldout(objective: Objective, experiment: Experiment) -> bool:
    """Whether it is of held-out samples, whose languages only the corpus knows."""
    named = experiment.evaluation.heldout_samples > 0 and objective.metric == METRIC
    return named and any(is_asked_by(glob) for glob in objective.tasks)


def _some(names: Iterable[str]) -> str:
    found = sorted(set(names))
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "no metric that is named"


def scores_winners(experiment: Experiment) -> bool:
    """Whether the experiment itself scores a tuned model on test items."""
    evaluation = experiment.evaluation
    return evaluation.tasks is not None and evaluation.split == "test" and "tuned" in evaluation.models


def _run_trials(search: Search, store: Store, console: Console) -> Sweep:
    from raysel.cluster import Cluster
    from raysel.sweep.tuning import tune_trials

    with Cluster(search.experiment.cluster.address, search.experiment.cluster.num_cpus) as cluster:
        concurrency = concurrency_of(search, cluster, console)
        devices = cluster.gpus() or cluster.cpus()
        progress = SweepProgress(search, store, concurrency=concurrency, devices=devices)
        with LiveTrials(console) as live:
            tune_trials(progress, live.show, lambda record: _ended(progress, record, live))
        raise_if_interrupted()
        records = [progress.ended[number] for number in sorted(progress.ended)]
        if progress.kept:
            console.print(f"{len(progress.kept)} trials had ended before and are kept", style="dim", highlight=False)
        ranking = progress.ranking()
        if not ranking:
            lost = [of for of in records if of.status != "finished"]
            reasons = [f"  trial {of.number} ({shown(of.parameters)}): {of.reason}" for of in lost[:5]]
            reasons += [f"  others were not started: {progress.unstarted}"] if progress.unstarted else []
            listed = "\n".join(reasons)
            raise IncompleteError(f"no point of the sweep finished with every seed; what did not:\n{listed}")
        objective, trials = search.space.objective[0], {record.number: record for record in records}
        seed = search.space.seed
        ranking = cluster.run_task(with_contrasts, store, objective, ranking, trials, seed)
        sweep = Sweep(
            name=search.name,
            experiment=str(search.experiment_file),
            space=search.space.model_dump(mode="json", by_alias=True, exclude_unset=True),
            objectives=[(objective.label, objective.is_maximized) for objective in search.space.objective],
            trials=records,
            ranking=ranking,
            tests=[],
            device_hours=round(progress.device_hours(), 4),
            devices=f"{devices} {'GPU' if cluster.gpus() else 'CPU'}",
            unstarted=progress.unstarted,
        )
        # What the search found stays, whatever the scoring of the winners comes to.
        _write(store, search, sweep)
        tests = _score_winners(search, store, winners(ranking), trials, cluster, console)
        return replace(sweep, tests=tests)


def _ended(progress: SweepProgress, record: TrialRecord, live: LiveTrials) -> None:
    if progress.search.space.tensorboard:
        from raysel.sweep.tensorboard import write_events

        labels = [objective.label for objective in progress.search.space.objective]
        write_events(local_scratch(progress.store, progress.search.name) / "tensorboard", record, labels)
    live.ended(record, progress)


def concurrency_of(search: Search, cluster: Any, console: Console) -> int:
    """How many trials run at once. `UserError` where the training workers of one find no room, with the arithmetic."""
    settings = [search.trial(point, search.seeds[0], name="trial").training for point in search.known_points()]
    gpus, cpus = cluster.gpus(), cluster.cpus()
    room = []
    asks = {(training.workers or gpus or min(2, cpus), training.cpus_per_worker) for training in settings}
    for workers, own_cpus in asks:
        share = own_cpus or (1 if gpus else cluster.cpus_each(workers))
        each = {"num_cpus": share, "num_gpus": 1 if gpus else 0}
        cluster.refuse_unless_placeable("training.workers", workers, **each)
        room.append(cluster.places(**each) // workers)
    asked = search.space.limits.concurrency
    if asked is not None and asked > min(room):
        console.print(
            f"warning: limits.concurrency {asked}: {min(room)} at a time can train on this cluster; the others work at "
            "other stages or wait",
            style="yellow",
            highlight=False,
        )
    return asked or max(1, min(room))


def _score_winners(
    search: Search,
    store: Store,
    best: Sequence[Ranked],
    trials: dict[int, TrialRecord],
    cluster: Any,
    console: Console,
) -> list[TestScore]:
    """Run the winners on what the experiment itself is scored on: test items, which no trial has seen."""
    if not scores_winners(search.experiment):
        why = "the experiment scores no tuned model on test items (evaluation.tasks, split, models)"
        console.print(f"no test scores: {why}", style="dim", highlight=False)
        return []
    found: list[TestScore] = []
    for line in best:
        for place, number in enumerate(line.trials):
            name = winner_name(search, line, best) + (f"-seed{trials[number].seed}" if place else "")
            console.print(f"scoring on test items: {name} ({shown(line.parameters)})", highlight=False, markup=False)
            data = search.trial_data(line.parameters, trials[number].seed, name=name, of_trial=False)
            artifacts = run_on(cluster, checked(data, where=name), store, console, until="results")
            found += [_test_score(line, trials[number].seed, *of) for of in _averages(search, artifacts)]
    return found


def winner_name(search: Search, line: Ranked, best: Sequence[Ranked]) -> str:
    return f"{search.name}-best" if line is best[0] else f"{search.name}-front-{line.point}"


def _averages(search: Search, artifacts: dict[str, Artifact]) -> list[tuple[str, Any]]:
    """(metric, its average over languages) of the metrics that the objectives name, or of all where no test item has
    one of them."""
    models = {model: artifacts[f"results_{model}"] for model in ("base", "tuned") if f"results_{model}" in artifacts}
    rows: dict[str, dict[Any, Any]] = {}
    for model, artifact in models.items():
        for row in artifact.read("results").to_pylist():
            if row["split"] != "test":
                continue
            rows.setdefault(row["metric"], {}).setdefault((row["lang"], row["task"], row["metric"]), {})[model] = row
    items = {model: read_items(artifact) for model, artifact in models.items()}
    named = {objective.metric for objective in search.space.objective if objective.metric is not None}
    chosen = [metric for metric in rows if {metric, metric.partition(",")[0]} & named] or list(rows)
    averages = [(metric, MetricLines(metric, rows[metric], items, seed=search.space.seed)) for metric in chosen]
    return [(metric, lines.overall()[0]) for metric, lines in averages if lines.overall()]


def _test_score(line: Ranked, seed: int, metric: str, average: Any) -> TestScore:
    return TestScore(line.point, seed, metric, average.tuned, average.base)


def _write(store: Store, search: Search, sweep: Sweep) -> None:
    """`best.yaml`, `report.html` and, last, `sweep.json` in the sweep's folder."""
    folder, best = run_folder(search.name), sweep.ranking[0]
    seed = next(trial.seed for trial in sweep.trials if trial.number == best.trials[0])
    data = search.trial_data(best.parameters, seed, name=f"{search.name}-best", of_trial=False)
    head = f"# The best point of the sweep {search.name}: {' '.join(shown(best.parameters).split())}\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    store.write_bytes(f"{folder}/best.yaml", (head + text).encode())
    store.write_bytes(f"{folder}/report.html", sweep_page(sweep).encode())
    store.write_json(f"{folder}/sweep.json", asdict(sweep))


def _tell_what_is_searched(search: Search, store: Store, console: Console) -> None:
    space, points = search.space, search.points()
    count = len(points) if points is not None else search.most_points
    seeds = f" x {len(search.seeds)} seeds" if len(search.seeds) > 1 else ""
    objectives = " and ".join(
        f"{'most' if objective.is_maximized else 'least'} {objective.label}" for objective in space.objective
    )
    console.print(
        f"raysel sweep {search.name}: {count} points{seeds} by {space.search} over {', '.join(space.parameters)}; "
        f"wanted: {objectives}; storage {store.shown('')}",
        markup=False,
        highlight=False,
    )
    idle = [f"setting without effect: {reason}" for reason in space.without_effect()]
    for warning in [*idle, *search.warnings()]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _tell_ranking(search: Search, store: Store, sweep: Sweep, console: Console) -> None:
    # Beyond a narrow terminal's edge rather than a heading in pieces.
    console.width = max(console.width, TABLE_WIDTH)
    console.print(ranking_table(sweep))
    for record in sweep.trials:
        if record.status == "failed":
            line = f"trial {record.number} failed ({shown(record.parameters)}): {record.reason}"
            console.print(line, style="yellow", markup=False, highlight=False)
    if sweep.unstarted:
        console.print(f"not all trials were started: {sweep.unstarted}", style="yellow", highlight=False)
    folder = run_folder(search.name)
    console.print(f"best: {store.shown(f'{folder}/best.yaml')}", highlight=False, markup=False)
    console.print(f"report: {store.shown(f'{folder}/report.html')}", highlight=False, markup=False)
