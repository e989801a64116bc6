"""Which of the samples that are held out are looked at, where not all of them are."""

from collections.abc import Iterable
from typing import Any

from raysel.seeding import draw


def drawn_first(rows: Iterable[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` of the rows, in the order in which they are drawn.

    It depends on their ids alone: the held-out loss of training and evaluation see the same ones, under every seed, and
    fewer of them are the first of more.
    """
    return sorted(rows, key=lambda row: draw(0, f"heldout {row['id']}"))[:most]
