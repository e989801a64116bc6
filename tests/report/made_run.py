"""The artifacts of a small run, written with the real table writers: made-up content, the stages' own shapes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysel import tables
from raysel.languages.corpus_choice import choice_record, choose_from_corpus
from raysel.languages.settings import LanguagesSettings
from raysel.separability import silhouette_samples
from raysel.store import Artifact, ShardRecord, Store

HOSTILE = "<script>alert('x')</script> & \"quoted\" <img src=x onerror=alert(1)>"
# An override of direction, a null, an escape that colours a terminal, a tag and a next line: all of them invisible.
CONTROLS = "\u202egnp.exe\x00 \x1b[31mred\x1b[0m \U000e0041\x85"
CONTROLS_SHOWN = "⟨U+202E⟩gnp.exe⟨U+0000⟩ ⟨U+001B⟩[31mred⟨U+001B⟩[0m ⟨U+E0041⟩⟨U+0085⟩"
TASKS = ("topic", "nli", HOSTILE)
TEXTS = {
    "ar": ("ما هي عاصمة مصر؟ (أجب بكلمة واحدة)", "القاهرة هي عاصمة جمهورية مصر العربية."),
    "zh": ("请用一句话解释什么是光合作用。", "光合作用是植物利用光能把二氧化碳和水转化为有机物的过程。"),
    "hi": ("भारत की राजधानी क्या है?", "भारत की राजधानी नई दिल्ली है।"),
    "sw": ("Mji mkuu wa Tanzania ni upi?", "Mji mkuu wa Tanzania ni Dodoma."),
    "he": (f"מהי בירת צרפת? {CONTROLS}", "בירת צרפת היא פריז."),
    "en": (HOSTILE, "The capital of Kenya is Nairobi."),
}
HISTORY = [
    {"role": "system", "content": f"Answer plainly. {HOSTILE}"},
    {"role": "user", "content": "Are you there?"},
    {"role": "assistant", "content": "I am here."},
]
WIDTH = 12
SHARD_ROWS = 150
METRICS = ("acc", "acc_norm")
STEPS = 60


@dataclass(frozen=True)
class Made:
    """Publishes one artifact after another; `published` is what a pipeline would hand to the report."""

    store: Store
    languages: list[str]
    rows: int
    seed: int
    published: dict[str, Artifact]

    def publish(self, name: str, records: list[ShardRecord], summary: dict[str, Any], attempt: Any) -> None:
        self.published[name] = attempt.publish(
            records,
            settings={"seed": self.seed, "section": {"key": HOSTILE, "unset": None}},
            inputs={before: artifact.address for before, artifact in self.published.items()},
            version=1,
            summary=summary,
            versions={"python": "3.11"},
        )

    def sizes(self) -> dict[str, int]:
        """Fewer rows from language to language, as corpora have them."""
        return {lang: max(12, round(self.rows / (1 + k / 3))) for k, lang in enumerate(self.languages)}


def make_run(
    store: Store, languages: list[str], *, rows: int = 120, seed: int = 0, until: str = "results_tuned"
) -> dict[str, Artifact]:
    """Every artifact up to `until`, in the order of the pipeline."""
    made = Made(store, languages, rows, seed, {})
    generator = np.random.default_rng(seed)
    facts = _samples(made, generator)
    makers: list[tuple[str, Callable[[Made, Any, dict[str, Any]], None]]] = [
        ("corpus", _corpus),
        ("audit", _audit),
        ("vectors", _vectors),
        ("scores", _scores),
        ("quota", _quota),
        ("pool", _pool),
        ("subset", _subset),
        ("order", _order),
        ("tokens", _tokens),
        ("model", _model),
        ("results_base", _results("base", 0.0)),
        ("results_tuned", _results("tuned", 0.12)),
    ]
    for name, maker in makers:
        stage = name.partition("_")[0]
        fingerprint = f"{name.encode().hex():0<24}"[:24]
        maker(made, store.attempt(stage, fingerprint), facts)
        if name == until:
            break
    return made.published


def _samples(made: Made, generator: np.random.Generator) -> dict[str, Any]:
    langs = [lang for lang, count in made.sizes().items() for _ in range(count)]
    order = generator.permutation(len(langs))
    langs = [langs[i] for i in order]
    centres = {lang: generator.normal(0, 1.6, WIDTH) for lang in made.languages}
    spread = {lang: generator.uniform(0.7, 1.6) for lang in made.languages}
    vectors = np.stack([centres[lang] + generator.normal(0, spread[lang], WIDTH) for lang in langs])
    ids = [f"{lang}:{number}" for number, lang in enumerate(langs)]
    return {"ids": ids, "langs": langs, "vectors": vectors.astype(np.float32), "generator": generator}


def _shards(attempt: Any, table: str, columns: dict[str, Any], schema: pa.Schema) -> list[ShardRecord]:
    whole = pa.table(columns, schema=schema)
    starts = range(0, max(1, whole.num_rows), SHARD_ROWS)
    return [attempt.write_table(table, i, whole.slice(at, SHARD_ROWS)) for i, at in enumerate(starts)]


def _corpus(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    langs = facts["langs"]
    texts = [TEXTS.get(lang, (f"Question in {lang}", f"Answer in {lang}")) for lang in langs]
    tasks = [TASKS[i % 3] for i in range(len(langs))]
    columns = {
        "id": facts["ids"],
        "lang": langs,
        "lang_raw": langs,
        "prompt": [prompt for prompt, _ in texts],
        "response": [response for _, response in texts],
        "history": [json.dumps(HISTORY)] * len(langs),
        "task": tasks,
        "source": ["made"] * len(langs),
        "group": [None] * len(langs),
        "script": ["Latn"] * len(langs),
    }
    cells: dict[tuple[str, str], int] = {}
    for cell in zip(langs, tasks, strict=True):
        cells[cell] = cells.get(cell, 0) + 1
    summary = {
        "languages": dict(sorted(made.sizes().items())),
        "cells": [[lang, task, count] for (lang, task), count in sorted(cells.items())],
        "heldout_rows": 17,
        "warnings": [f"3 rows were left out: {HOSTILE}"],
    }
    made.publish("corpus", _shards(attempt, "corpus", columns, tables.CORPUS), summary, attempt)


def _audit(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    langs = dict(zip(facts["ids"], facts["langs"], strict=True))
    english = [i for i in facts["ids"] if langs[i] == "en"] or facts["ids"]
    other = facts["ids"][-1]
    columns = {
        "id": [*english[:4], facts["ids"][0]],
        "lang": [*(langs[i] for i in english[:4]), langs[facts["ids"][0]]],
        "finding": ["near_duplicate"] * 4 + ["degenerate"],
        "detail": [f"0.91 like {other} {HOSTILE}"] * 4 + [f"damaged {HOSTILE}"],
        "other_id": [other] * 4 + [None],
        "other_lang": [langs[other]] * 4 + [None],
        "score": [0.91] * 4 + [None],
    }
    counts: dict[str, dict[str, int]] = {"exact_duplicate": {}, "near_duplicate": {}, "degenerate": {}}
    for lang, finding in zip(columns["lang"], columns["finding"], strict=True):
        counts[finding][lang] = counts[finding].get(lang, 0) + 1
    summary = {"rows": len(langs) + 17, "counts": counts, "warnings": ["findings in the rows: 5"]}
    made.publish("audit", _shards(attempt, "findings", columns, tables.FINDINGS), summary, attempt)


def _vectors(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    count = len(facts["ids"])
    flat = pa.array(facts["vectors"].reshape(-1))
    columns = {
        "id": facts["ids"],
        "lang": facts["langs"],
        "vector": pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        "n_tokens": [20] * count,
        "truncated": [False] * count,
        "lang_raw": facts["langs"],
        "task": [TASKS[i % 3] for i in range(count)],
        "script": ["Latn"] * count,
        "fed_hash": pa.array(range(count), pa.uint64()),
    }
    summary = {
        "languages": dict(sorted(made.sizes().items())),
        "width": WIDTH,
        "tokens": 20 * count,
        "quality": {
            lang: {"rows": rows, "tokens": 20 * rows, "truncated": 1, "norm_least": 1, "norm_mean": 2, "norm_most": 3}
            for lang, rows in sorted(made.sizes().items())
        },
        "duplicates": {},
        "warnings": [],
    }
    records = _shards(attempt, "vectors", columns, tables.vectors_schema(WIDTH, "float32"))
    made.publish("vectors", records, summary, attempt)


def _scores(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    vectors, langs = facts["vectors"].astype(np.float64), np.array(facts["langs"])
    score = silhouette_samples(vectors, facts["langs"])
    centres = np.stack([vectors[langs == lang].mean(axis=0) for lang in made.languages])
    distance = np.linalg.norm(vectors[:, None] - centres[None], axis=2)
    distance[langs[:, None] == np.array(made.languages)[None]] = np.inf
    nearest = np.array(made.languages)[distance.argmin(axis=1)]
    facts["score"] = dict(zip(facts["ids"], score.tolist(), strict=True))
    columns = {
        "id": facts["ids"],
        "lang": facts["langs"],
        "separability": score,
        "a": np.ones(len(score)),
        "b": np.ones(len(score)),
        "nearest_lang": nearest,
    }
    sizes = dict(sorted(made.sizes().items()))
    means = {lang: float(score[langs == lang].mean()) for lang in sizes}
    summary = {"languages": sizes, "mean_by_language": means, "mean": float(score.mean())}
    made.publish("scores", _shards(attempt, "scores", columns, tables.SCORES), summary, attempt)


def _quota(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    counts = {lang: count // 6 for lang, count in sorted(made.sizes().items())}
    columns = {"lang": list(counts), "task": [None] * len(counts), "count": list(counts.values())}
    records = _shards(attempt, "quota", columns, tables.QUOTA)
    settings = LanguagesSettings(strategy="geo", k=len(counts) - 2)
    choice = choose_from_corpus(settings, made.sizes(), seed=made.seed)
    summary = {"counts": counts, "available": made.sizes(), "binding": True}
    made.publish("quota", records, {**summary, "languages": choice_record(choice, settings, seed=made.seed)}, attempt)


def _ranked(facts: dict[str, Any], lang: str) -> list[str]:
    own = [i for i, of in zip(facts["ids"], facts["langs"], strict=True) if of == lang]
    return sorted(own, key=lambda i: -facts["score"][i])


def _choose(made: Made, attempt: Any, facts: dict[str, Any], table: str, divisor: int) -> None:
    chosen = {lang: _ranked(facts, lang)[: size // divisor] for lang, size in sorted(made.sizes().items())}
    ids = [i for of in chosen.values() for i in of]
    columns = {
        "id": ids,
        "lang": [lang for lang, of in chosen.items() for _ in of],
        "rank": [rank for of in chosen.values() for rank in range(len(of))],
        "score": [facts["score"][i] for i in ids],
        "method": ["random"] * len(ids),
    }
    facts[table] = ids
    summary = {"languages": {lang: len(of) for lang, of in chosen.items()}}
    made.publish(table, _shards(attempt, table, columns, tables.CHOSEN), summary, attempt)


def _pool(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    _choose(made, attempt, facts, "pool", 3)


def _subset(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    _choose(made, attempt, facts, "subset", 6)


def _order(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    ids = sorted(facts["subset"], key=lambda i: facts["score"][i])
    columns = {
        "id": ids,
        "position": range(len(ids)),
        "lang": [i.partition(":")[0] for i in ids],
        "task": [TASKS[at % 3] for at in range(len(ids))],
        "level": [at * 5 // len(ids) for at in range(len(ids))],
    }
    made.publish("order", _shards(attempt, "order", columns, tables.ORDER), {"rows": len(ids)}, attempt)


def _tokens(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    ids = facts["subset"]
    rows = [
        {"step": at * STEPS // len(ids), "input_ids": [1] * 90, "labels": [1] * 90, "segment_lengths": [90],
         "positions": [at], "ids": [i], "langs": [i.partition(":")[0]]}
        for at, i in enumerate(ids)
    ]  # fmt: skip
    record = attempt.write_table("tokens", 0, pa.Table.from_pylist(rows, schema=tables.TOKENS))
    tokens = 90 * len(ids)
    summary = {"samples": len(ids), "tokens": tokens, "trained_tokens": tokens // 2, "row_fill": 0.9}
    made.publish("tokens", [record], summary, attempt)


def heldout_losses(languages: list[str]) -> list[dict[str, Any]]:
    """Losses that fall further from language to language; the last one's rises."""
    losses = []
    for done in range(0, STEPS + 1, STEPS // 4):
        part = 1 - np.exp(-done / 20)
        fall = {lang: 2 * (k + 1) / len(languages) for k, lang in enumerate(languages)}
        fall[languages[-1]] = -0.25
        by_lang = {lang: 4 - 0.3 * k / len(languages) - fall[lang] * part for k, lang in enumerate(languages)}
        losses.append({"steps": done, "loss": float(np.mean(list(by_lang.values()))), "loss_by_lang": by_lang})
    return losses


def _model(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
    noise = facts["generator"].normal(0, 0.15, STEPS)
    lines = [
        {
            "step": step,
            "loss": 3.1 * np.exp(-step / 40) + 1.2 + noise[step],
            "learning_rate": 2e-4 * (1 - step / STEPS),
            "tokens": 900,
            "tokens_per_second": 800.0,
            "loss_by_lang": {
                lang: 3.0 * np.exp(-step / 40) + 1 + 0.2 * k + noise[step] for k, lang in enumerate(made.languages)
            },
        }
        for step in range(STEPS)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    heldout = "".join(json.dumps(line) + "\n" for line in heldout_losses(made.languages))
    records = [
        attempt.write_file("adapter", 0, "adapter_model.safetensors", b"weights"),
        attempt.write_file("log", 0, "log.jsonl", text.encode()),
        attempt.write_file("heldout_loss", 0, "heldout_loss.jsonl", heldout.encode()),
    ]
    summary = {
        "steps": STEPS, "workers": 2, "zero": 2, "method": "lora", "resumed_from": None, "exported": STEPS,
        "tokens_per_second": 1234.5, "share_of_machine_rate": 0.45, "memory_gb": 2.34,
    }  # fmt: skip
    made.publish("model", records, summary, attempt)


def _results(model: str, gain: float) -> Callable[[Made, Any, dict[str, Any]], None]:
    def write(made: Made, attempt: Any, facts: dict[str, Any]) -> None:
        # The base model's luck on each item is the tuned one's too, as with real models.
        luck = np.random.default_rng(made.seed + 1)
        records = []
        tasks = [(f"{kind}_{lang}", lang) for lang in made.languages for kind in ("xcopa", "belebele")]
        for cell, (task, lang) in enumerate(tasks):
            items, chance = 40, luck.random(40)
            right = {metric: (chance < 0.42 + 0.05 * k + gain).astype(float) for k, metric in enumerate(METRICS)}
            right["f1"] = np.full(items, np.nan)
            shared = {"model": model, "task": task, "lang": lang, "split": "test"}
            rows = [
                {**shared, "metric": metric, "value": value, "ci_low": value - 0.14, "ci_high": value + 0.14,
                 "n": items, "seed": made.seed}
                for metric, value in ((m, 0.3 + gain if m == "f1" else float(right[m].mean())) for m in right)
            ]  # fmt: skip
            prompt, answer = TEXTS.get(lang, (f"Question in {lang}", f"Answer in {lang}"))
            answers = [
                {**shared, "item": item, "metric": metric, "value": value, "prompt": f"{prompt}\n({item})",
                 "answer": f"{answer} {HOSTILE}", "target": answer,
                 "group": f"{item}" if task.startswith("xcopa") else None}
                for metric, values in right.items() for item, value in enumerate(values.tolist())
            ]  # fmt: skip
            records.append(attempt.write_table("results", cell, _table(rows, tables.RESULTS)))
            records.append(attempt.write_table("items", cell, _table(answers, tables.ITEMS)))
        made.publish(f"results_{model}", records, {"languages": sorted(made.languages)}, attempt)

    return write


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    known = {entry.name: entry.type for entry in schema}
    return pa.table({name: pa.array([row[name] for row in rows], known.get(name)) for name in rows[0]})


def measured(store: Store, choices: dict[str, tuple[str, str]], name: str = "diversity") -> Artifact:
    """A published diversity of these choices and of everything: made-up numbers, in two languages and over all."""
    rows = []
    for number, (method, candidates) in enumerate([("everything", "corpus"), *choices.values()]):
        given = {"method": method, "candidates": candidates, "corpus_rows": 90, "ngrams_1": 70, "ngrams_2": 60}
        facts = {"n": 90 - number, "separability": number / 10, "similarity": 0.4 + number / 50, "distinct_1": 0.5}
        for lang in ("en", "sw", None):
            more = {"distinct_2": 0.75, "coverage": number * 1.5, "mean_tokens": 33.0, "sampled": lang == "sw"}
            rows.append({**given, **facts, **more, "lang": lang})
    # Of one row there are no pairs.
    rows[4] |= {"n": 1, "similarity": None}
    attempt = store.attempt("diversity", name)
    records = [attempt.write_table("diversity", 0, pa.Table.from_pylist(rows, schema=tables.DIVERSITY))]
    summary = {"languages": {"en": 90, "sw": 90}, "sampled": ["sw"]}
    return attempt.publish(records, settings={"choices": choices}, inputs={}, version=1, summary=summary)


EXPERIMENT = {
    "name": "made-run",
    "storage": "s3://someone:hunter2@bucket/place?region=eu&secret_key=hunter3",
    "model": {"path": "/models/tiny-llama", "template": "auto"},
    "preselect": {"rho": 0.33, "band": "high"},
    "selection": {"method": "random"},
    "curriculum": {"kind": "ascending"},
}


def run_stage(published: dict[str, Artifact], store: Store, cluster: Any, progress: Any, **settings: Any) -> bytes:
    """Run the real stage over `published` and give the page."""
    from raysel.report.settings import ReportSettings
    from raysel.report.stage import run
    from raysel.stage import StageRun

    attempt = store.attempt("report", "0" * 24)
    given = {
        "report": ReportSettings(map_samples=settings.pop("map_samples", 300)),
        "name": "made-run",
        "seed": 5,
        "experiment": EXPERIMENT,
        **settings,
    }
    output = run(StageRun(given, published, {}, attempt, cluster, progress))
    [record] = output.records
    assert (record.table, record.path.rsplit("/", 1)[-1]) == ("report", "report.html")
    assert record.summary == output.summary
    return attempt.read_bytes(record)


def made_page(published: dict[str, Artifact], **facts: Any) -> bytes:
    """The page of `published`, without the stage around it."""
    from raysel.report.gather_stage import gather
    from raysel.report.page import make_page
    from raysel.report.settings import ReportSettings

    findings = gather(published, ReportSettings(map_samples=300), seed=5)
    return make_page(findings, **{"name": "made-run", "experiment": EXPERIMENT, "seed": 5, **facts}).html
