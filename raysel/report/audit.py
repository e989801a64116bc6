"""What the audit of the corpus found, and a few of the rows that it found it in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundRow:
    """A row with a finding. other: the row that it repeats, with its texts, or the evaluation item, without."""

    finding: str
    id: str
    lang: str
    detail: str
    prompt: str
    response: str
    other_id: str | None
    other_lang: str | None
    other_prompt: str | None
    other_response: str | None


@dataclass(frozen=True)
class Audit:
    """rows: how many were looked at, the held-out ones too; counts: finding -> rows by language, every check that was
    made; dropped: the same of what was left out, each row under one finding."""

    rows: int
    counts: dict[str, dict[str, int]]
    dropped: dict[str, dict[str, int]]
    examples: list[FoundRow]

    def languages(self) -> list[str]:
        """Those with a finding, most findings first."""
        totals: dict[str, int] = {}
        for of in self.counts.values():
            for lang, count in of.items():
                totals[lang] = totals.get(lang, 0) + count
        return sorted(totals, key=lambda lang: (-totals[lang], lang))
