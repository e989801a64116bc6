"""Stage `quota`: rows to train on for each language, from the corpus's counts alone."""

import pyarrow as pa

from raysel.languages.codes import normalise
from raysel.languages.corpus_choice import choice_record, choose_from_corpus
from raysel.mixture.quota import QuotaError, proportional
from raysel.mixture.settings import MixtureSettings
from raysel.stage import StageOutput, StageRun
from raysel.tables import QUOTA


def run(run: StageRun) -> StageOutput:
    mixture: MixtureSettings = run.settings["mixture"]
    rows, seed = run.inputs["corpus"].summary["languages"], run.settings["seed"]
    choice = choose_from_corpus(run.settings["languages"], rows, seed=seed)
    available = {lang: rows[lang] for lang in choice.languages}
    if mixture.quota == "counts":
        counts = _explicit(mixture.counts, available)
    elif mixture.quota == "proportional":
        counts = proportional(available, mixture.total or 0)
    else:
        counts = available
    kept = {lang: count for lang, count in sorted(counts.items()) if count > 0}
    table = pa.table({"lang": list(kept), "task": [None] * len(kept), "count": list(kept.values())}, schema=QUOTA)
    record = run.attempt.write_table("quota", 0, table)
    summary = {
        "counts": kept,
        "available": {lang: available[lang] for lang in kept},
        # With no quota given, everything in the pool is trained on (LangGPS): the counts bind nothing.
        "binding": mixture.quota != "everything",
        "languages": choice_record(choice, run.settings["languages"], seed=seed),
    }
    return StageOutput([record], summary)


def _explicit(wanted: dict[str, int], available: dict[str, int]) -> dict[str, int]:
    counts = {normalise(name): count for name, count in wanted.items()}
    if len(counts) < len(wanted):
        raise QuotaError(f"mixture.counts names a language twice: {', '.join(wanted)} are {', '.join(counts)}")
    _refuse_absent("mixture.counts", list(counts), available)
    short = [
        f"{lang}: wanted {n:,}, available {available[lang]:,}" for lang, n in counts.items() if n > available[lang]
    ]
    if short:
        raise QuotaError("mixture.counts asks for more than the corpus has:\n  " + "\n  ".join(short))
    return counts


def _refuse_absent(setting: str, codes: list[str], available: dict[str, int]) -> None:
    absent = [code for code in codes if code not in available]
    if absent:
        raise QuotaError(f"{setting} names {', '.join(absent)}, which the corpus does not have: {', '.join(available)}")
