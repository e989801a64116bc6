"""The same items in every language. An item is (source, task, group)."""

import random

import pyarrow as pa
import pyarrow.compute as pc

ITEM = ["source", "task", "group"]


def with_items(rows: pa.Table) -> pa.Table:
    """rows: id, lang, source, task, group. Those that are of an item, with an empty task where it is null: nulls do not
    join."""
    grouped = rows.filter(pc.is_valid(rows["group"]))
    task = pc.fill_null(grouped["task"], "")
    return grouped.set_column(grouped.schema.get_field_index("task"), "task", task)


def common_items(rows: pa.Table, languages: int) -> pa.Table:
    """The items (source, task, group) that occur in each of so many languages, in their order.

    rows: as `with_items` gives them, all of those languages.
    """
    counted = rows.group_by(ITEM).aggregate([("lang", "count_distinct")])
    everywhere = counted.filter(pc.equal(counted["lang_count_distinct"], languages)).select(ITEM)
    return everywhere.sort_by([(name, "ascending") for name in ITEM])


def choose_items(items: pa.Table, count: int, *, seed: int) -> pa.Table:
    """`count` of the items, drawn as arXiv 2410.07809 draws them, with their `place` in the draw, from 0 on."""
    drawn = random.Random(seed).sample(range(items.num_rows), count)
    return items.take(pa.array(drawn, pa.int64())).append_column("place", pa.array(range(count), pa.int64()))


def rows_of_items(rows: pa.Table, chosen: pa.Table, counts: dict[str, int]) -> pa.Table:
    """The row of each language for the first `counts[lang]` of the chosen items: id, lang, place.

    rows: as `with_items` gives them. Where a language has an item several times, the first of its rows by id stands
    for it.
    """
    found = rows.select(["id", "lang", *ITEM]).join(chosen, ITEM, join_type="inner")
    one = found.group_by(["lang", "place"]).aggregate([("id", "min")])
    wanted = [counts.get(lang, 0) for lang in one["lang"].to_pylist()]
    within = one.filter(pc.less(one["place"], pa.array(wanted, pa.int64())))
    return within.select(["id_min", "lang", "place"]).rename_columns(["id", "lang", "place"]).sort_by("id")
