"""`raysel study NAME [EXPERIMENT]`: makes what a study needs, runs its conditions as trials, says what came out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from raysel.errors import IncompleteError
from raysel.execution import local_scratch, run_folder
from raysel.experiment import checked
from raysel.interruption import raise_if_interrupted, remembered_interrupts
from raysel.output import quiet_process
from raysel.report.formats import decimal
from raysel.store import Artifact, Store
from raysel.studies.analysis import Findings, analyse
from raysel.studies.choices import measured_choices
from raysel.studies.levelling import of_lines
from raysel.studies.made import SCHEME, with_paths
from raysel.studies.page import study_page
from raysel.studies.plan import Plan, read_plan
from raysel.studies.results import COVERAGE, Condition, as_data
from raysel.studies.settings import StudyError, load_study, names
from raysel.studies.verdict import answer, control_words, difference_words, verdict_word
from raysel.sweep.objective import chosen_rows
from raysel.sweep.records import TrialRecord
from raysel.sweep.trials import Search, shown


def run_study(name: str, overrides: Sequence[str] = (), file: Path | None = None) -> int:
    """Run a study (its small form, or the full one over the experiment in `file`), or what is left of it; print the
    verdict. Returns the exit code, 0.

    `IncompleteError` where no condition came to an end.
    """
    plan = read_plan(name, overrides, file)
    store = plan.made.store
    store.refuse_unwritable()
    log = local_scratch(store, plan.run_name) / "log.txt"
    with quiet_process(log) as console:
        tell_question(plan, console)
        console.print(f"output of Ray, DeepSpeed and their workers: {log}", style="dim", highlight=False)
        with remembered_interrupts():
            conditions = _run(plan, store, console)
        _report(plan, store, conditions, overrides, console)
    return 0


def list_studies() -> None:
    """Print the studies there are and what they ask."""
    console = Console()
    table = Table("study", "asks", box=None)
    for name in names():
        table.add_row(name, load_study(name).question)
    console.print(table)


def _run(plan: Plan, store: Store, console: Console) -> list[Condition]:
    from raysel.cluster import Cluster
    from raysel.sweep.command import (
        concurrency_of,
        refuse_points_that_cannot_run,
        refuse_what_is_not_evaluated,
    )
    from raysel.sweep.live import LiveTrials
    from raysel.sweep.sweep_progress import SweepProgress
    from raysel.sweep.tuning import tune_trials

    with ExitStack() as open_until_done:
        settings = checked(with_paths(plan.data, plan.made.supposed()), where=plan.run_name).cluster
        cluster = open_until_done.enter_context(Cluster(settings.address, settings.num_cpus))
        if plan.form.measure != COVERAGE:
            supposed = plan.search(plan.made.supposed())
            # What is evaluated is known before anything is made.
            refuse_what_is_not_evaluated(
                supposed, supposed.trial(supposed.space.points[0], plan.seeds[0], name="trial")
            )
        _refuse_another_corpus(plan, plan.made.own_corpus(cluster, console))
        plan.made.make(sorted(plan.wanted()), cluster, console)
        search = plan.search(plan.made.paths)
        if plan.form.measure == COVERAGE:
            return measured_choices(search, plan.conditions, store, cluster, console)
        refuse_points_that_cannot_run(search, store)
        concurrency = concurrency_of(search, cluster, console)
        progress = SweepProgress(search, store, concurrency=concurrency, devices=cluster.gpus() or cluster.cpus())
        live = open_until_done.enter_context(LiveTrials(console))
        tune_trials(progress, live.show, lambda record: live.ended(record, progress))
        raise_if_interrupted()
        found: list[Condition] = cluster.run_task(
            _gather, store, plan.conditions, search, list(progress.ended.values())
        )
        return found


def _refuse_another_corpus(plan: Plan, corpus: Artifact) -> None:
    """`StudyError` where the study asks of languages that the corpus does not have."""
    there = set(corpus.summary["languages"])
    compared, form = plan.compared, plan.form
    needed = {*compared.languages, *plan.data.get("languages", {}).get("chosen", [])}
    for of in plan.conditions:
        needed.update(of.parameters.get("languages.chosen", []))
    for name in {key.removeprefix(f"{SCHEME}corpus/") for key in plan.wanted()} & form.corpora.keys():
        needed.update(form.corpora[name].languages)
    empty = [name for name, langs in compared.groups.items() if not there & set(langs)]
    if missing := sorted(needed - there):
        raise StudyError(
            f"study {plan.name} asks of {', '.join(missing)}, which the corpus does not have; it has "
            f"{', '.join(sorted(there))}. Take another study, or a sweep over an experiment of your own"
        )
    if empty:
        raise StudyError(
            f"study {plan.name} compares the languages '{empty[0]}' ({', '.join(compared.groups[empty[0]])}), and the "
            f"corpus has none of them; it has {', '.join(sorted(there))}"
        )


def _gather(
    store: Store, conditions: Sequence[Condition], search: Search, records: Sequence[TrialRecord]
) -> list[Condition]:
    """Ray task: the trials' results by condition."""
    of_point: dict[str, list[TrialRecord]] = {}
    for record in records:
        of_point.setdefault(json.dumps(record.parameters, sort_keys=True), []).append(record)
    found = []
    for condition, tried in zip(conditions, search.space.points, strict=True):
        values: dict[int, dict[str, float]] = {}
        addresses: dict[int, str] = {}
        missing: dict[int, str] = {}
        for record in of_point.get(json.dumps(tried, sort_keys=True), []):
            if record.status != "finished":
                missing[record.seed] = record.reason
                continue
            address = next(address for address in record.artifacts if address.startswith("results/"))
            artifact = store.artifact(*address.split("/"))
            if artifact is None:
                raise FileNotFoundError(f"{store.shown(address)}, the results of trial {record.number}, is gone")
            [objective] = search.space.objective
            values[record.seed] = _by_language(chosen_rows(objective, artifact.read("results").to_pylist()).values())
            addresses[record.seed] = address
        found.append(replace(condition, values=values, addresses=addresses, missing=missing))
    return found


