"""A planted fault: samples that answer in another language. Selection by language separability must leave them out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from raysel.seeding import draw

Row = Mapping[str, Any]


def confused(rows: Sequence[dict[str, Any]], share: float, *, seed: int) -> list[dict[str, Any]]:
    """The rows, `share` of them with the response of a row in another language: of the same item where there is one,
    else of the same task, else of any.

    Which rows and whose responses depends on their ids, the languages and `seed` alone. Raises ValueError for rows of
    one language.
    """
    if len({row["lang"] for row in rows}) < 2:
        raise ValueError("responses in another language need a corpus of at least two languages")
    of: dict[Any, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: str(row["id"])):
        for key in _keys(row):
            of[key][row["lang"]].append(row)
    found = []
    for row in rows:
        if draw(seed, f"confused {row['id']}") < share:
            langs = next(of[key] for key in _keys(row) if len(of[key]) > 1)
            row = {**row, "response": _drawn(langs, row["lang"], draw(seed, f"response for {row['id']}"))["response"]}
        found.append(row)
    return found


def _keys(row: Row) -> list[Any]:
    """What a row has in common with others, the closest first."""
    item = [("item", row["source"], row["task"], row["group"])] if row["group"] is not None else []
    return [*item, ("task", row["task"]), ("any",)]


def _drawn(langs: Mapping[str, list[Row]], own: str, unit: float) -> Row:
    """One of the rows that are not of the language `own`, by a number in [0, 1)."""
    others = {lang: rows for lang, rows in sorted(langs.items()) if lang != own}
    at = int(unit * sum(map(len, others.values())))
    for rows in others.values():
        if at < len(rows):
            return rows[at]
        at -= len(rows)
    raise ValueError(f"no row is in another language than {own}")
