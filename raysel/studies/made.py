"""What a study makes before its trials: corpora derived from the experiment's own, and small base models.

An experiment names them as `made://corpus/NAME` and `made://model/NAME`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raysel.errors import UserError
from raysel.execution import run_folder
from raysel.experiment import checked
from raysel.runner import run_on
from raysel.seeding import draw
from raysel.store import Artifact, Store, digest
from raysel.studies.confusion import confused
from raysel.studies.settings import DerivedCorpus, StudyModel
from raysel.studies.translation import translations

SCHEME = "made://"


# A derived corpus is written with raysel's own columns, whatever the experiment's own corpus has.
READING: dict[str, Any] = {"corpus.preset": None, "corpus.columns": {}, "corpus.lang_from": None}


class Made:
    """Makes what is asked for, once. data: the study's experiment as a mapping, over its own corpus."""

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
        self.own: Artifact | None = None

    def supposed(self) -> dict[str, str]:
        """Where everything would be: for checks before anything is made."""
        kinds = {"corpus": self.corpora, "model": self.models}
        return {f"{SCHEME}{kind}/{name}": f"/{kind}/{name}" for kind, of in kinds.items() for name in of}

    def own_corpus(self, cluster: Any, console: Console) -> Artifact:
        """The artifact of the experiment's own corpus."""
        if self.own is None:
            data = _with_base(self.data, {}) | {"name": f"study-{self.study}-corpus"}
            experiment = checked(data, where=f"study {self.study}")
            self.own = run_on(cluster, experiment, self.store, console, until="corpus")["corpus"]
        return self.own

    def make(self, wanted: Sequence[str], cluster: Any, console: Console) -> None:
        """wanted: names as `named_in` gives them."""
        for name in sorted(wanted):
            kind, _, own = name.removeprefix(SCHEME).partition("/")
            if name not in self.paths:
                make = self._corpus if kind == "corpus" else self._model
                self.paths[name] = make(own, cluster, console)

    def _corpus(self, name: str, cluster: Any, console: Console) -> str:
        console.print(f"corpus {name}:", highlight=False, markup=False)
        own, of = self.own_corpus(cluster, console), self.corpora[name]
        # Another corpus or another way to derive it is another file, and a run that reads the first still can.
        which = digest([own.fingerprint, of.model_dump()])[:12]
        file = f"{run_folder(f'study-{self.study}')}/corpora/{name}-{which}.jsonl"
        seed = self.data["corpus"].get("seed")
        cluster.run_task(_write_corpus, self.store, own, of, self.data.get("seed", 0) if seed is None else seed, file)
        return self.store.full(file)

    def _model(self, name: str, cluster: Any, console: Console) -> str:
        console.print(f"base model {name}:", highlight=False, markup=False)
        of, data = self.models[name], self.data
        if of.corpus is not None:
            derived = f"{SCHEME}corpus/{of.corpus}"
            self.make([derived], cluster, console)
            data = replaced(data, {**READING, "corpus.path": self.paths[derived]})
        data = _with_base(data, of.base.model_dump(exclude_unset=True)) | {"name": f"study-{self.study}-model-{name}"}
        experiment = checked(data, where=f"study {self.study}, model {name}")
        artifact = run_on(cluster, experiment, self.store, console, until="base_model")["base_model"]
        return str(artifact.local_folder("model", Path(self.store.full(run_folder(f"study-{self.study}")))))


def named_in(value: Any) -> Iterator[str]:
    """Every `made://` name in an experiment's data or a point."""
    if isinstance(value, str) and value.startswith(SCHEME):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from named_in(inner)


def with_reading(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point that names a derived corpus, with how that is read."""
    path = point.get("corpus.path")
    return {**point, **READING} if isinstance(path, str) and path.startswith(SCHEME) else dict(point)


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
    """The experiment of a base model, and of nothing that needs another."""
    only: dict[str, Any] = {"embedding": {}, "languages": {}, "mixture": {}, "selection": {}}
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
