"""A planted fault: samples that answer in another language. Selection by language separability must leave them out."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from raysel.seeding import draw


def confused(rows: Sequence[dict[str, Any]], share: float, *, seed: int) -> list[dict[str, Any]]:
    """The rows, `share` of them with the response of a row in another language: of the same item where there is one,
    else of the same task, else of any.

    Which rows and whose responses depends on their ids, the languages and `seed` alone. Raises ValueError for rows of
    one language.
    """
    by_item: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: str(row["id"])):
        for key in (("item", row["source"], row["task"], row["group"]), ("task", row["task"]), ("any",)):
            if key[0] != "item" or row["group"] is not None:
                by_item[key].append(row)
    if len({row["lang"] for row in rows}) < 2:
        raise ValueError("responses in another language need a corpus of at least two languages")
    found = []
    for row in rows:
        if draw(seed, f"confused {row['id']}") >= share:
            found.append(row)
            continue
        keys = (("item", row["source"], row["task"], row["group"]), ("task", row["task"]), ("any",))
        others = next(
            of for key in keys if (of := [other for other in by_item.get(key, []) if other["lang"] != row["lang"]])
        )
        taken = others[int(draw(seed, f"response for {row['id']}") * len(others))]
        found.append({**row, "response": taken["response"]})
    return found
