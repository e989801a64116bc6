"""The same items in every language."""

import random

import pyarrow as pa
import pyarrow.compute as pc


def common_items(rows: pa.Table, languages: int) -> pa.Table:
    """The items that occur in each of so many languages, in order of source and group: source, group.

    rows: id, lang, source, group, all of one task and of those languages. A row without a group is no common item.
    """
    grouped = rows.filter(pc.is_valid(rows["group"]))
    counted = grouped.group_by(["source", "group"]).aggregate([("lang", "count_distinct")])
    everywhere = counted.filter(pc.equal(counted["lang_count_distinct"], languages)).select(["source", "group"])
    return everywhere.sort_by([("source", "ascending"), ("group", "ascending")])


def choose_items(items: pa.Table, count: int, *, seed: int) -> pa.Table:
    """`count` of the items, drawn as arXiv 2410.07809 draws them: source, group and `place` in the draw, from 0 on."""
    drawn = random.Random(seed).sample(range(items.num_rows), count)
    return items.take(pa.array(drawn, pa.int64())).append_column("place", pa.array(range(count), pa.int64()))


def rows_of_items(rows: pa.Table, chosen: pa.Table, counts: dict[str, int]) -> pa.Table:
    """The row of each language for the first `counts[lang]` of the chosen items: id, lang.

    Where a language has an item several times, the first of its rows by id stands for it.
    """
    found = rows.select(["id", "lang", "source", "group"]).join(chosen, ["source", "group"], join_type="inner")
    one = found.group_by(["lang", "place"]).aggregate([("id", "min")])
    wanted = [counts[lang] for lang in one["lang"].to_pylist()]
    within = one.filter(pc.less(one["place"], pa.array(wanted, pa.int64())))
    return within.select(["id_min", "lang"]).rename_columns(["id", "lang"]).sort_by("id")
