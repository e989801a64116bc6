"""Quotas: shares add up, and what the corpus lacks is refused."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.mixture.parallel import choose_items, common_items, rows_of_items, with_items
from raysel.mixture.quota import QuotaError, around_pivot, even, proportional, settle, tempered


@given(st.dictionaries(st.sampled_from(["ar", "en", "sw", "th", "zh"]), st.integers(1, 500), min_size=1), st.data())
def test_shares_add_up_and_follow_what_there_is(available: dict[str, int], data: st.DataObject) -> None:
    rows = sum(available.values())
    total = data.draw(st.integers(1, rows))
    counts = proportional(available, total)
    assert sum(counts.values()) == total
    for lang, count in counts.items():
        assert count <= available[lang]
        assert abs(count - total * available[lang] / rows) < 1


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(QuotaError, match="11 is more than the 10 rows"):
        proportional({"en": 4, "sw": 6}, 11)


cells = st.dictionaries(
    st.tuples(st.sampled_from(["ar", "en", "sw", "th", "zh"]), st.sampled_from(["qa", "math"])),
    st.integers(0, 500),
    min_size=1,
).filter(lambda rows: any(rows.values()))


@given(cells, st.integers(1, 1000), st.floats(0.5, 50))
def test_a_temperature_lies_between_proportional_and_even(available: dict, total: int, temperature: float) -> None:
    counts = tempered(available, total, temperature)
    assert sum(counts.values()) == total
    assert all(counts[cell] == 0 for cell, rows in available.items() if rows == 0)
    weight = {cell: rows ** (1 / temperature) for cell, rows in available.items() if rows}
    for cell, own in weight.items():
        assert abs(counts[cell] - total * own / sum(weight.values())) < 1.01


def test_even_shares_leave_the_remainder() -> None:
    langs = [(f"l{i:02d}", None) for i in range(14)]
    assert set(even(langs, 67_017).values()) == {4786}
    with pytest.raises(QuotaError, match="leaves no row for each of 14"):
        even(langs, 13)


def test_a_pivot_has_its_own_count() -> None:
    langs = [(lang, task) for lang in ("en", "es", "fr", "ja", "zh") for task in ("if", "math", "sum")]
    counts = around_pivot(langs, pivot="en", pivot_rows=5000, rows=1500)
    # 15k of English and 1,500 of each other language, for each of three tasks (arXiv 2504.16677).
    assert sum(n for (lang, _), n in counts.items() if lang == "en") == 15_000
    assert sum(counts.values()) == 15_000 + 4 * 3 * 1500


def test_a_shortfall_is_refused_taken_or_repeated() -> None:
    wanted, available = {("en", None): 10, ("sw", None): 8, ("yo", None): 2}, {("en", None): 20, ("sw", None): 3}
    with pytest.raises(QuotaError, match=r"sw: wanted 8, available 3\n  yo: wanted 2, available 0"):
        settle(wanted, available, "refuse")
    assert settle(wanted, available, "take_all") == {("en", None): 10, ("sw", None): 3, ("yo", None): 0}
    with pytest.raises(QuotaError, match="yo: wanted 2, available 0") as refused:
        settle(wanted, available, "repeat")
    assert "sw" not in str(refused.value).split("\n")[1]
    assert settle({("sw", None): 8}, available, "repeat") == {("sw", None): 8}


def parallel_rows(langs: str = "abc", items: int = 40) -> pa.Table:
    """Every language lacks some items, and a has one of them twice."""
    rows = [
        {"id": f"{lang}-{i}", "lang": lang, "source": "s", "task": None, "group": str(i)}
        for n, lang in enumerate(langs)
        for i in range(items)
        if i % 10 != n
    ]
    rows.append({"id": "a-0-again", "lang": "b", "source": "s", "task": None, "group": "9"})
    rows.append({"id": "none", "lang": "a", "source": "s", "task": None, "group": None})
    # Another task's item of the same number is another item.
    rows.append({"id": "a-other", "lang": "a", "source": "s", "task": "qa", "group": "1"})
    schema = pa.schema([(name, pa.string()) for name in ("id", "lang", "source", "task", "group")])
    return with_items(pa.Table.from_pylist(rows, schema=schema))


@pytest.mark.parametrize("seed", [0, 42])
def test_parallel_items_are_the_same_in_every_language(seed: int) -> None:
    rows = parallel_rows()
    items = common_items(rows, 3)
    assert items.num_rows == 28
    chosen = choose_items(items, 20, seed=seed)
    assert chosen["group"].to_pylist() == [items["group"][i].as_py() for i in random.Random(seed).sample(range(28), 20)]
    found = rows_of_items(rows, chosen, {"a": 20, "b": 20, "c": 5}).to_pylist()
    group = {row["id"]: row["group"] for row in rows.to_pylist()}
    of = {lang: {group[row["id"]] for row in found if row["lang"] == lang} for lang in "abc"}
    assert of["a"] == of["b"] == set(chosen["group"].to_pylist())
    assert len(found) == 45
    assert of["c"] == set(chosen["group"].to_pylist()[:5])
    shuffled = rows.take(np.random.default_rng(0).permutation(rows.num_rows))
    again = choose_items(common_items(shuffled, 3), 20, seed=seed)
    assert rows_of_items(shuffled, again, {"a": 20, "b": 20, "c": 5}).to_pylist() == found
