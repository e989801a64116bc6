"""Bringing the source's rows into the corpus table, and splitting off the held-out items."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raysel.corpus.conversations import ConversationError, conversation
from raysel.corpus.presets import Layout, language_of_path
from raysel.corpus.settings import COLUMNS
from raysel.languages.codes import LanguageError, normalise
from raysel.languages.scripts import script_of
from raysel.seeding import draw
from raysel.tables import CORPUS

EXAMPLES_KEPT = 5
KINDS_SHOWN = 8
KINDS_KEPT = 100


@dataclass
class Problems:
    """What is wrong with the rows, counted by kind, with the first few named."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        if kind not in self.counts and len(self.counts) >= KINDS_KEPT:
            kind = "something else"
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(example)

    def merge(self, other: "Problems") -> None:
        self.counts.update(other.counts)
        for kind, examples in other.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept.extend(examples[: EXAMPLES_KEPT - len(kept)])

    def lines(self) -> list[str]:
        """One line a kind: how many, and the first few."""
        listed = []
        for kind, count in self.counts.most_common(KINDS_SHOWN):
            shown = self.examples[kind]
            more = f", and {count - len(shown):,} more" if count > len(shown) else ""
            listed.append(f"{count:,} x {kind}: {'; '.join(shown)}{more}")
        left = sum(self.counts.values()) - sum(count for _, count in self.counts.most_common(KINDS_SHOWN))
        return listed + ([f"and {left:,} more rows with something wrong"] if left else [])


def standardise(
    rows: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    *,
    layout: Layout,
    location: str,
    name: str,
    source: str,
    drop_empty: bool,
    section: str = "corpus",
) -> tuple[pa.Table, Problems, int]:
    """The corpus table of `rows`, what is wrong with them, and how many empty ones were dropped.

    numbers are the rows' numbers in `location`; `source` stands in for a missing source, and `<name>:<number>` for a
    missing `id`. section: of the experiment file, where the settings are that say how the rows are read.
    """
    problems = Problems()
    named = {column: layout.columns.get(column, column) for column in COLUMNS}
    lang_of_path = language_of_path(location, layout.lang_from)
    out: dict[str, list[Any]] = {column: [] for column in CORPUS.names}
    dropped = 0
    for row, number in zip(rows, numbers, strict=True):
        where = f"{location}, row {number}"
        given = {column: row.get(name) if name is not None else None for column, name in named.items()}
        needed = ("prompt", "response") if given["messages"] is None else ()
        absent = [named[column] for column in needed if named[column] not in row]
        if lang_of_path is None and named["lang"] not in row:
            absent = [named["lang"], *absent]
        if absent:
            problems.add(
                f"missing column {', '.join(map(repr, absent))} (found: {', '.join(sorted(map(str, row)))}; "
                f"map them with {section}.columns, or name a {section}.preset)",
                where,
            )
            continue
        more = row.get(layout.input) if layout.input is not None else None
        if isinstance(more, str) and more.strip() and isinstance(given["prompt"], str):
            given["prompt"] = f"{given['prompt']}\n\n{more}"
        try:
            messages = conversation(*(given[column] for column in ("messages", "prompt", "response", "system")))
        except ConversationError as error:
            problems.add(str(error), where)
            continue
        lang = lang_of_path if given["lang"] is None else given["lang"]
        texts = [message["content"] for message in messages]
        if any(value is not None and not isinstance(value, str) for value in (*texts, lang)):
            problems.add("prompt, response, another message or lang that is not text", where)
            continue
        if not all(_encodable(value) for value in (*texts, lang)):
            problems.add("text that is not valid Unicode (half a surrogate pair)", where)
            continue
        if not all((text or "").strip() for text in texts):
            if drop_empty:
                dropped += 1
            else:
                remedy = " (corpus.empty: drop leaves such rows out)" if section == "corpus" else ""
                problems.add(f"empty prompt or response, or earlier message{remedy}", where)
            continue
        try:
            code = normalise(lang or "")
        except LanguageError as error:
            problems.add(str(error), where)
            continue
        *history, prompt, response = messages
        out["id"].append(f"{name}:{number}" if given["id"] is None else str(given["id"]))
        out["lang"].append(code)
        out["lang_raw"].append(lang)
        out["prompt"].append(prompt["content"])
        out["response"].append(response["content"])
        out["history"].append(json.dumps(history, ensure_ascii=False) if history else None)
        out["script"].append(script_of(f"{prompt['content']} {response['content']}"))
        out["source"].append(str(given["source"] or source))
        for column in ("task", "group"):
            out[column].append(None if given[column] is None else str(given[column]))
    return pa.table(out, schema=CORPUS), problems, dropped


def _encodable(text: str | None) -> bool:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def heldout_mask(table: pa.Table, *, share: float, seed: int) -> list[bool]:
    """Which rows are held out: about `share` of the items, chosen by a seeded hash of the item.

    An item is (source, task, group), so the same item in other languages goes the same way; a row without a group is
    an item of its own. The choice needs no other row: any shard alone gives it.
    """
    mask = []
    for identity, source, task, group in zip(
        *(table[name].to_pylist() for name in ("id", "source", "task", "group")), strict=True
    ):
        item = f"id\0{identity}" if group is None else f"item\0{source}\0{task}\0{group}"
        mask.append(draw(seed, item) < share)
    return mask
