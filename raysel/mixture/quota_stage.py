"""Stage `quota`: rows to train on for each language, from the corpus's counts alone."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.apportionment import largest_remainder
from raysel.languages.codes import normalise
from raysel.languages.corpus_choice import choice_record, choose_from_corpus
from raysel.languages.settings import LanguagesSettings
from raysel.mixture.parallel import choose_items, common_items, rows_of_items, with_items
from raysel.mixture.quota import Cell, QuotaError, around_pivot, cell_name, even, proportional, settle, tempered
from raysel.mixture.settings import MixtureSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import PARALLEL, QUOTA


def run(run: StageRun) -> StageOutput:
    """Write table `quota`; with parallel items, also `parallel`: the rows of the items that were drawn.

    The summary has counts and available (rows by language), cells (language, task or null, count, available), by_task,
    binding (false where everything is trained on), parallel, shortfall, unseen and languages (how they were chosen);
    warnings name what falls short.
    """
    mixture: MixtureSettings = run.settings["mixture"]
    corpus = run.inputs["corpus"]
    languages: LanguagesSettings = run.settings["languages"]
    choice = choose_from_corpus(languages, _seen(corpus, languages, mixture), seed=run.settings["seed"])
    available = _available(corpus.summary["cells"], choice.languages, mixture)
    if not any(available.values()):
        raise QuotaError("the chosen languages have no row of the tasks that mixture names")
    wanted = {cell: count for cell, count in _wanted(mixture, available).items() if count}
    records = []
    if mixture.parallel:
        parallel = run.cluster.run_task(write_parallel, mixture, wanted, run.settings["seed"], corpus, run.attempt)
        records.append(parallel)
        available = {(lang, task): n for lang, task, n in parallel.summary["available"]}
    of = "items that all these languages have" if mixture.parallel else "rows"
    counts = {cell: n for cell, n in sorted(settle(wanted, available, mixture.shortfall, of=of).items()) if n}
    if mixture.parallel:
        # Nothing is left to choose from: the items of each language are settled.
        available = {cell: min(count, available[cell]) for cell, count in counts.items()}
    columns = {"lang": [lang for lang, _ in counts], "task": [task for _, task in counts], "count": [*counts.values()]}
    records.insert(0, run.attempt.write_table("quota", 0, pa.table(columns, schema=QUOTA)))
    summary = {
        "counts": _by_language(counts),
        "available": _by_language({cell: available[cell] for cell in counts}),
        "cells": [[lang, task, n, available[lang, task]] for (lang, task), n in counts.items()],
        "by_task": mixture.by_task,
        # With no quota given, everything in the pool is trained on (LangGPS): the counts bind nothing.
        "binding": mixture.quota != "everything",
        "parallel": mixture.parallel,
        "shortfall": mixture.shortfall,
        "unseen": [normalise(name) for name in mixture.unseen],
        "languages": choice_record(choice, languages, seed=run.settings["seed"]),
        "warnings": [
            f"{cell_name(*cell)}: wanted {count:,} {of}, available {available.get(cell, 0):,}: "
            + ("rows are repeated" if cell in counts and mixture.shortfall == "repeat" else "all of them are taken")
            for cell, count in wanted.items()
            if count > available.get(cell, 0)
        ],
    }
    return StageOutput(records, summary)


def _seen(corpus: Artifact, languages: LanguagesSettings, mixture: MixtureSettings) -> dict[str, int]:
    """Rows by language, without the unseen ones, which are not there to be chosen."""
    unseen = {normalise(name) for name in mixture.unseen}
    _refuse_absent("mixture.unseen", sorted(unseen), corpus.summary["languages"], "the corpus does not have")
    asked = {
        "languages.chosen": languages.chosen if languages.strategy == "chosen" else [],
        "mixture.counts": [lang for (lang, _), n in mixture.wanted().items() if n] if mixture.quota == "counts" else [],
    }
    for setting, names in asked.items():
        both = sorted(unseen & {normalise(name) for name in names})
        if both:
            raise QuotaError(f"mixture.unseen names {', '.join(both)}, which {setting} trains on")
    seen = {lang: rows for lang, rows in corpus.summary["languages"].items() if lang not in unseen}
    if not seen:
        raise QuotaError("mixture.unseen leaves no language to train on")
    return seen


def _available(cells: list[list[Any]], languages: list[str], mixture: MixtureSettings) -> dict[Cell, int]:
    """Rows of each language, and of each asked task where tasks are told apart."""
    tasks = mixture.tasks
    if mixture.quota == "counts" and mixture.by_task:
        tasks = sorted({task for _, task in mixture.wanted() if task is not None})
    known = sorted({task for _, task, _ in cells if task is not None})
    absent = [task for task in tasks or [] if task not in known]
    if absent:
        raise QuotaError(
            f"mixture names the tasks {', '.join(absent)}, which the corpus does not have: {', '.join(known) or 'none'}"
        )
    asked = tasks if mixture.by_task and tasks else [None]
    found: Counter[Cell] = Counter({(lang, task): 0 for lang in languages for task in asked})
    for lang, task, rows in cells:
        if lang in languages and (tasks is None or task in tasks):
            found[lang, task if mixture.by_task else None] += rows
    return dict(found)


def _wanted(mixture: MixtureSettings, available: dict[Cell, int]) -> dict[Cell, int]:
    total = _total(mixture, available)
    match mixture.quota:
        case "proportional":
            # What is more than all there is is settled language by language.
            return (proportional if mixture.shortfall == "refuse" else largest_remainder)(available, total)
        case "even":
            return even(available, total)
        case "temperature":
            return tempered(available, total, mixture.temperature or 1.0)
        case "pivot":
            pivot = normalise(mixture.pivot)
            if mixture.pivot_rows and pivot not in {lang for lang, _ in available}:
                raise QuotaError(f"mixture.pivot {mixture.pivot!r} is not among the languages that are trained on")
            rows = {"pivot_rows": mixture.pivot_rows or 0, "rows": mixture.rows_per_language or 0}
            return around_pivot(available, pivot=pivot, **rows)
        case "counts":
            return _explicit(mixture, {lang for lang, _ in available})
    return available


def _total(mixture: MixtureSettings, available: dict[Cell, int]) -> int:
    """mixture.total in rows. `QuotaError` for a share of the corpus that is not one row."""
    if not isinstance(mixture.total, float):
        return mixture.total or 0
    rows = sum(available.values())
    if not (total := round(mixture.total * rows)):
        raise QuotaError(f"mixture.total {mixture.total:g} of {rows:,} rows is less than one row")
    return total


def _explicit(mixture: MixtureSettings, languages: set[str]) -> dict[Cell, int]:
    codes = [normalise(name) for name in mixture.counts]
    if len(set(codes)) < len(codes):
        raise QuotaError(f"mixture.counts names a language twice: {', '.join(mixture.counts)} are {', '.join(codes)}")
    _refuse_absent("mixture.counts", codes, sorted(languages), "is not among the languages to train on")
    return {(normalise(lang), task): count for (lang, task), count in mixture.wanted().items()}


def _by_language(counts: dict[Cell, int]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (lang, _), count in counts.items():
        totals[lang] += count
    return dict(totals)


def write_parallel(
    mixture: MixtureSettings, wanted: dict[Cell, int], seed: int, corpus: Artifact, attempt: Attempt
) -> ShardRecord:
    """Ray task: draw the items and write their rows; the summary's `available` counts the common items by cell."""
    languages = sorted({lang for lang, _ in wanted})
    columns = ["id", "lang", "source", "group", "task"]
    rows = with_items(corpus.read("corpus", columns, filters=pc.field("lang").isin(languages)))
    parts, available = [], []
    for task in sorted({task for _, task in wanted}, key=str):
        of_task = rows if task is None else rows.filter(pc.equal(rows["task"], task))
        langs = [lang for lang in languages if (lang, task) in wanted]
        items = common_items(of_task.filter(pc.is_in(of_task["lang"], pa.array(langs))), len(langs))
        available += [[lang, task, items.num_rows] for lang in langs]
        counts = {lang: min(wanted[lang, task], items.num_rows) for lang in langs}
        chosen = choose_items(items, max(counts.values()), seed=seed)
        parts.append(rows_of_items(of_task, chosen, counts).cast(PARALLEL))
    return attempt.write_table("parallel", 0, pa.concat_tables(parts), summary={"available": available})


def _refuse_absent(setting: str, codes: list[str], known: Iterable[str], why: str) -> None:
    absent = [code for code in codes if code not in known]
    if absent:
        raise QuotaError(f"{setting} names {', '.join(absent)}, which {why}: {', '.join(known)}")
