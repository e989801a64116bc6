"""Rows brought into the corpus table, and the held-out split."""

from hypothesis import given
from hypothesis import strategies as st

from raysel.corpus.rows import heldout_mask, standardise
from raysel.tables import CORPUS

GOOD = {"id": "a", "lang": "swh", "prompt": "Habari?", "response": "Nzuri."}


def table_of(rows: list[dict], **options: object) -> tuple:
    defaults = {"columns": {}, "location": "f.jsonl", "name": "f", "source": "c", "drop_empty": False}
    return standardise(rows, list(range(1, len(rows) + 1)), **{**defaults, **options})


def test_columns_are_mapped_and_missing_ones_filled_in() -> None:
    row = {"instruction": "Habari?", "output": "Nzuri.", "language": "Swahili", "category": "chat"}
    columns = {"prompt": "instruction", "response": "output", "lang": "language", "task": "category"}
    table, problems, dropped = table_of([row], columns=columns)
    assert table.schema == CORPUS
    assert table.to_pylist() == [
        {"id": "f:1", "lang": "sw", "lang_raw": "Swahili", "prompt": "Habari?", "response": "Nzuri.",
         "task": "chat", "source": "c", "group": None, "script": "Latn"}
    ]  # fmt: skip
    assert (problems.counts, dropped) == ({}, 0)


def test_what_is_wrong_is_counted_and_named() -> None:
    rows = [GOOD, {"id": "b", "lang": "xx", "prompt": "p", "response": "r"}, {**GOOD, "response": " "}, {"text": "t"},
            {**GOOD, "prompt": 7}]  # fmt: skip
    table, problems, _ = table_of(rows)
    assert table.num_rows == 1
    text = "\n".join(problems.lines())
    assert "missing column 'lang', 'prompt', 'response' (found: text;" in text
    assert "unknown language 'xx'" in text
    assert "empty prompt or response" in text
    assert "not text" in text
    assert "f.jsonl, row 4" in text


def test_half_a_surrogate_pair_is_named_not_a_crash() -> None:
    table, problems, _ = table_of([GOOD, {**GOOD, "prompt": "cut \ud83d"}])
    assert table.num_rows == 1
    assert "not valid Unicode" in problems.lines()[0]
    assert "row 2" in problems.lines()[0]


def test_a_wrong_column_does_not_print_a_line_for_every_row() -> None:
    _, problems, _ = table_of([{**GOOD, "lang": f"no language {i}"} for i in range(500)])
    lines = problems.lines()
    assert len(lines) < 12
    assert sum(problems.counts.values()) == 500


def test_empty_rows_can_be_dropped() -> None:
    table, problems, dropped = table_of([GOOD, {**GOOD, "prompt": ""}], drop_empty=True)
    assert (table.num_rows, dropped, dict(problems.counts)) == (1, 1, {})


@given(st.floats(0, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_an_item_goes_the_same_way_in_every_language_and_every_shard(share: float, seed: int, random: object) -> None:
    rows = [
        {**GOOD, "id": f"{lang}{i}", "lang": lang, "group": f"g{i}", "source": "s", "task": "t"}
        for i in range(20)
        for lang in ("en", "sw", "th")
    ]
    side = dict(zip((r["id"] for r in rows), heldout_mask(table_of(rows)[0], share=share, seed=seed), strict=True))
    for i in range(20):
        assert side[f"en{i}"] == side[f"sw{i}"] == side[f"th{i}"]
    random.shuffle(rows)
    half = rows[:30]
    again = heldout_mask(table_of(half)[0], share=share, seed=seed)
    assert again == [side[row["id"]] for row in half]


def test_about_the_share_is_held_out_and_none_at_zero() -> None:
    table = table_of([{**GOOD, "id": f"r{i}"} for i in range(4000)])[0]
    assert not any(heldout_mask(table, share=0, seed=0))
    assert 150 < sum(heldout_mask(table, share=0.05, seed=0)) < 250
