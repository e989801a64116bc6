"""A planted fault: samples that answer in one other language. Selection by language separability must leave them out.

All in one language, so that who trains on them learns less of their own. With the responses of any other language each
language is learned as well as before, only under other languages' prompts: the bits per byte of the demonstration
corpus then differed by 0.009 ± 0.025.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from raysel.seeding import draw

Row = Mapping[str, Any]


def confused(rows: Sequence[dict[str, Any]], share: float, *, seed: int) -> list[dict[str, Any]]:
    """The rows, `share` of those in all other languages with the response of a row in the language that has most (the
    first by code of several): of the same item where there is one, else of the same task, else of any.

    Which rows and whose responses depends on their ids, the languages and `seed` alone. Raises ValueError for rows of
    one language.
    """
    counts = Counter(row["lang"] for row in rows)
    if len(counts) < 2:
        raise ValueError("responses in another language need a corpus of at least two languages")
    into = min(counts, key=lambda lang: (-counts[lang], lang))
    of: dict[Any, list[Row]] = defaultdict(list)
    for row in sorted((row for row in rows if row["lang"] == into), key=lambda row: str(row["id"])):
        for key in _keys(row):
            of[key].append(row)
    found = []
    for row in rows:
        if row["lang"] != into and draw(seed, f"confused {row['id']}") < share:
            others = next(of[key] for key in _keys(row) if key in of)
            taken = others[int(draw(seed, f"response for {row['id']}") * len(others))]
            row = {**row, "response": taken["response"]}
        found.append(row)
    return found


def _keys(row: Row) -> list[Any]:
    """What a row has in common with others, the closest first."""
    item = [("item", row["source"], row["task"], row["group"])] if row["group"] is not None else []
    return [*item, ("task", row["task"]), ("any",)]
