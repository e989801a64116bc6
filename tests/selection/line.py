"""The stages around a selector, over the corpus that ships with raysel: made vectors and scores, all else for real."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysel.languages.settings import LanguagesSettings
from raysel.mixture import quota_stage
from raysel.mixture.settings import MixtureSettings
from raysel.selection import importance_stage, target_stage
from raysel.selection import stage as subset_stage
from raysel.selection.settings import SelectionSettings
from raysel.separability import pool_stage
from raysel.separability.settings import PreselectSettings
from raysel.stage import StageRun
from raysel.store import Artifact, Store
from raysel.tables import SCORES, vectors_schema
from tests.corpus.samples import demo_rows, published_corpus

LANGS = ("en", "sw", "zh", "th")
WIDTH = 6
HELDOUT = 6
SHARD = 32


class SelectionLine:
    def __init__(self, cluster: Any, progress: Any, folder: Path) -> None:
        self.cluster, self.progress, self.store = cluster, progress, Store(str(folder / "store"))
        rows = [row | {"task": "chat"} for row in demo_rows() if row["lang"] in LANGS]
        by_lang = {lang: [row for row in rows if row["lang"] == lang] for lang in LANGS}
        heldout = [row for lang in LANGS for row in by_lang[lang][:HELDOUT]]
        kept = [row for lang in LANGS for row in by_lang[lang][HELDOUT:]]
        self.rows = {row["id"]: row for row in kept}
        self.heldout = {row["id"]: row for row in heldout}
        corpus = published_corpus(self.store, kept, shard=SHARD, heldout=heldout)
        cells = [[lang, "chat", n] for lang, n in sorted(Counter(row["lang"] for row in kept).items())]
        corpus.manifest["summary"]["cells"] = cells
        self.made: dict[str, Artifact] = {"corpus": corpus}
        rng = np.random.default_rng(0)
        self.vectors = rng.normal(size=(len(kept), WIDTH)).astype(np.float32)
        self.tokens = {row["id"]: len(row["prompt"] + row["response"]) for row in kept}
        self.separability = dict(zip(self.rows, rng.uniform(-1, 1, len(kept)).tolist(), strict=True))
        self._publish("vectors", self._vector_table(kept), {"width": WIDTH})
        scores = [
            {"id": row["id"], "lang": row["lang"], "cluster": row["lang"], "nearest_lang": "en", "a": 0.0, "b": 0.0}
            | {"separability": self.separability[row["id"]]}
            for row in kept
        ]
        schema = SCORES.append(pa.field("cluster", pa.string()))
        self._publish("scores", pa.Table.from_pylist(scores, schema=schema), {})

    def _vector_table(self, rows: list[dict[str, Any]]) -> pa.Table:
        columns = {
            "id": [row["id"] for row in rows],
            "lang": [row["lang"] for row in rows],
            "vector": list(self.vectors),
            "n_tokens": [self.tokens[row["id"]] for row in rows],
            "truncated": [False] * len(rows),
            "lang_raw": [row["lang"] for row in rows],
            "task": ["chat"] * len(rows),
            "script": ["Latn"] * len(rows),
            "fed_hash": list(range(len(rows))),
        }
        return pa.table(columns, schema=vectors_schema(WIDTH, "float32"))

    def change_vectors(self, vectors: np.ndarray) -> None:
        """vectors: (n, WIDTH), of the rows in their order."""
        self.vectors = vectors.astype(np.float32)
        self._publish("vectors", self._vector_table(list(self.rows.values())), {"width": WIDTH}, "changed")

    def _publish(self, name: str, table: pa.Table, summary: dict[str, Any], fingerprint: str = "made") -> None:
        attempt = self.store.attempt(name, fingerprint)
        starts = range(0, table.num_rows, SHARD)
        records = [attempt.write_table(name, i, table.slice(start, SHARD)) for i, start in enumerate(starts)]
        self.made[name] = attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)

    def run(
        self,
        name: str,
        stage: Any,
        settings: dict[str, Any],
        inputs: dict[str, str],
        *,
        fingerprint: str = "",
        **leaves: str,
    ) -> Artifact:
        """inputs: the stage's name of each -> the name it was made under."""
        attempt = self.store.attempt(name, fingerprint or f"run-{len(list(Path(self.store.root).rglob('*')))}")
        given = {of_stage: self.made[made] for of_stage, made in inputs.items()}
        output = stage.run(StageRun({"seed": 0} | settings, given, leaves, attempt, self.cluster, self.progress))
        self.made[name] = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
        return self.made[name]

    def pool(self, rho: float = 1.0, fills: str = "each", **mixture: Any) -> Artifact:
        given = {"languages": LanguagesSettings(), "mixture": MixtureSettings(**mixture)}
        self.run("quota", quota_stage, given, {"corpus": "corpus"})
        names = {name: name for name in ("scores", "quota", "corpus")}
        return self.run("pool", pool_stage, {"preselect": PreselectSettings(rho=rho), "fills": fills}, names)

    def target(self, **target: Any) -> Artifact:
        settings = SelectionSettings(target=target).target
        return self.run("target", target_stage, {"target": settings}, {"corpus": "corpus"})

    def importance(self, fingerprint: str = "", **dsir: Any) -> Artifact:
        names = {name: name for name in ("corpus", "pool", "target")}
        settings = {"dsir": SelectionSettings(dsir=dsir).dsir}
        return self.run("importance", importance_stage, settings, names, fingerprint=fingerprint)

    def subset(self, **selection: Any) -> list[dict[str, Any]]:
        names = {name: name for name in self.made if name != "target"}
        made = self.run("subset", subset_stage, {"selection": SelectionSettings(**selection)}, names)
        return made.read("subset").to_pylist()
