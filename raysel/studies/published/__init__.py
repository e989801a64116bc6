"""What the three papers published, as rows. A figure that is not known is absent or None, never filled in."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeVar, get_args, get_type_hints

from raysel.errors import UserError

File = Literal[
    "transfer.csv", "language_strategy.csv", "language_count.csv", "monolingual.csv", "untuned.csv", "selectors.csv"
]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Source:
    """Where the numbers of a file are from. where: the tables or figures; note: what the numbers are."""

    arxiv: str
    title: str
    where: str
    note: str

    def caption(self, where: str = "") -> str:
        """The line below a figure; `where` names the one table of several."""
        return f"{self.title} (arXiv {self.arxiv}), {where or self.where}"


@dataclass(frozen=True)
class TransferRow:
    """One score of one checkpoint. task: IF (rating 1 to 5), SM (ROUGE-L) or MR (accuracy); model: `7B`, `35B` or
    `Llama 8B`; mixture: `single` task, `multi`, or the languages of a script study; per_language: samples of each
    trained language beside English, in `multi` of each task too."""

    table: int
    task: str
    model: str
    mixture: str
    per_language: int
    lang: str
    value: float


@dataclass(frozen=True)
class TransferTable:
    """One table of the guide. values: samples per language -> language -> score, both in the table's order."""

    table: int
    task: str
    model: str
    mixture: str
    values: dict[int, dict[str, float]]

    @property
    def caption(self) -> str:
        """Where the table is from."""
        return source("transfer.csv").caption(f"Table {self.table}")


@dataclass(frozen=True)
class StrategyRow:
    """A model tuned on 14 languages (52 with `all`). task: a benchmark, or `average` of the five; mean over three runs
    in percent; margin: half the width of its 95% interval."""

    model: str
    strategy: str
    task: str
    mean: float
    margin: float


@dataclass(frozen=True)
class CountRow:
    """A model tuned on so many languages, chosen by geography. The rest as in `StrategyRow`."""

    model: str
    languages: int
    task: str
    mean: float
    margin: float


@dataclass(frozen=True)
class MonolingualRow:
    """A model tuned on Vietnamese alone (`vi`) or on a subset of 14 languages. task: `average` of the five benchmarks
    or `vietnamese`, the mean of XNLI and XCOPA in Vietnamese. The rest as in `StrategyRow`."""

    model: str
    trained_on: str
    task: str
    mean: float
    margin: float


@dataclass(frozen=True)
class UntunedRow:
    """A model before tuning: accuracy in percent."""

    model: str
    task: str
    value: float


@dataclass(frozen=True)
class SelectorRow:
    """The relative gain of a selector in percent. chosen_from: `all` rows or the `LangGPS pool`; tasks: None where the
    tasks of the average are not known."""

    model: str
    selector: str
    chosen_from: str
    tasks: str | None
    gain_percent: float


@cache
def source(file: File) -> Source:
    """Where a file's numbers are from. Raises UserError for another name."""
    for row in _lines("sources.csv"):
        if row["file"] == file:
            return Source(row["arxiv"], row["title"], row["where"], row["note"])
    raise UserError(f"{file!r} is no file of published figures: there are {', '.join(get_args(File))}")


@cache
def transfer() -> tuple[TransferRow, ...]:
    """Tables 3 to 23 of the guide, in their order."""
    return _rows(TransferRow, "transfer.csv")


def transfer_table(number: int) -> TransferTable:
    """One table of the guide. Raises UserError where there is none of this number."""
    rows = [row for row in transfer() if row.table == number]
    if not rows:
        raise UserError(f"table {number} is none of the guide's tables of scores: take 3 to 23")
    values: dict[int, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row.per_language, {})[row.lang] = row.value
    return TransferTable(number, rows[0].task, rows[0].model, rows[0].mixture, values)


def language_strategies() -> tuple[StrategyRow, ...]:
    """Five models by seven ways to choose languages."""
    return _rows(StrategyRow, "language_strategy.csv")


def language_counts() -> tuple[CountRow, ...]:
    """BLOOM-7B1 and mGPT by the number of languages, the rows of a run constant."""
    return _rows(CountRow, "language_count.csv")


def monolingual() -> tuple[MonolingualRow, ...]:
    """Vietnamese alone against subsets of 14 languages."""
    return _rows(MonolingualRow, "monolingual.csv")


def untuned() -> tuple[UntunedRow, ...]:
    """Three models before tuning."""
    return _rows(UntunedRow, "untuned.csv")


def selectors() -> tuple[SelectorRow, ...]:
    """The gains of selectors with and without a LangGPS pool, as far as they are known."""
    return _rows(SelectorRow, "selectors.csv")


def _rows(of: type[Row], file: File) -> tuple[Row, ...]:
    kinds = get_type_hints(of)
    return tuple(of(**{name: _value(kinds[name], text) for name, text in row.items()}) for row in _lines(file))


def _value(kind: object, text: str) -> int | float | str | None:
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    return text or None


def _lines(file: str) -> Iterator[dict[str, str]]:
    text = files(__package__).joinpath(file).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())
