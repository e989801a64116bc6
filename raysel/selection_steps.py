"""The steps of stage 2: the target, what each selector reads, the subsets, and how diverse they are."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raysel.errors import UserError
from raysel.graph import Graph
from raysel.languages.codes import normalise
from raysel.separability.settings import PreselectSettings
from raysel.settings import counted
from raysel.steps import Leaf, Step


def add_target(graph: Graph) -> None:
    """The samples that DSIR and LESS are to find the like of, where one of them runs."""
    experiment = graph.experiment
    target = experiment.selection.target
    if not experiment.selection.methods & {"dsir", "less"}:
        return
    settings: dict[str, Any] = {"target": {"of": target.of, "subtask": target.subtask, "samples": target.samples}}
    inputs: dict[str, Step] = {}
    leaves: dict[str, Leaf] = {}
    execution: dict[str, Any] = {"target": target}
    if target.of == "heldout":
        inputs = graph.corpus
        settings["unseen"] = _unseen(graph)
    elif target.of == "evaluation":
        leaves["tasks"] = _development_leaf(graph)
        evaluation = experiment.evaluation
        chosen = {"include": evaluation.include, "exclude": evaluation.exclude, "dev_share": evaluation.dev_share}
        settings |= {"unseen": _unseen(graph), **chosen}
        execution["evaluation"] = evaluation
    else:
        files, read, counts = _target_files(graph)
        leaves["target"] = graph.leaf(str(target.path), files)
        settings |= counts
        execution |= {"files": files, **read}
    graph.add(
        "target",
        "target",
        settings | {"seed": experiment.seed},
        more_inputs=inputs,
        leaves=leaves,
        execution=execution,
    )


def _unseen(graph: Graph) -> list[str]:
    """Languages that no selector may look at: they are kept for evaluation only."""
    return sorted({normalise(name) for name in graph.experiment.mixture.unseen})


def _development_leaf(graph: Graph) -> Leaf:
    """The task files and the data of their development splits: the test items have no part in it."""
    from raysel.evaluation.tasks import development_files

    evaluation = graph.experiment.evaluation
    if evaluation.tasks is None:
        raise UserError("selection.target.of evaluation takes the development items of evaluation.tasks: set it")
    return graph.leaf_of_tasks(development_files(evaluation))


def _target_files(graph: Graph) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """The user's files, how they are read, and what of that counts."""
    from raysel.corpus.files import find_files
    from raysel.corpus.presets import language_of_path
    from raysel.corpus.settings import CorpusSettings
    from raysel.corpus.stage import find_layout

    target = graph.experiment.selection.target
    files = find_files(str(target.path), setting="selection.target.path")
    read = CorpusSettings(path=target.path, preset=target.preset, columns=target.columns, lang_from=target.lang_from)
    layout = find_layout(read, files)
    paths = {"languages": [language_of_path(file, layout.lang_from) for file in files]}
    return files, {"layout": layout}, {"layout": asdict(layout)} | (paths if layout.lang_from != "column" else {})


def add_selection(graph: Graph) -> None:
    """The subset that is trained on, and those that it is compared with: each method on pool and corpus."""
    selection = graph.experiment.selection
    compared = [(method, candidates) for method in selection.compare for candidates in ("pool", "corpus")]
    wanted = dict.fromkeys([(selection.method, selection.candidates), *compared])
    for candidates in dict.fromkeys(candidates for _, candidates in wanted):
        _add_pool(graph, candidates)
    if "less" in selection.methods:
        _add_warmup(graph)
    for method, candidates in wanted:
        if method == "dsir":
            _add_importance(graph, candidates)
        elif method == "less":
            _add_influence(graph, candidates)
    _add_subset(graph, "subset", selection.method, selection.candidates)
    for method, candidates in compared:
        _add_subset(graph, _beside(method, candidates), method, candidates)
    _add_diversity(graph, compared)


def _of(graph: Graph, step: str, candidates: str) -> str:
    """The step's name: without a suffix where it serves what is trained on."""
    own = candidates == graph.experiment.selection.candidates
    return step if own else f"{step}_{'langgps' if candidates == 'pool' else 'corpus'}"


def _beside(method: str, candidates: str) -> str:
    """The name of a subset that another is compared with."""
    return f"subset_{method}{'' if candidates == 'pool' else '_corpus'}"


