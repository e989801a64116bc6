"""From an experiment to the graph of its steps, room by room."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from raysel.errors import UserError
from raysel.experiment import Experiment
from raysel.graph import Graph
from raysel.selection_steps import add_selection, add_target
from raysel.settings import counted
from raysel.steps import STAGES, Leaf, Step
from raysel.store import Store, digest


def expand(experiment: Experiment, store: Store, until: str | None = None, *, fetch: bool = True) -> list[Step]:
    """The steps of an experiment, each after its inputs; only those that `until` needs, where it is given.

    fetch: whether models are fetched from the hub; without it those of known shape are only named. Checks what can be
    checked without computing (files, model folders, tasks) and raises `UserError`.
    """
    graph = Graph(experiment, store, fetch=fetch)
    _add_corpus(graph)
    # Early, because what cannot be filled or aimed at is refused here, before any model is made or loaded.
    _add_quota(graph)
    add_target(graph)
    _add_separability(graph)
    add_selection(graph)
    _add_training(graph)
    _add_evaluation(graph)
    _add_report(graph)
    return _needed(list(graph.steps.values()), until)


def _add_corpus(graph: Graph) -> None:
    from raysel.corpus.files import corpus_name
    from raysel.corpus.presets import language_of_path
    from raysel.corpus.stage import find_layout, leaf_files
    from raysel.evaluation.items import item_sources

    corpus = graph.experiment.corpus
    files = leaf_files(corpus)
    not_read = {"path", "dataset_split", "preset", "columns", "lang_from", "audit", "seed"}
    settings = {k: v for k, v in counted(corpus).items() if k not in not_read}
    settings["source"] = corpus_name(str(corpus.path))
    layout = find_layout(corpus, files)
    # A file's content does not say what its path does.
    paths = {"languages": [language_of_path(file, layout.lang_from) for file in files]}
    settings |= {"layout": asdict(layout)} | (paths if layout.lang_from != "column" else {})
    graph.add(
        "corpus",
        "corpus",
        {"corpus": settings, "seed": _own_seed(corpus.seed, graph.experiment)},
        leaves={"corpus": graph.leaf(str(corpus.path), files)},
        execution={"corpus": corpus, "layout": layout},
    )
    audit = corpus.audit
    if checks := audit.of_rows():
        facts = {"checks": checks, "jaccard": audit.jaccard, "language_probability": audit.language_probability}
        graph.add("audit", "audit", {"audit": facts}, "corpus", execution={"audit": audit})
    evaluation = graph.experiment.evaluation
    if graph.tasks is not None and "contamination" in audit.checks:
        sources = item_sources(evaluation)
        graph.add(
            "contamination",
            "contamination",
            {
                "ngram": audit.ngram,
                "dev_share": evaluation.dev_share,
                # One file may hold the items of several tasks.
                "tasks": [source.task for source in sources],
            },
            "corpus",
            leaves={"tasks": graph.tasks},
            execution={"sources": sources},
        )
    graph.corpus = {"corpus": graph.steps["corpus"]}
    found_by = {name: "contamination" if name == "contamination" else "audit" for name in audit.drop}
    if drop := sorted(name for name, step in found_by.items() if step in graph.steps):
        graph.add("clean", "clean", {"drop": drop}, "corpus", *sorted({found_by[name] for name in drop}))
        graph.corpus = {"corpus": graph.steps["clean"]}


def _own_seed(given: int | None, experiment: Experiment) -> int:
    return experiment.seed if given is None else given


def _add_quota(graph: Graph) -> None:
    from raysel.languages.files import leaf_files

    experiment = graph.experiment
    graph.add(
        "quota",
        "quota",
        {"languages": experiment.languages, "mixture": experiment.mixture, "seed": experiment.seed},
        more_inputs=graph.corpus,
        leaves={name: graph.leaf(file, [file]) for name, file in leaf_files(experiment.languages).items()},
    )
    if experiment.model.base is not None:
        training = experiment.training
        workers = {"workers": training.workers, "cpus_per_worker": training.cpus_per_worker}
        base = experiment.model.base
        made = {"base": base.model_copy(update={"seed": None}), "seed": _own_seed(base.seed, experiment)}
        graph.base["model"] = graph.add("base_model", "base_model", made, more_inputs=graph.corpus, execution=workers)
    else:
        graph.model_leaf["model"] = graph.leaf_of_model(experiment.model)


def _add_separability(graph: Graph) -> None:
    from raysel.models.templates import template_source

    experiment = graph.experiment
    embedded = experiment.embedding.model
    how = embedded or experiment.model
    graph.add(
        "vectors",
        "vectors",
        {
            "embedding": counted(experiment.embedding) | {"model": None},
            "template": template_source(how.template.name),
            "legacy_bos": how.template.legacy_bos,
            "trust_remote_code": how.trust_remote_code,
        },
        more_inputs=graph.corpus | ({} if embedded else graph.base),
        leaves={"model": graph.leaf_of_model(embedded)} if embedded else graph.model_leaf,
        execution={"embedding": experiment.embedding, "cluster": experiment.cluster},
    )
    separability = experiment.separability
    graph.add(
        "sums",
        "sums",
        {"separability": {"precision": separability.precision}},
        "vectors",
        execution={"separability": separability},
    )
    # The sums serve every label and every set of clusters: a change of these two rescores, and measures nothing.
    against = ("quota",) if separability.clusters == "chosen" else ()
    clustered = {"label": separability.label, "clusters": separability.clusters}
    graph.add("scores", "scores", {"separability": clustered}, "sums", *against)


def _add_training(graph: Graph) -> None:
    from raysel.mixture.order_stage import trained_order_file

    experiment = graph.experiment
    curriculum, epochs, mixture = experiment.curriculum, experiment.training.data.epochs, experiment.mixture
    repeated = ("quota",) if mixture.shortfall == "repeat" and mixture.quota != "everything" else ()
    recorded: dict[str, Leaf] = {}
    if curriculum.trained_order is not None and curriculum.kind == "replay":
        file = trained_order_file(curriculum.trained_order)
        recorded["trained_order"] = graph.leaf(file, [file])
    graph.add(
        "order",
        "order",
        {
            "curriculum": {k: v for k, v in counted(curriculum).items() if k in curriculum.read - {"trained_order"}},
            "seed": experiment.seed,
            "epochs": epochs if curriculum.repetition == "reshuffled" and "repetition" in curriculum.read else 1,
        },
        "subset",
        "scores",
        *repeated,
        more_inputs=graph.corpus,
        leaves=recorded,
        execution={"curriculum": curriculum},
    )
    graph.add(
        "tokens",
        "tokens",
        {"data": experiment.training.data, **graph.templated},
        "order",
        more_inputs=graph.corpus | graph.base,
        leaves=graph.model_leaf,
    )
    # Which steps are candidates for the best follows from how often one is looked at.
    best_of = {"best_of": experiment.training.checkpoint_steps} if experiment.training.export == "best" else {}
    graph.add(
        "model",
        "model",
        {"training": experiment.training, **best_of, **graph.trained},
        "tokens",
        more_inputs=graph.base,
        leaves=graph.model_leaf,
        execution={"model": experiment.model},
    )


def _add_evaluation(graph: Graph) -> None:
    from raysel.models.templates import template_source

    evaluation = graph.experiment.evaluation
    if not evaluation.is_asked:
        return
    given = graph.templated if evaluation.chat_template or evaluation.heldout_samples else graph.trained
    corpus = graph.corpus if evaluation.heldout_samples else {}
    tasks = {"tasks": graph.tasks} if graph.tasks is not None else {}
    judge, asked = {}, {}
    if evaluation.judge is not None:
        judge = {"judge": graph.leaf_of_model(evaluation.judge)}
        asked = {"judge_template": template_source(evaluation.judge.template.name)}
    # Where they are does not count, but what they hold: leaves.
    not_counted = {"tasks": None, "data": None, "judge": None}
    base: list[Step | Leaf] = [*graph.base.values(), *graph.model_leaf.values()]

    def identity(*parts: Step | Leaf) -> str:
        return digest([STAGES["results"][0], *(part.fingerprint for part in parts)])

    # The tuned model first: an adapter's base is scored while it is loaded.
    for name in sorted(evaluation.models, reverse=True):
        tuned = {"tuned": graph.steps["model"]} if name == "tuned" else {}
        graph.add(
            f"results_{name}",
            "results",
            {"evaluation": counted(evaluation) | not_counted, "model_name": name, **asked, **given},
            more_inputs=graph.base | tuned | corpus,
            leaves=graph.model_leaf | tasks | judge,
            execution={
                "evaluation": evaluation,
                "identity": identity(*base, *tuned.values()),
                "base_identity": identity(*base) if tuned and "base" in evaluation.models else None,
                "judge_identity": [judge["judge"].fingerprint, asked["judge_template"]] if judge else None,
            },
        )


def _add_report(graph: Graph) -> None:
    experiment = graph.experiment
    named = {"name": experiment.name, "seed": experiment.seed}
    graph.add(
        "report", "report", {"report": experiment.report, **named, "experiment": counted(experiment)}, *graph.steps
    )


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


def published_part(steps: Sequence[Step], store: Store) -> list[Step]:
    """The steps whose artifacts exist, and the report over just those."""
    have = [step for step in steps if store.artifact(step.stage, step.fingerprint) and step.stage != "report"]
    report = next(step for step in steps if step.stage == "report")
    names = {step.name for step in have}
    inputs = {name: step for name, step in report.inputs.items() if name in names}
    return [*have, replace(report, inputs=inputs)]
