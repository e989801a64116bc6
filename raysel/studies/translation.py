"""Translation pairs from items that a corpus has in several languages. Pure."""

from collections.abc import Sequence
from typing import Any

from raysel.report.formats import language_name

PIVOT = "en"


def translations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every item that English has as well: its prompt's translation from English and into it.

    A pair's language is the one that is translated into. It is the item that its prompts were, and held out with it.
    """
    english = {_item(row): row for row in rows if row["lang"] == PIVOT and row["group"] is not None}
    found = []
    for row in rows:
        other = english.get(_item(row)) if row["lang"] != PIVOT else None
        if other is not None:
            found += [_pair(other, row), _pair(row, other)]
    return found


def _item(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["source"], row["task"], row["group"]


def _pair(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    ask = f"Translate into {language_name(wanted['lang'])}:\n{given['prompt']}"
    named = f"{given['id']} to {wanted['id']}"
    return {**wanted, "id": named, "prompt": ask, "response": wanted["prompt"], "history": None}
