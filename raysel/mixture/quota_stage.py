"""Stage `quota`: rows to train on for each language, from the corpus's counts alone."""

import random

import pyarrow as pa

from raysel.languages.codes import normalise
from raysel.languages.settings import LanguagesSettings
from raysel.mixture.quota import QuotaError, proportional
from raysel.mixture.settings import MixtureSettings
from raysel.stage import StageOutput, StageRun
from raysel.tables import QUOTA


def run(run: StageRun) -> StageOutput:
    mixture: MixtureSettings = run.settings["mixture"]
    available = _chosen(run.settings["languages"], run.inputs["corpus"].summary["languages"], run.settings["seed"])
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
    }
    return StageOutput([record], summary)


def _chosen(languages: LanguagesSettings, available: dict[str, int], seed: int) -> dict[str, int]:
    if languages.strategy == "all":
        return dict(available)
    if languages.strategy == "random":
        if (languages.k or 0) > len(available):
            raise QuotaError(f"languages.k {languages.k} is more than the corpus's {len(available)} languages")
        return {lang: available[lang] for lang in random.Random(seed).sample(sorted(available), languages.k or 0)}
    codes = [normalise(name) for name in languages.chosen]
    _refuse_absent("languages.chosen", codes, available)
    return {code: available[code] for code in codes}


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
