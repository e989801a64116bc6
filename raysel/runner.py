"""Runs an experiment: says what will run and why, runs it step by step, keeps the run's record."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from raysel import costs, disk
from raysel.decisions import Decision, decide
from raysel.embedding.placement import placement
from raysel.errors import UserError
from raysel.execution import execute, local_scratch, run_folder
from raysel.experiment import Experiment
from raysel.interruption import raise_if_interrupted, remembered_interrupts
from raysel.models.shape import Shape, known_shape
from raysel.models.size import ModelSize, model_size
from raysel.output import quiet_process
from raysel.pipeline import expand, published_part
from raysel.progress import Progress
from raysel.steps import Step
from raysel.store import Artifact, Store


def run_experiment(experiment: Experiment, *, until: str | None = None, only_published: bool = False) -> int:
    """Run what does not exist yet, up to the stage `until`; print what was done. Returns the exit code, 0.

    With `only_published` nothing but the report is run, over what is published already.
    """
    store = Store(experiment.storage)
    store.refuse_unwritable()
    steps = expand(experiment, store, until)
    if only_published:
        steps = published_part(steps, store)
    decisions = decide(steps, store, previous_steps(store, experiment.name))
    log = local_scratch(store, experiment.name) / "log.txt"
    _check_disk(experiment, store, decisions)
    with quiet_process(log) as console:
        console.print(f"raysel {experiment.name}: {len(steps)} steps, storage {store.shown('')}", highlight=False)
        _tell_preset(experiment, steps[0], console)
        # A run's record names every setting, given or not; what had no effect was said when it ran.
        for warning in [] if only_published else experiment.warnings():
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
        write_record(store, experiment, steps, status="unfinished", until=until)
        to_run = [decision for decision in decisions if decision.artifact is None]
        if to_run:
            from raysel.cluster import Cluster

            console.print(f"output of Ray, DeepSpeed and their workers: {log}", style="dim", highlight=False)
            with remembered_interrupts(), Cluster(experiment.cluster.address, experiment.cluster.num_cpus) as cluster:
                artifacts = execute_all(experiment, store, decisions, console, cluster)
        else:
            artifacts = {decision.step.name: decision.artifact for decision in decisions if decision.artifact}
            console.print(f"everything is reused: all {len(steps)} steps were published before", highlight=False)
        write_record(store, experiment, steps, status="finished", until=until)
        _finish(store, experiment, artifacts, console)
    return 0


def run_on(
    cluster: Any, experiment: Experiment, store: Store, console: Console, *, until: str, folder: str | None = None
) -> dict[str, Artifact]:
    """Run an experiment up to the stage `until` on a cluster that is there: a part of something larger. folder: of its
    record, where it is not the run's own."""
    steps = expand(experiment, store, until)
    decisions = decide(steps, store, previous_steps(store, experiment.name, folder))
    write_record(store, experiment, steps, status="unfinished", until=until, folder=folder)
    artifacts = execute_all(experiment, store, decisions, console, cluster)
    write_record(store, experiment, steps, status="finished", until=until, folder=folder)
    return artifacts


def execute_all(
    experiment: Experiment,
    store: Store,
    decisions: list[Decision],
    console: Console,
    cluster: Any,
    progress_of: Callable[[Console, str], Progress] = Progress,
) -> dict[str, Artifact]:
    """Run the steps that are not published, one after another; the artifacts of all, by the steps' names."""
    artifacts: dict[str, Artifact] = {}
    folder = store.shown(run_folder(experiment.name))
    reused = [decision.step.name for decision in decisions if decision.artifact is not None]
    for number, decision in enumerate(decisions, start=1):
        step = decision.step
        head = f"[{number}/{len(decisions)}] {step.name}"
        if decision.artifact is not None:
            console.print(f"{head}: reused", style="dim", markup=False, highlight=False)
            artifacts[step.name] = decision.artifact
        elif decision.same_as is not None:
            console.print(f"{head}: {decision.reason}", style="dim", markup=False, highlight=False)
            artifacts[step.name] = artifacts[decision.same_as]
        else:
            console.print(f"{head}: {decision.reason}", markup=False, highlight=False)
            progress = progress_of(console, step.name)
            if step.stage == "report":
                step = replace(step, execution={**step.execution, "reused": reused, "folder": folder})
            artifacts[step.name] = execute(
                step, store, decision.reason, artifacts=artifacts, cluster=cluster, progress=progress
            )
            _tell(artifacts[step.name], console)
        raise_if_interrupted()
        if step.stage in ("corpus", "quota"):
            _preflight(experiment, store, decisions, artifacts)
    return artifacts