def _by_language(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over the tasks of each language."""
    tasks: dict[str, list[float]] = {}
    for row in rows:
        tasks.setdefault(row["lang"], []).append(float(row["value"]))
    return {lang: fmean(values) for lang, values in tasks.items()}


def tell_question(plan: Plan, console: Console) -> None:
    study = plan.study
    console.print(f"{study.title}: {study.question}", highlight=False, markup=False)
    console.print(
        f"{len(plan.conditions)} conditions x {len(plan.seeds)} seeds "
        f"{'on the small form' if plan.file is None else f'over {plan.file}'}; {study.source}",
        highlight=False,
        markup=False,
    )
    for warning in plan.search(plan.made.supposed()).warnings():
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _report(
    plan: Plan, store: Store, conditions: Sequence[Condition], overrides: Sequence[str], console: Console
) -> None:
    folder = run_folder(plan.run_name)
    store.write_json(f"{folder}/study.json", as_data(conditions))
    if not any(of.is_whole for of in conditions if of.control is None):
        reasons = [f"  {of.name or shown(of.parameters)}: {why}" for of in conditions for why in of.missing.values()]
        listed = "\n".join(dict.fromkeys(reasons[:5]))
        raise IncompleteError(f"no condition of the study came to an end with every seed; what did not:\n{listed}")
    findings = analyse(conditions, plan.compared, plan.controls, plan.form.measure)
    page = study_page(plan, findings, conditions, overrides)
    store.write_bytes(f"{folder}/report.html", page.encode())
    console.print(conditions_table(findings))
    for of in findings.missing:
        why = "; ".join(dict.fromkeys(of.missing.values())) or "was not run"
        console.print(
            f"missing: {of.name or shown(of.parameters)}: {why}", style="yellow", markup=False, highlight=False
        )
    levelled = of_lines(findings.lines) if plan.compared.saturation else []
    found = answer(findings, levelled)
    console.print(found.sentence, style="bold", highlight=False, markup=False)
    for told in found.lines:
        console.print(f"  {told.head}: {told.text}", highlight=False, markup=False)
    for outcome in findings.outcomes:
        console.print(f"  {control_words(outcome, findings.unit)}", highlight=False, markup=False)
    console.print(f"it cannot show {plan.form.cannot_show}", highlight=False, markup=False)
    console.print(f"report: {store.shown(f'{folder}/report.html')}", highlight=False, markup=False)


def conditions_table(findings: Findings) -> Table:
    table = Table("condition", box=None)
    for heading in (findings.unit, f"difference from {findings.reference or 'nothing'}", "verdict"):
        table.add_column(heading, justify="right")
    for line in findings.lines:
        mean = f"{decimal(line.mean.value)} [{decimal(line.mean.low)}, {decimal(line.mean.high)}]"
        against = difference_words(line.against, findings.unit) if line.against is not None else ""
        table.add_row(line.label, mean, against, verdict_word(line, findings))
    return table
