"""How many rows of each language there are, come into the pool and are selected, and how separable they are."""

from dataclasses import dataclass

from raysel.report.findings import Findings


@dataclass(frozen=True)
class SelectionRow:
    lang: str
    corpus: int
    pool: int | None
    quota: int | None
    subset: int | None
    mean_all: float | None
    mean_selected: float | None


def selection_rows(findings: Findings) -> list[SelectionRow]:
    """One row for each language, most selected first (before there is a selection, most rows)."""
    rows = []
    scored = findings.scores.languages if findings.scores else []
    for lang in {*findings.languages, *scored, *(lang for counts in findings.chosen.values() for lang in counts)}:
        counts = {
            part: findings.chosen[part].get(lang, 0) if part in findings.chosen else None
            for part in ("pool", "quota", "subset")
        }
        corpus = findings.languages.get(lang) or (findings.scores.count_of(lang) if findings.scores else 0)
        means = [scores.mean_of(lang) if scores else None for scores in (findings.scores, findings.selected_scores)]
        rows.append(SelectionRow(lang, corpus, **counts, mean_all=means[0], mean_selected=means[1]))
    return sorted(rows, key=lambda row: (-(row.subset or 0), -(row.pool or 0), -row.corpus, row.lang))
