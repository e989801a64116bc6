"""From an experiment to a graph of steps, and running what of it does not exist yet.

A step is a stage with its settings and inputs; its fingerprint hashes both, the stage's version and the contents of
the user's files, so every address is known before anything runs. Steps that are published already are reused.
"""

import importlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as installed
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raysel.errors import UserError
from raysel.experiment import ClusterSettings, Experiment
from raysel.settings import counted
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, Store, digest, file_digest

# stage: (version, where its function is). A change of a stage's code that can change its result raises the version.
STAGES: dict[str, tuple[int, str]] = {
    "corpus": (4, "raysel.corpus.stage:run"),
    "audit": (1, "raysel.corpus.audit_stage:run"),
    "contamination": (1, "raysel.corpus.contamination_stage:run"),
    "clean": (1, "raysel.corpus.clean_stage:run"),
    "base_model": (3, "raysel.training.base_model_stage:run"),
    "quota": (2, "raysel.mixture.quota_stage:run"),
    "vectors": (5, "raysel.embedding.stage:run"),
    "sums": (2, "raysel.separability.sums_stage:run"),
    "scores": (2, "raysel.separability.scores_stage:run"),
    "pool": (3, "raysel.separability.pool_stage:run"),
    "subset": (2, "raysel.selection.stage:run"),
    "order": (2, "raysel.mixture.order_stage:run"),
    "tokens": (4, "raysel.training.tokens_stage:run"),
    "model": (4, "raysel.training.model_stage:run"),
    "results": (2, "raysel.evaluation.stage:run"),
    "report": (7, "raysel.report.stage:run"),
}
VERSIONED = (
    "ray",
    "torch",
    "transformers",
    "deepspeed",
    "peft",
    "lm-eval",
    "scikit-learn",
    "pyarrow",
    "numpy",
    "lang2vec",
)


@dataclass(frozen=True)
class Leaf:
    """Something of the user's: `path` is where it is, `files` what it consists of, with the SHA-256 of each."""

    path: str
    files: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        return digest(dict(self.files))