def _preflight(
    experiment: Experiment, store: Store, decisions: list[Decision], artifacts: Mapping[str, Artifact]
) -> None:
    """What can only be checked once the corpus is read, but must be before hours are spent on it."""
    _check_disk(experiment, store, decisions, artifacts)
    if "quota" in artifacts:
        from raysel.separability.pool_stage import preflight

        for decision in decisions:
            if decision.step.stage == "pool":
                settings = decision.step.settings
                each_language = settings.get("fills") != "total"
                preflight(settings["preselect"], artifacts["quota"], each_language=each_language)


def _tell_preset(experiment: Experiment, step: Step, console: Console) -> None:
    """Which columns are read, where nobody said so. step: the corpus's, the first of all."""
    preset = step.settings["corpus"]["layout"]["preset"] if step.stage == "corpus" else None
    if preset is not None and experiment.corpus.preset is None:
        line = f"corpus: the first row has the columns of {preset}, and is read as such (corpus.preset, corpus.columns)"
        console.print(line, markup=False, highlight=False)


def _tell(artifact: Artifact, console: Console) -> None:
    rows = ", ".join(f"{count:,} rows of {table}" for table, count in artifact.manifest["rows"].items() if count)
    done = f"  done in {artifact.manifest['wall_seconds']:.1f} s{': ' + rows if rows else ''}"
    console.print(done, style="green", highlight=False)
    for warning in artifact.summary.get("warnings", []):
        console.print(f"  warning: {warning}", style="yellow", markup=False, highlight=False)


def _check_disk(
    experiment: Experiment, store: Store, decisions: list[Decision], artifacts: Mapping[str, Artifact] | None = None
) -> None:
    todo = {d.step.stage for d in decisions if d.artifact is None and d.step.name not in (artifacts or {})}
    if todo:
        needed = disk_needs(experiment, decisions, artifacts or {})
        needed = {stage: size for stage, size in needed.items() if stage in todo}
        disk.refuse_too_little(needed, store.free_bytes(), store.shown(""))


def disk_needs(experiment: Experiment, decisions: list[Decision], artifacts: Mapping[str, Artifact]) -> dict[str, int]:
    """Bytes each stage will write at most, from what is known so far."""
    from raysel.store import open_filesystem

    corpus_step = decisions[0].step
    known = artifacts.get("corpus") or decisions[0].artifact
    from raysel.corpus.stage import leaf_files

    sizes = 0
    for file in leaf_files(experiment.corpus) if corpus_step.stage == "corpus" else []:
        filesystem, path = open_filesystem(file)
        sizes += filesystem.get_file_info(path).size * (4 if path.endswith((".gz", ".parquet")) else 1)
    width, weights = _model_size(experiment, decisions)
    return disk.artifact_bytes(
        corpus_bytes=sizes,
        rows=known.rows("corpus") if known else None,
        width=width,
        sums=known.summary["clusters"] * (2 if len({task for _, task, _ in known.summary["cells"]}) > 1 else 1)
        if known
        else 100,
        block_rows=experiment.separability.block_rows or 8_192,
        model_bytes=weights,
        full=experiment.training.method == "full",
        merged=experiment.training.lora.merge,
        # The one that is being written, and the best.
        checkpoints=experiment.training.checkpoints_kept + 2,
        gradients=_gradient_numbers(experiment),
    )


def _gradient_numbers(experiment: Experiment) -> int:
    """What LESS keeps of a row of the corpus, on average: of the pool's rows only, unless all are looked at."""
    less, pool = experiment.selection.less, experiment.preselect.rho or 1.0
    every_row = experiment.selection.candidates == "corpus" or "less" in experiment.selection.compare
    return round(less.warmup.epochs * less.dimensions * (1.0 if every_row else pool))


