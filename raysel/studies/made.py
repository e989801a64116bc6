"""What a study makes before its trials: corpora derived from the experiment's own, and small base models.

An experiment names them as `made://corpus/NAME` and `made://model/NAME`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from raysel.errors import UserError
from raysel.execution import local_scratch, run_folder
from raysel.experiment import checked
from raysel.runner import run_on
from raysel.seeding import draw
from raysel.store import Artifact, Store
from raysel.studies.confusion import confused
from raysel.studies.settings import DerivedCorpus, StudyModel
from raysel.studies.translation import translations

SCHEME = "made://"


class Made:
    """Makes what is asked for, once. data: the study's experiment as a mapping, which may name what is made."""

    def __init__(
        self,
        study: str,
        data: dict[str, Any],
        store: Store,
        corpora: Mapping[str, DerivedCorpus],
        models: Mapping[str, StudyModel],
    ) -> None:
        self.study, self.data, self.store = study, data, store
        self.corpora, self.models = corpora, models
        self.paths: dict[str, str] = {}

    def supposed(self) -> dict[str, str]:
        """Where everything would be: for checks before anything is made."""
        kinds = {"corpus": self.corpora, "model": self.models}
        return {f"{SCHEME}{kind}/{name}": f"/{kind}/{name}" for kind, of in kinds.items() for name in of}

    def make(self, wanted: Sequence[str], cluster: Any, console: Console) -> None:
        """wanted: names as `named_in` gives them."""
        for name in sorted(wanted):
            kind, _, own = name.removeprefix(SCHEME).partition("/")
            if name not in self.paths:
                make = self._corpus if kind == "corpus" else self._model
                self.paths[name] = make(own, cluster, console)

    def _corpus(self, name: str, cluster: Any, console: Console) -> str:
        console.print(f"corpus {name}:", highlight=False, markup=False)
        plain = replaced(self.data, {"corpus.path": self._own_corpus()}) | {"name": f"study-{self.study}-corpus"}
        experiment = checked(_with_base(plain, {}), where=f"study {self.study}")
        corpus = run_on(cluster, experiment, self.store, console, until="corpus")["corpus"]
        file = f"{run_folder(f'study-{self.study}')}/corpora/{name}.jsonl"
        seed = experiment.corpus.seed if experiment.corpus.seed is not None else experiment.seed
        cluster.run_task(_write_corpus, self.store, corpus, self.corpora[name], seed, file)
        return self.store.full(file) if self.store.is_local else f"{self.store.uri}/{file}"

    def _own_corpus(self) -> str:
        path = str(self.data.get("corpus", {}).get("path"))
        if path.startswith(SCHEME):
            raise UserError(f"study {self.study}: corpus.path is {path}; derived corpora are made from another one")
        return path

    def _model(self, name: str, cluster: Any, console: Console) -> str:
        console.print(f"base model {name}:", highlight=False, markup=False)
        of = self.models[name]
        corpus = f"{SCHEME}corpus/{of.corpus}" if of.corpus is not None else self._own_corpus()
        if corpus.startswith(SCHEME):
            self.make([corpus], cluster, console)
        data = replaced(self.data, {"corpus.path": self.paths.get(corpus, corpus)})
        data = _with_base(data, of.base.model_dump(exclude_unset=True)) | {"name": f"study-{self.study}-model-{name}"}
        experiment = checked(data, where=f"study {self.study}, model {name}")
        artifact = run_on(cluster, experiment, self.store, console, until="base_model")["base_model"]
        return str(artifact.local_folder("model", local_scratch(self.store, f"study-{self.study}") / "models"))


def named_in(value: Any) -> Iterator[str]:
    """Every `made://` name in an experiment's data or a point."""
    if isinstance(value, str) and value.startswith(SCHEME):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from named_in(inner)


def with_paths(value: Any, paths: Mapping[str, str]) -> Any:
    """The same with every `made://` name replaced by where it is."""
    if isinstance(value, Mapping):
        return {key: with_paths(inner, paths) for key, inner in value.items()}
    return paths.get(value, value) if isinstance(value, str) else value


def replaced(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with other values at dotted keys of two parts."""
    found = {key: dict(of) if isinstance(of, Mapping) else of for key, of in data.items()}
    for key, value in changes.items():
        section, _, inner = key.partition(".")
        found[section] = {**found.get(section, {}), inner: value}
    return found


def _with_base(data: Mapping[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The experiment of a base model, which is made alone and may have all the CPUs, and of nothing that needs
    another."""
    training = {key: value for key, value in data.get("training", {}).items() if key != "cpus_per_worker"}
    only = {"embedding": {}, "languages": {}, "mixture": {}, "selection": {}, "training": training}
    return {**data, **only, "model": {"base": {"seed": 0} | base}}


def _write_corpus(store: Store, corpus: Artifact, of: DerivedCorpus, seed: int, file: str) -> None:
    """Ray task: the derived corpus as JSON lines."""
    kept = [
        [row for shard in corpus.shards(table) for row in corpus.read_shard(shard).to_pylist()]
        for table in ("corpus", "heldout")
    ]
    kept = [[row for row in rows if _is_wanted(row, of)] for rows in kept]
    if of.translations:
        kept = [translations(rows) for rows in kept]
    if of.confused:
        kept[0] = confused(kept[0], of.confused, seed=seed)
    if of.per_language is not None:
        kept = [_some_of_each(kept[0], of.per_language, seed), []]
    if not kept[0]:
        raise UserError(f"nothing of the corpus is left for {file}: {of.model_dump(exclude_unset=True)}")
    lines = (json.dumps(_as_given(row), ensure_ascii=False, sort_keys=True) for rows in kept for row in rows)
    store.write_bytes(file, "".join(f"{line}\n" for line in lines).encode())


def _is_wanted(row: dict[str, Any], of: DerivedCorpus) -> bool:
    return row["lang"] in (of.languages or [row["lang"]]) and row["task"] in (of.tasks or [row["task"]])


def _some_of_each(rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for lang in sorted({row["lang"] for row in rows}):
        own = [row for row in rows if row["lang"] == lang]
        found += sorted(own, key=lambda row: draw(seed, f"some {row['id']}"))[:count]
    return found


def _as_given(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a user's file would have it."""
    found = {name: row[name] for name in ("id", "task", "source", "group")} | {"lang": row["lang_raw"]}
    if row["history"]:
        own = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        return found | {"messages": json.loads(row["history"]) + own}
    return found | {"prompt": row["prompt"], "response": row["response"]}