def _add_pool(graph: Graph, candidates: str) -> None:
    experiment = graph.experiment
    preselect = experiment.preselect if candidates == "pool" else PreselectSettings(rho=1.0)
    # What a band ranks by beside the scores, and where the tasks are.
    beside = {"length_matched": ("vectors",), "lid_clean": ("audit",)}.get(preselect.band, ())
    by_task = graph.corpus if experiment.mixture.by_task else {}
    settings: dict[str, Any] = {"preselect": preselect, "seed": experiment.seed}
    if experiment.selection.stratify == "none":
        settings["fills"] = "total"
    graph.add(_of(graph, "pool", candidates), "pool", settings, "scores", "quota", *beside, more_inputs=by_task)


def _add_importance(graph: Graph, candidates: str) -> None:
    dsir = graph.experiment.selection.dsir
    graph.add(
        _of(graph, "importance", candidates),
        "importance",
        {"dsir": {key: value for key, value in counted(dsir).items() if key != "sampling"}},
        "target",
        more_inputs=graph.corpus | {"pool": graph.steps[_of(graph, "pool", candidates)]},
        execution={"dsir": dsir},
    )


def _add_warmup(graph: Graph) -> None:
    less = graph.experiment.selection.less
    graph.add(
        "warmup",
        "warmup",
        {"warmup": less.warmup, "unseen": _unseen(graph), **graph.templated},
        more_inputs=graph.corpus | graph.base,
        leaves=graph.model_leaf,
        execution={"training": graph.experiment.training},
    )
    model: dict[str, Any] = {"more_inputs": graph.base, "leaves": graph.model_leaf}
    graph.add("target_gradients", "gradients", {"less": less, **graph.templated}, "warmup", "target", **model)


def _add_influence(graph: Graph, candidates: str) -> None:
    settings = {"less": graph.experiment.selection.less, **graph.templated}
    pool = {"pool": graph.steps[_of(graph, "pool", candidates)]}
    gradients = graph.add(
        _of(graph, "gradients", candidates),
        "gradients",
        settings,
        "warmup",
        more_inputs=graph.corpus | pool | graph.base,
        leaves=graph.model_leaf,
    )
    named = {"gradients": gradients}
    graph.add(_of(graph, "influence", candidates), "influence", {}, "target_gradients", "warmup", more_inputs=named)


def _add_subset(graph: Graph, name: str, method: str, candidates: str) -> None:
    selection = graph.experiment.selection.model_copy(update={"method": method})
    own = {"kmc": ["kmc"], "dsir": ["dsir"], "random": [], "less": []}.get(method, ["settings"])
    settings = {key: counted(selection)[key] for key in ("method", "stratify", "tokens", *own)}
    inputs = {"pool": graph.steps[_of(graph, "pool", candidates)], "quota": graph.steps["quota"]}
    leaves: dict[str, Leaf] = {}
    if method == "kmc" or selection.tokens is not None:
        inputs["vectors"] = graph.steps["vectors"]
    if method == "dsir":
        inputs |= graph.corpus | {"importance": graph.steps[_of(graph, "importance", candidates)]}
    elif method == "less":
        inputs["influence"] = graph.steps[_of(graph, "influence", candidates)]
    elif method not in ("random", "kmc"):
        from raysel.selection.selector import load_selector, source_file

        load_selector(method, selection.settings)
        written_in = str(source_file(method))
        leaves["selector"] = graph.leaf(written_in, [written_in])
        inputs |= graph.corpus | {name: graph.steps[name] for name in ("vectors", "scores")}
    graph.add(
        name,
        "subset",
        {"selection": settings, "seed": graph.experiment.seed},
        more_inputs=inputs,
        leaves=leaves,
        execution={"selection": selection},
    )


def _add_diversity(graph: Graph, compared: Sequence[tuple[str, str]]) -> None:
    """How separable and how diverse each subset is; off the line, for the report."""
    selection = graph.experiment.selection
    own: tuple[str, str] = (selection.method, selection.candidates)
    pairs = dict.fromkeys([*compared, own])
    choices = {"subset" if pair == own else _beside(*pair): pair for pair in pairs}
    graph.add(
        "diversity",
        "diversity",
        {"choices": choices, "seed": graph.experiment.seed},
        "vectors",
        "scores",
        *choices,
        more_inputs=graph.corpus,
    )