def _embedding_size(experiment: Experiment, decisions: list[Decision]) -> ModelSize | None:
    """Of the model that gives the vectors; None where no step needs one."""
    leaves = [d.step.leaves["model"] for d in decisions if d.step.stage == "vectors" and "model" in d.step.leaves]
    if leaves:
        folder, shape = Path(leaves[0].path), known_shape(leaves[0].path)
        if shape is None or folder.is_dir():
            return model_size(folder)
        return ModelSize(shape.parameters - shape.head, shape.width, shape.inner, shape.blocks)
    base = experiment.model.base
    if base is None:
        return None
    inner = 8 * base.width // 3
    parameters = base.vocabulary * base.width + base.layers * (4 * base.width**2 + 3 * base.width * inner)
    return ModelSize(parameters, base.width, inner, base.layers)


def _training_shape(experiment: Experiment, decisions: list[Decision]) -> Shape | None:
    """Of the model that is trained: by the folder that it was found in, else by what the experiment says."""
    leaves = [d.step.leaves["model"] for d in decisions if d.step.stage == "model" and "model" in d.step.leaves]
    found = experiment.model.model_copy(update={"path": leaves[0].path}) if leaves else experiment.model
    return costs.model_shape(found)


def _model_size(experiment: Experiment, decisions: list[Decision]) -> tuple[int, int]:
    """Hidden units of the embedding model and bytes of the tuned model's weights."""
    size = _embedding_size(experiment, decisions)
    leaves = [d.step.leaves["model"] for d in decisions if d.step.stage == "model" and "model" in d.step.leaves]
    if leaves:
        weights = sum(file.stat().st_size for file in Path(leaves[0].path).glob("*.safetensors"))
        if not weights and (shape := known_shape(leaves[0].path)) is not None:
            weights = 2 * shape.parameters
    else:
        weights = size.parameters * 4 if size else 0
    return size.width if size else 0, weights


def previous_steps(store: Store, name: str, folder: str | None = None) -> dict[str, Any]:
    """The steps of the last run of this name, as `Step.record` gave them, with their fingerprints."""
    record = store.read_json(f"{folder or run_folder(name)}/run.json")
    return dict(record["steps"]) if record else {}


def write_record(
    store: Store,
    experiment: Experiment,
    steps: list[Step],
    *,
    status: str,
    until: str | None,
    folder: str | None = None,
) -> None:
    """`run.json` in the run's folder (`runs/<name>`): what it is made of. `raysel gc` keeps what such records name."""
    folder = folder or run_folder(experiment.name)
    before = store.read_json(f"{folder}/run.json") or {"steps": {}}
    now = {step.name: {**step.record(), "fingerprint": step.fingerprint} for step in steps}
    record = {
        "name": experiment.name,
        "status": status,
        "until": until,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        # A run that goes only part of the way keeps naming what the last whole one made.
        "steps": {**before["steps"], **now},
        "experiment": experiment.model_dump(mode="json"),
    }
    store.write_json(f"{folder}/run.json", record)
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    store.write_bytes(f"{folder}/experiment.yaml", text.encode())


def _finish(store: Store, experiment: Experiment, artifacts: Mapping[str, Artifact], console: Console) -> None:
    if "scores" in artifacts:
        summary = artifacts["scores"].summary
        console.print(
            f"mean separability {summary['mean']:+.4f} over {len(summary['languages'])} languages: "
            f"{store.shown(artifacts['scores'].address)}",
            highlight=False,
        )
    for name in ("results_base", "results_tuned"):
        if name in artifacts:
            averages = ", ".join(f"{k} {v:.3f}" for k, v in artifacts[name].summary["macro"].items())
            console.print(f"{name.removeprefix('results_')} model, average over languages: {averages}", highlight=False)
    if "report" in artifacts:
        publish_report(store, experiment.name, artifacts["report"])
        path = f"{run_folder(experiment.name)}/report.html"
        console.print(f"report: {store.shown(path)}", highlight=False)
    elif artifacts:
        last = list(artifacts.values())[-1]
        console.print(f"{last.stage}: {store.shown(last.address)}", highlight=False)


