"""Rows brought into the corpus table, and the held-out split."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.corpus.files import read_batches, split_into_parts
from raysel.corpus.presets import Layout
from raysel.corpus.rows import heldout_mask, standardise
from raysel.tables import CORPUS

GOOD = {"id": "a", "lang": "swh", "prompt": "Habari?", "response": "Nzuri."}


def table_of(rows: list[dict], **options: object) -> tuple:
    layout = Layout(columns=options.pop("columns", {}))
    defaults = {"layout": layout, "location": "f.jsonl", "name": "f", "source": "c", "drop_empty": False}
    return standardise(rows, list(range(1, len(rows) + 1)), **{**defaults, **options})


def test_columns_are_mapped_and_missing_ones_filled_in() -> None:
    row = {"instruction": "Habari?", "output": "Nzuri.", "language": "Swahili", "category": "chat"}
    columns = {"prompt": "instruction", "response": "output", "lang": "language", "task": "category"}
    table, problems, dropped = table_of([row], columns=columns)
    assert table.schema == CORPUS
    assert table.to_pylist() == [
        {"id": "f:1", "lang": "sw", "lang_raw": "Swahili", "prompt": "Habari?", "response": "Nzuri.",
         "history": None, "task": "chat", "source": "c", "group": None, "script": "Latn"}
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


SYSTEM = {"role": "system", "content": "Jibu kwa ufupi."}
TURNS = [
    {"role": "user", "content": "Habari?"},
    {"role": "assistant", "content": "Nzuri."},
    {"role": "user", "content": "Jina lako?"},
    {"role": "assistant", "content": "Asha."},
]
SHAREGPT = [
    {"from": "system", "value": "Jibu kwa ufupi."},
    *({"from": ("human", "gpt")[i % 2], "value": turn["content"]} for i, turn in enumerate(TURNS)),
]


@pytest.mark.parametrize(
    ("given", "prompt", "history"),
    [
        ({"messages": TURNS}, "Jina lako?", TURNS[:2]),
        ({"messages": [SYSTEM, *TURNS]}, "Jina lako?", [SYSTEM, *TURNS[:2]]),
        ({"messages": json.dumps([SYSTEM, *TURNS])}, "Jina lako?", [SYSTEM, *TURNS[:2]]),
        ({"messages": SHAREGPT}, "Jina lako?", [SYSTEM, *TURNS[:2]]),
        ({"messages": TURNS[2:]}, "Jina lako?", None),
        ({"messages": TURNS, "prompt": "not this", "response": None}, "Jina lako?", TURNS[:2]),
        ({"messages": TURNS, "system": "Jibu kwa ufupi."}, "Jina lako?", [SYSTEM, *TURNS[:2]]),
        ({"messages": [SYSTEM, *TURNS], "system": " "}, "Jina lako?", [SYSTEM, *TURNS[:2]]),
        ({"messages": [{**SYSTEM, "content": ""}, *TURNS]}, "Jina lako?", TURNS[:2]),
        ({"messages": None, "prompt": "Jina?", "response": "Asha.", "system": "Jibu kwa ufupi."}, "Jina?", [SYSTEM]),
        ({"messages": None, "prompt": "Jina?", "response": "Asha.", "system": None}, "Jina?", None),
    ],
)
def test_a_conversation_is_its_last_two_messages_and_what_came_before(
    given: dict, prompt: str, history: list | None
) -> None:
    table, problems, dropped = table_of([{"lang": "sw", **given}])
    assert (problems.counts, dropped) == ({}, 0)
    [row] = table.to_pylist()
    assert (row["prompt"], row["response"]) == (prompt, "Asha.")
    assert (row["history"] and json.loads(row["history"])) == history
    mapped = {"messages": "conversations", "system": "instruction"}
    renamed = {mapped.get(name, name): value for name, value in given.items()}
    assert table_of([{"lang": "sw", **renamed}], columns=mapped)[0] == table


def test_a_parquet_column_of_messages_is_read(tmp_path: Path) -> None:
    """A struct has all its fields in every row, also those that only another row's messages have."""
    rows = [{"lang": "sw", "messages": [SYSTEM, *TURNS]}, {"lang": "sw", "messages": SHAREGPT}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    [part] = split_into_parts([str(tmp_path / "f.parquet")])
    [batch] = read_batches(part, 10)
    table, problems, _ = table_of(batch.rows)
    assert problems.counts == {}
    first, second = table.to_pylist()
    assert json.loads(first["history"]) == [SYSTEM, *TURNS[:2]]
    assert first["history"] == second["history"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"messages": TURNS[:3]}, "messages that end with the user's"),
        ({"messages": [SYSTEM, TURNS[0]]}, "messages that end with the user's"),
        ({"messages": []}, "messages out of turn"),
        ({"messages": [SYSTEM]}, "messages out of turn"),
        ({"messages": TURNS[1:]}, "messages out of turn"),
        ({"messages": [TURNS[0], *TURNS[:2]]}, "messages out of turn"),
        ({"messages": [*TURNS[:2], SYSTEM, *TURNS[2:]]}, "messages out of turn"),
        ({"messages": [SYSTEM, SYSTEM, *TURNS]}, "messages out of turn"),
        ({"messages": [*TURNS, {"role": "tool", "content": "42"}]}, "a message of the role 'tool'"),
        ({"messages": [{"role": 1, "content": "42"}]}, "a message of the role 1"),
        ({"messages": ["Habari?", "Nzuri."]}, 'neither {"role", "content"} nor {"from", "value"} (str)'),
        ({"messages": [{"text": "Habari?"}]}, 'neither {"role", "content"} nor {"from", "value"} (text)'),
        ({"messages": "Habari?"}, "neither a list nor the JSON text of one"),
        ({"messages": '{"role": "user"}'}, "messages that are no list (found: dict)"),
        ({"messages": [{**TURNS[0], "content": ["Habari?"]}, TURNS[1]]}, "not text"),
        ({"messages": [TURNS[0], {**TURNS[1], "content": None}]}, "empty prompt or response, or earlier message"),
        ({"messages": [{**TURNS[0], "content": " "}, *TURNS[1:]]}, "empty prompt or response, or earlier message"),
        ({"messages": json.dumps([{**TURNS[0], "content": "cut \ud83d"}, *TURNS[1:]])}, "not valid Unicode"),
        ({"messages": [SYSTEM, *TURNS], "system": "Jibu."}, "a system text beside messages that begin with a system"),
        ({"messages": TURNS, "system": 7}, "not text"),
        ({"messages": None}, "missing column 'prompt', 'response'"),
    ],
)
def test_messages_that_are_no_conversation_are_named(given: dict, problem: str) -> None:
    table, problems, _ = table_of([GOOD, {"id": "b", "lang": "sw", **given}, {"id": "c", "lang": "sw", **given}])
    assert table["id"].to_pylist() == ["a"]
    [line] = problems.lines()
    assert line.startswith("2 x ")
    assert problem in line
    assert line.endswith("f.jsonl, row 2; f.jsonl, row 3")


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