@dataclass(frozen=True)
class Step:
    """One node of the graph. `settings` count towards the fingerprint, `execution` only says how to execute."""

    name: str
    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return STAGES[self.stage][0]

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.record())

    @property
    def address(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    def record(self) -> dict[str, Any]:
        """What the fingerprint hashes, and what a later run is compared with."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": counted(dict(self.settings)),
            "inputs": {name: step.fingerprint for name, step in self.inputs.items()},
            "leaves": {name: dict(leaf.files) for name, leaf in self.leaves.items()},
        }


def expand(experiment: Experiment, store: Store, until: str | None = None) -> list[Step]:
    """The steps of an experiment, each after its inputs; only those that `until` needs, where it is given.

    Checks what can be checked without computing (files, model folders, tasks) and raises `UserError`.
    """
    from raysel.corpus.files import corpus_name
    from raysel.corpus.presets import language_of_path
    from raysel.corpus.stage import find_layout
    from raysel.corpus.stage import leaf_files as corpus_files
    from raysel.evaluation.items import item_sources
    from raysel.evaluation.tasks import check
    from raysel.evaluation.tasks import leaf_files as task_files
    from raysel.languages.files import leaf_files as language_files
    from raysel.mixture.order_stage import trained_order_file
    from raysel.models.templates import template_source

    seed, model = experiment.seed, experiment.model
    files = corpus_files(experiment.corpus)
    corpus_leaf = Leaf(str(experiment.corpus.path), _digests(store, files))
    not_read = {"path", "dataset_split", "preset", "columns", "lang_from", "audit"}
    corpus_settings = {k: v for k, v in counted(experiment.corpus).items() if k not in not_read}
    corpus_settings["source"] = corpus_name(str(experiment.corpus.path))
    layout = find_layout(experiment.corpus, files)
    # A file's content does not say what its path does.
    paths = {"languages": [language_of_path(file, layout.lang_from) for file in files]}
    corpus_settings |= {"layout": asdict(layout)} | (paths if layout.lang_from != "column" else {})
    steps: dict[str, Step] = {}

    def add(
        name: str,
        stage: str,
        settings: dict[str, Any],
        *inputs: str,
        more_inputs: Mapping[str, Step] = MappingProxyType({}),
        **more: Any,
    ) -> Step:
        named = {**{key: steps[key] for key in inputs}, **more_inputs}
        steps[name] = Step(name, stage, settings, named, **more)
        return steps[name]

    add(
        "corpus",
        "corpus",
        {"corpus": corpus_settings, "seed": seed},
        leaves={"corpus": corpus_leaf},
        execution={"corpus": experiment.corpus, "layout": layout},
    )
    tasks = None
    if experiment.evaluation.tasks is not None:
        check(experiment.evaluation)
        tasks = Leaf(experiment.evaluation.tasks, _digests(store, task_files(experiment.evaluation)))
    audit = experiment.corpus.audit
    if checks := audit.of_rows():
        facts = {"checks": checks, "jaccard": audit.jaccard, "language_probability": audit.language_probability}
        add("audit", "audit", {"audit": facts}, "corpus", execution={"audit": audit})
    if tasks is not None and "contamination" in audit.checks:
        add(
            "contamination",
            "contamination",
            {"ngram": audit.ngram, "split": experiment.evaluation.split},
            "corpus",
            leaves={"tasks": tasks},
            execution={"sources": item_sources(experiment.evaluation)},
        )
    corpus = {"corpus": steps["corpus"]}
    found_by = {name: "contamination" if name == "contamination" else "audit" for name in audit.drop}
    if drop := sorted(name for name, step in found_by.items() if step in steps):
        add("clean", "clean", {"drop": drop}, "corpus", *sorted({found_by[name] for name in drop}))
        corpus = {"corpus": steps["clean"]}
    # Early, because a quota that cannot be filled is refused here, before any model is made or loaded.
    add(
        "quota",
        "quota",
        {"languages": experiment.languages, "mixture": experiment.mixture, "seed": seed},
        more_inputs=corpus,
        leaves={n: Leaf(file, _digests(store, [file])) for n, file in language_files(experiment.languages).items()},
    )
    leaf: dict[str, Leaf] = {}
    base: dict[str, Step] = {}
    if model.base is not None:
        workers = {"workers": experiment.training.workers}
        made = {"base": model.base, "seed": seed}
        base["model"] = add("base_model", "base_model", made, more_inputs=corpus, execution=workers)
    else:
        leaf["model"] = _model_leaf(store, model)
    trusted = model.trust_remote_code
    embedded = experiment.embedding.model
    how = embedded or model
    add(
        "vectors",
        "vectors",
        {
            "embedding": counted(experiment.embedding) | {"model": None},
            "template": template_source(how.template.name),
            "legacy_bos": how.template.legacy_bos,
            "trust_remote_code": how.trust_remote_code,
        },
        more_inputs=corpus | ({} if embedded else base),
        leaves={"model": _model_leaf(store, embedded)} if embedded else leaf,
        execution={"embedding": experiment.embedding, "cluster": experiment.cluster},
    )
    separability = experiment.separability
    add(
        "sums",
        "sums",
        {"separability": {"precision": separability.precision}},
        "vectors",
        execution={"separability": separability},
    )
    # The sums serve every label and every set of clusters: a change of these two rescores, and measures nothing anew.
    against = ("quota",) if separability.clusters == "chosen" else ()
    clustered = {"label": separability.label, "clusters": separability.clusters}
    add("scores", "scores", {"separability": clustered}, "sums", *against)
    # What a band ranks by beside the scores, and where the tasks are.
    beside = {"length_matched": ("vectors",), "lid_clean": ("audit",)}.get(experiment.preselect.band, ())
    by_task = corpus if experiment.mixture.by_task else {}
    pooled = {"preselect": experiment.preselect, "seed": seed}
    add("pool", "pool", pooled, "scores", "quota", *beside, more_inputs=by_task)
    uses_vectors = ("vectors",) if experiment.selection.method == "kmc" else ()
    add("subset", "subset", {"selection": experiment.selection, "seed": seed}, "pool", "quota", *uses_vectors)
    curriculum, epochs = experiment.curriculum, experiment.training.data.epochs
    mixture = experiment.mixture
    repeated = ("quota",) if mixture.shortfall == "repeat" and mixture.quota != "everything" else ()
    recorded: dict[str, Leaf] = {}
    if curriculum.trained_order is not None and curriculum.kind == "replay":
        file = trained_order_file(curriculum.trained_order)
        recorded["trained_order"] = Leaf(file, _digests(store, [file]))
    add(
        "order",
        "order",
        {
            "curriculum": {k: v for k, v in counted(curriculum).items() if k in curriculum.read - {"trained_order"}},
            "seed": seed,
            "epochs": epochs if curriculum.repetition == "reshuffled" and "repetition" in curriculum.read else 1,
        },
        "subset",
        "scores",
        *repeated,
        more_inputs=corpus,
        leaves=recorded,
        execution={"curriculum": curriculum},
    )
    trained = {"seed": seed, "trust_remote_code": trusted}
    add(
        "tokens",
        "tokens",
        {"data": experiment.training.data, "template": template_source(model.template.name), **trained},
        "order",
        more_inputs=corpus | base,
        leaves=leaf,
    )
    # Which steps are candidates for the best follows from how often one is looked at.
    best_of = {"best_of": experiment.training.checkpoint_steps} if experiment.training.export == "best" else {}
    add(
        "model",
        "model",
        {"training": experiment.training, **best_of, **trained},
        "tokens",
        more_inputs=base,
        leaves=leaf,
        execution={"model": model},
    )
    if tasks is not None:
        settings = counted(experiment.evaluation) | {"tasks": None}
        for name in experiment.evaluation.models:
            add(
                f"results_{name}",
                "results",
                {"evaluation": settings, "model_name": name, **trained},
                more_inputs=base | ({"tuned": steps["model"]} if name == "tuned" else {}),
                leaves=leaf | {"tasks": tasks},
                execution={"evaluation": experiment.evaluation},
            )
    resolved = counted(experiment.model_copy(update={"storage": "", "cluster": ClusterSettings()}))
    add(
        "report",
        "report",
        {"report": experiment.report, "name": experiment.name, "seed": seed, "experiment": resolved},
        *steps,
    )
    return _needed(list(steps.values()), until)


def _needed(steps: list[Step], until: str | None) -> list[Step]:
    if until is None:
        return steps
    goal = [step for step in steps if step.stage == until]
    if not goal:
        raise UserError(f"there is no step {until} in this experiment")
    wanted: dict[str, Step] = {}

    def visit(step: Step) -> None:
        for before in step.inputs.values():
            visit(before)
        wanted[step.name] = step

    for step in goal:
        visit(step)
    return [step for step in steps if step.name in wanted]


def published_part(steps: list[Step], store: Store) -> list[Step]:
    """The steps whose artifacts exist, and the report over just those."""
    have = [step for step in steps if store.artifact(step.stage, step.fingerprint) and step.stage != "report"]
    report = next(step for step in steps if step.stage == "report")
    names = {step.name for step in have}
    inputs = {name: step for name, step in report.inputs.items() if name in names}
    return [*have, replace(report, inputs=inputs)]


def _digests(store: Store, files: list[str]) -> dict[str, str]:
    """Content hashes by path below the folder that holds all the files: moving that folder changes nothing."""
    names = [file.partition("?")[0] for file in files]
    common = os.path.commonpath([name.rpartition("/")[0] for name in names])
    return {name.removeprefix(common).lstrip("/"): file_digest(store, f) for name, f in zip(names, files, strict=True)}


def _model_leaf(store: Store, model: Any) -> Leaf:
    from raysel.models.loading import find_model, refuse_without_template

    folder = find_model(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    refuse_without_template(folder, model.template.name)
    return Leaf(str(folder), _digests(store, sorted(str(file) for file in folder.iterdir() if file.is_file())))


def execute(
    step: Step,
    store: Store,
    reason: str,
    *,
    artifacts: Mapping[str, Artifact],
    cluster: Any,
    progress: Any,
) -> Artifact:
    """Run one step under its lease and publish its artifact; where somebody else published meanwhile, give theirs."""
    key = f"{store.uri}/{step.address}"
    with cluster.lease(key, on_wait=lambda: progress.note("another run computes this now: waiting for it")):
        published = store.artifact(step.stage, step.fingerprint)
        if published is not None:
            return published
        attempt = store.attempt(step.stage, step.fingerprint)
        log = EventLog(store, step, attempt)
        log.add("start", reason=reason)
        run = StageRun(
            settings={**step.settings, **step.execution},
            inputs={name: artifacts[before.name] for name, before in step.inputs.items()},
            leaves={name: leaf.path for name, leaf in step.leaves.items()},
            attempt=attempt,
            cluster=cluster,
            progress=progress,
        )
        try:
            output = stage_function(step.stage)(run)
            artifact = attempt.publish(
                output.records,
                settings=counted(dict(step.settings)),
                inputs={name: before.address for name, before in step.inputs.items()}
                | {name: leaf.fingerprint for name, leaf in step.leaves.items()},
                version=step.version,
                summary=output.summary,
                versions={"python": platform.python_version(), **{name: installed(name) for name in VERSIONED}},
            )
        except (OSError, KeyError, UserError):
            # A run on another cluster shares the storage but not the lease. If it published first and tidied up, what
            # this attempt had carried on from is gone, and no longer needed.
            published = store.artifact(step.stage, step.fingerprint)
            if published is None:
                raise
            log.add("end", reason="another attempt published first")
            return published
        attempt.discard_unlisted(artifact)
        log.add("end", rows=artifact.manifest["rows"], wall_seconds=artifact.manifest["wall_seconds"])
        return artifact


def stage_function(stage: str) -> Callable[[StageRun], StageOutput]:
    module, _, name = STAGES[stage][1].partition(":")
    function: Callable[[StageRun], StageOutput] = getattr(importlib.import_module(module), name)
    return function


class EventLog:
    """The JSON lines of one execution, in a file of its own."""

    def __init__(self, store: Store, step: Step, attempt: Attempt) -> None:
        self.store = store
        self.name = f"{attempt.name}-{step.stage}"
        self.common = {"stage": step.stage, "step": step.name, "fingerprint": step.fingerprint, "attempt": attempt.name}
        self.events: list[dict[str, Any]] = []

    def add(self, event: str, **facts: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.events.append({**self.common, "event": event, "time": time, **facts})
        self.store.write_event_log(self.name, self.events)


def run_folder(name: str) -> str:
    return f"runs/{name}"


def local_scratch(store: Store, name: str) -> Path:
    """A local folder for what a run leaves on this machine (its log)."""
    if store.is_local:
        return Path(store.full(run_folder(name)))
    return Path.home() / ".cache" / "raysel" / "runs" / name