def publish_report(store: Store, name: str, report: Artifact) -> None:
    """Copy the report artifact to the run's folder, where a person looks for it."""
    shard = report.shards("report")[0]
    store.write_bytes(f"{run_folder(name)}/report.html", store.read_bytes(f"{report.address}/{shard.path}"))


def report_run(run_dir: str) -> None:
    """Make the report of the run in `run_dir` (`<storage>/runs/<name>`) anew, from what is published of it."""
    if "://" not in run_dir:
        run_dir = str(Path(run_dir).expanduser().resolve())
    storage, _, name = run_dir.rstrip("/").rpartition("/runs/")
    store = Store(storage)
    record = store.read_json(f"{run_folder(name)}/run.json") if storage else None
    if record is None:
        raise UserError(f"{run_dir!r} is not the folder of a run: give <storage>/runs/<name>, which holds run.json")
    # The run may have been moved since, or made from another folder: it is where its record was found.
    experiment = Experiment.model_validate(record["experiment"]).model_copy(update={"storage": storage})
    leaves = {step.name: step.record()["leaves"] for step in expand(experiment, store)}
    changed = [step for step, old in record["steps"].items() if old["leaves"] != leaves.get(step, old["leaves"])]
    if changed:
        raise UserError(
            f"the files that the run {name} was made from have changed since ({', '.join(changed[:3])}): run it again"
        )
    run_experiment(experiment, until="report", only_published=True)


def print_plan(
    experiment: Experiment,
    console: Console,
    *,
    until: str | None = None,
    rows: int | None = None,
    tokens_per_row: float | None = None,
) -> None:
    """`raysel plan`: each step as reuse or run with the reason, the room and the time it takes. Raises where it cannot
    fit. rows, tokens_per_row: of the corpus, where it is not read yet."""
    from rich.table import Table

    store = Store(experiment.storage)
    store.refuse_unwritable()
    steps = expand(experiment, store, until, fetch=False)
    decisions = decide(steps, store, previous_steps(store, experiment.name))
    needed = disk_needs(experiment, decisions, {})
    table = Table("step", "", "why", "at most on disk", box=None)
    for decision in decisions:
        reuse = decision.artifact is not None or decision.same_as is not None
        most = needed.get(decision.step.stage, 0)
        size = "" if reuse or not most else disk.readable(most)
        table.add_row(decision.step.name, "reuse" if reuse else "run", decision.reason, size)
    console.print(table)
    to_run = [decision for decision in decisions if decision.artifact is None and decision.same_as is None]
    reused = len(decisions) - len(to_run)
    console.print(f"{len(to_run)} to run, {reused} reused; storage {store.shown('')}", highlight=False)
    _tell_preset(experiment, decisions[0].step, console)
    for warning in experiment.warnings():
        console.print(f"warning: {warning}", style="yellow", markup=False)
    model = _embedding_size(experiment, decisions)
    if model is not None and any(decision.step.stage == "vectors" for decision in to_run):
        machines = experiment.cluster.model_dump(include={"nodes", "gpus_per_node", "gpu_memory_gb"})
        line = placement(model, **machines, max_tokens=experiment.embedding.max_tokens)
        console.print(f"vectors: {line}", markup=False, highlight=False)
    stages = [decision.step.stage for decision in to_run]
    known = decisions[0].artifact
    if rows is None and known is not None:
        rows = sum(known.manifest["rows"].values())
    # The time is of interest also where the memory is too little.
    for line in costs.time_lines(experiment, stages, rows, tokens_per_row):
        console.print(line, markup=False, highlight=False)
    shape = _training_shape(experiment, decisions)
    costs.refuse_warmup_that_does_not_fit(experiment, shape, stages)
    for line in costs.memory_lines(experiment, shape) if "model" in stages else []:
        console.print(line, markup=False, highlight=False)
    _check_disk(experiment, store, decisions)
