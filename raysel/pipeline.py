"""From an experiment to the graph of its steps, room by room."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from raysel.errors import UserError
from raysel.experiment import ClusterSettings, Experiment
from raysel.separability.settings import PreselectSettings
from raysel.settings import counted
from raysel.steps import Leaf, Step
from raysel.store import Store, file_digest


def expand(experiment: Experiment, store: Store, until: str | None = None) -> list[Step]:
    """The steps of an experiment, each after its inputs; only those that `until` needs, where it is given.

    Checks what can be checked without computing (files, model folders, tasks) and raises `UserError`.
    """
    graph = _Graph(experiment, store)
    graph.add_corpus()
    # Early, because a quota that cannot be filled is refused here, before any model is made or loaded.
    graph.add_quota()
    graph.add_separability()
    graph.add_selection()
    graph.add_training()
    graph.add_evaluation()
    graph.add_report()
    return _needed(list(graph.steps.values()), until)


class _Graph:
    """The steps so far, by name. corpus: the one whose rows everything after the audit reads; base: the model that is
    made first (a step), or model_leaf: the one that is there."""

    def __init__(self, experiment: Experiment, store: Store) -> None:
        self.experiment, self.store = experiment, store
        self.steps: dict[str, Step] = {}
        self.corpus: dict[str, Step] = {}
        self.base: dict[str, Step] = {}
        self.model_leaf: dict[str, Leaf] = {}
        self.tasks: Leaf | None = None
        if experiment.evaluation.tasks is not None:
            from raysel.evaluation.tasks import check, leaf_files

            check(experiment.evaluation)
            self.tasks = self.leaf(experiment.evaluation.tasks, leaf_files(experiment.evaluation))

    def add(
        self,
        name: str,
        stage: str,
        settings: dict[str, Any],
        *inputs: str,
        more_inputs: Mapping[str, Step] = MappingProxyType({}),
        **more: Any,
    ) -> Step:
        """inputs: names of steps that the stage knows by the same name; more_inputs: others, by the stage's name."""
        named = {**{key: self.steps[key] for key in inputs}, **more_inputs}
        self.steps[name] = Step(name, stage, settings, named, **more)
        return self.steps[name]

    def leaf(self, path: str, files: list[str]) -> Leaf:
        """Content hashes by path below the folder that holds all the files: moving that folder changes nothing."""
        names = [file.partition("?")[0] for file in files]
        common = os.path.commonpath([name.rpartition("/")[0] for name in names])
        shown = [name.removeprefix(common).lstrip("/") for name in names]
        return Leaf(path, {name: file_digest(self.store, file) for name, file in zip(shown, files, strict=True)})

    def leaf_of_model(self, model: Any) -> Leaf:
        from raysel.models.loading import find_model, refuse_without_template

        folder = find_model(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        refuse_without_template(folder, model.template.name)
        return self.leaf(str(folder), sorted(str(file) for file in folder.iterdir() if file.is_file()))

    @property
    def templated(self) -> dict[str, Any]:
        """What every stage that feeds samples to the model that is trained counts."""
        from raysel.models.templates import template_source

        model = self.experiment.model
        return {
            "template": template_source(model.template.name),
            "seed": self.experiment.seed,
            "trust_remote_code": model.trust_remote_code,
        }

    def add_corpus(self) -> None:
        from raysel.corpus.files import corpus_name
        from raysel.corpus.presets import language_of_path
        from raysel.corpus.stage import find_layout, leaf_files
        from raysel.evaluation.items import item_sources

        corpus = self.experiment.corpus
        files = leaf_files(corpus)
        not_read = {"path", "dataset_split", "preset", "columns", "lang_from", "audit"}
        settings = {k: v for k, v in counted(corpus).items() if k not in not_read}
        settings["source"] = corpus_name(str(corpus.path))
        layout = find_layout(corpus, files)
        # A file's content does not say what its path does.
        paths = {"languages": [language_of_path(file, layout.lang_from) for file in files]}
        settings |= {"layout": asdict(layout)} | (paths if layout.lang_from != "column" else {})
        self.add(
            "corpus",
            "corpus",
            {"corpus": settings, "seed": self.experiment.seed},
            leaves={"corpus": self.leaf(str(corpus.path), files)},
            execution={"corpus": corpus, "layout": layout},
        )
        audit = corpus.audit
        if checks := audit.of_rows():
            facts = {"checks": checks, "jaccard": audit.jaccard, "language_probability": audit.language_probability}
            self.add("audit", "audit", {"audit": facts}, "corpus", execution={"audit": audit})
        if self.tasks is not None and "contamination" in audit.checks:
            self.add(
                "contamination",
                "contamination",
                {"ngram": audit.ngram, "split": self.experiment.evaluation.split},
                "corpus",
                leaves={"tasks": self.tasks},
                execution={"sources": item_sources(self.experiment.evaluation)},
            )
        self.corpus = {"corpus": self.steps["corpus"]}
        found_by = {name: "contamination" if name == "contamination" else "audit" for name in audit.drop}
        if drop := sorted(name for name, step in found_by.items() if step in self.steps):
            self.add("clean", "clean", {"drop": drop}, "corpus", *sorted({found_by[name] for name in drop}))
            self.corpus = {"corpus": self.steps["clean"]}

    def add_quota(self) -> None:
        from raysel.languages.files import leaf_files

        experiment = self.experiment
        self.add(
            "quota",
            "quota",
            {"languages": experiment.languages, "mixture": experiment.mixture, "seed": experiment.seed},
            more_inputs=self.corpus,
            leaves={name: self.leaf(file, [file]) for name, file in leaf_files(experiment.languages).items()},
        )
        if experiment.model.base is not None:
            workers = {"workers": experiment.training.workers}
            made = {"base": experiment.model.base, "seed": experiment.seed}
            self.base["model"] = self.add("base_model", "base_model", made, more_inputs=self.corpus, execution=workers)
        else:
            self.model_leaf["model"] = self.leaf_of_model(experiment.model)

    def add_separability(self) -> None:
        from raysel.models.templates import template_source

        experiment = self.experiment
        embedded = experiment.embedding.model
        how = embedded or experiment.model
        self.add(
            "vectors",
            "vectors",
            {
                "embedding": counted(experiment.embedding) | {"model": None},
                "template": template_source(how.template.name),
                "legacy_bos": how.template.legacy_bos,
                "trust_remote_code": how.trust_remote_code,
            },
            more_inputs=self.corpus | ({} if embedded else self.base),
            leaves={"model": self.leaf_of_model(embedded)} if embedded else self.model_leaf,
            execution={"embedding": experiment.embedding, "cluster": experiment.cluster},
        )
        separability = experiment.separability
        self.add(
            "sums",
            "sums",
            {"separability": {"precision": separability.precision}},
            "vectors",
            execution={"separability": separability},
        )
        # The sums serve every label and every set of clusters: a change of these two rescores, and measures nothing.
        against = ("quota",) if separability.clusters == "chosen" else ()
        clustered = {"label": separability.label, "clusters": separability.clusters}
        self.add("scores", "scores", {"separability": clustered}, "sums", *against)

    def add_selection(self) -> None:
        """The subset that is trained on, and those that it is compared with: each method on pool and corpus."""
        selection = self.experiment.selection
        compared = [(method, candidates) for method in selection.compare for candidates in ("pool", "corpus")]
        wanted = [(selection.method, selection.candidates), *compared]
        for candidates in dict.fromkeys(candidates for _, candidates in wanted):
            self._add_pool(candidates)
        if selection.methods & {"dsir", "less"}:
            self._add_target()
        for candidates in dict.fromkeys(candidates for method, candidates in wanted if method == "dsir"):
            self._add_importance(candidates)
        if less := [candidates for method, candidates in wanted if method == "less"]:
            # A gradient is its row's own: what is taken of the whole corpus serves the pool too.
            self._add_influence("corpus" if "corpus" in less else "pool")
        self._add_subset("subset", *wanted[0])
        for method, candidates in compared:
            self._add_subset(f"subset_{method}{'' if candidates == 'pool' else '_corpus'}", method, candidates)

    def _of(self, step: str, candidates: str) -> str:
        """The step's name: without a suffix where it serves what is trained on."""
        return step if candidates == self.experiment.selection.candidates else f"{step}_{candidates}"

    def _add_pool(self, candidates: str) -> None:
        experiment = self.experiment
        preselect = experiment.preselect if candidates == "pool" else PreselectSettings(rho=1.0)
        # What a band ranks by beside the scores, and where the tasks are.
        beside = {"length_matched": ("vectors",), "lid_clean": ("audit",)}.get(preselect.band, ())
        by_task = self.corpus if experiment.mixture.by_task else {}
        settings = {"preselect": preselect, "seed": experiment.seed}
        self.add(self._of("pool", candidates), "pool", settings, "scores", "quota", *beside, more_inputs=by_task)

    def _add_target(self) -> None:
        from raysel.corpus.settings import CorpusSettings
        from raysel.corpus.stage import find_layout, leaf_files

        experiment, target = self.experiment, self.experiment.selection.target
        settings: dict[str, Any] = {"target": {"of": target.of, "subtask": target.subtask, "samples": target.samples}}
        more: dict[str, Any] = {"execution": {"target": target}}
        if target.of == "heldout":
            more["more_inputs"] = self.corpus
        elif target.of == "evaluation":
            if self.tasks is None:
                raise UserError(
                    "selection.target.of evaluation needs evaluation.tasks, whose development items it takes"
                )
            development = experiment.evaluation.model_copy(update={"split": "dev"})
            from raysel.evaluation.tasks import leaf_files as task_files

            more["leaves"] = {"tasks": self.leaf(str(development.tasks), task_files(development))}
            settings["evaluation"] = counted(development) | {"tasks": None}
            more["execution"] |= {"evaluation": development}
        else:
            read = CorpusSettings(
                path=target.path, preset=target.preset, columns=target.columns, lang_from=target.lang_from
            )
            files = leaf_files(read)
            layout = find_layout(read, files)
            settings["layout"] = asdict(layout)
            more["leaves"] = {"target": self.leaf(str(target.path), files)}
            more["execution"] |= {"files": files, "layout": layout}
        self.add("target", "target", settings | {"seed": experiment.seed}, **more)

    def _add_importance(self, candidates: str) -> None:
        self.add(
            self._of("importance", candidates),
            "importance",
            {"dsir": {k: v for k, v in counted(self.experiment.selection.dsir).items() if k != "sampling"}},
            "target",
            more_inputs=self.corpus | {"pool": self.steps[self._of("pool", candidates)]},
            execution={"dsir": self.experiment.selection.dsir},
        )

    def _add_influence(self, candidates: str) -> None:
        experiment, less = self.experiment, self.experiment.selection.less
        model = {"leaves": self.model_leaf}
        self.add(
            "warmup",
            "warmup",
            {"warmup": less.warmup, **self.templated},
            more_inputs=self.corpus | self.base,
            execution={"workers": experiment.training.workers},
            **model,
        )
        settings = {"less": less, **self.templated}
        pool = self.corpus | {"pool": self.steps[self._of("pool", candidates)]}
        self.add("gradients", "gradients", settings, "warmup", more_inputs=pool | self.base, **model)
        self.add("target_gradients", "gradients", settings, "warmup", "target", more_inputs=self.base, **model)
        self.add("influence", "influence", {}, "gradients", "target_gradients", "warmup")

    def _add_subset(self, name: str, method: str, candidates: str) -> None:
        experiment = self.experiment
        selection = experiment.selection.model_copy(update={"method": method})
        counted_for = {"kmc": ["kmc"], "dsir": ["dsir"], "random": [], "less": []}.get(method, ["settings"])
        settings = {key: counted(selection)[key] for key in ("method", "stratify", "tokens", *counted_for)}
        inputs = {"pool": self.steps[self._of("pool", candidates)], "quota": self.steps["quota"]}
        leaves = {}
        if method == "kmc" or selection.tokens is not None:
            inputs["vectors"] = self.steps["vectors"]
        if method == "dsir":
            inputs |= self.corpus | {"importance": self.steps[self._of("importance", candidates)]}
        elif method == "less":
            inputs["influence"] = self.steps["influence"]
        elif method not in ("random", "kmc"):
            from raysel.selection.selector import load_selector, source_file

            load_selector(method, selection.settings)
            written_in = str(source_file(method))
            leaves["selector"] = self.leaf(written_in, [written_in])
            inputs |= self.corpus | {name: self.steps[name] for name in ("vectors", "scores")}
        self.add(
            name,
            "subset",
            {"selection": settings, "seed": experiment.seed},
            more_inputs=inputs,
            leaves=leaves,
            execution={"selection": selection},
        )

    def add_training(self) -> None:
        from raysel.mixture.order_stage import trained_order_file

        experiment = self.experiment
        curriculum, epochs, mixture = experiment.curriculum, experiment.training.data.epochs, experiment.mixture
        repeated = ("quota",) if mixture.shortfall == "repeat" and mixture.quota != "everything" else ()
        recorded: dict[str, Leaf] = {}
        if curriculum.trained_order is not None and curriculum.kind == "replay":
            file = trained_order_file(curriculum.trained_order)
            recorded["trained_order"] = self.leaf(file, [file])
        self.add(
            "order",
            "order",
            {
                "curriculum": {
                    k: v for k, v in counted(curriculum).items() if k in curriculum.read - {"trained_order"}
                },
                "seed": experiment.seed,
                "epochs": epochs if curriculum.repetition == "reshuffled" and "repetition" in curriculum.read else 1,
            },
            "subset",
            "scores",
            *repeated,
            more_inputs=self.corpus,
            leaves=recorded,
            execution={"curriculum": curriculum},
        )
        self.add(
            "tokens",
            "tokens",
            {"data": experiment.training.data, **self.templated},
            "order",
            more_inputs=self.corpus | self.base,
            leaves=self.model_leaf,
        )
        # Which steps are candidates for the best follows from how often one is looked at.
        best_of = {"best_of": experiment.training.checkpoint_steps} if experiment.training.export == "best" else {}
        self.add(
            "model",
            "model",
            {"training": experiment.training, **best_of, **self._trained},
            "tokens",
            more_inputs=self.base,
            leaves=self.model_leaf,
            execution={"model": experiment.model},
        )

    @property
    def _trained(self) -> dict[str, Any]:
        return {key: value for key, value in self.templated.items() if key != "template"}

    def add_evaluation(self) -> None:
        if self.tasks is None:
            return
        evaluation = self.experiment.evaluation
        for name in evaluation.models:
            self.add(
                f"results_{name}",
                "results",
                {"evaluation": counted(evaluation) | {"tasks": None}, "model_name": name, **self._trained},
                more_inputs=self.base | ({"tuned": self.steps["model"]} if name == "tuned" else {}),
                leaves=self.model_leaf | {"tasks": self.tasks},
                execution={"evaluation": evaluation},
            )

    def add_report(self) -> None:
        experiment = self.experiment
        resolved = counted(experiment.model_copy(update={"storage": "", "cluster": ClusterSettings()}))
        named = {"name": experiment.name, "seed": experiment.seed}
        self.add("report", "report", {"report": experiment.report, **named, "experiment": resolved}, *self.steps)


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
