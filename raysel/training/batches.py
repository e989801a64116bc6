"""The planned steps, read shard by shard, and each worker's part of them as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from raysel.store import Artifact
from raysel.tables import SOURCE_IDS, TOKENS
from raysel.training.examples import IGNORED


@dataclass(frozen=True)
class Step:
    """One optimizer step: the token rows (as `tables.TOKENS` says) that it trains on, all of them."""

    step: int
    rows: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) + len(row.get("source_ids", ())) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(int(np.count_nonzero(row["labels"] != IGNORED)) for row in self.rows)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Position, id, lang, task and level of each sample, in order of position."""
        names = {"positions": "position", "ids": "id", "langs": "lang", "tasks": "task", "levels": "level"}
        found = [
            dict(zip(names.values(), values, strict=True))
            for row in self.rows
            for values in zip(*(row[column] for column in names), strict=True)
        ]
        return sorted(found, key=lambda sample: sample["position"])

    @property
    def positions(self) -> list[int]:
        return [sample["position"] for sample in self.samples]

    @property
    def ids(self) -> list[str]:
        return [name for row in self.rows for name in row["ids"]]

    def share(self, rank: int, world: int) -> list[dict[str, Any]]:
        """Rows rank, rank + world, ...: as many for every rank, so that collective operations match.

        A rank with fewer rows gets rows of two tokens (and two for an encoder) of which none is learned.
        """
        own = self.rows[rank::world]
        return own + [empty_row(self.rows[0])] * (-(-len(self.rows) // world) - len(own))


def empty_row(row: dict[str, Any]) -> dict[str, Any]:
    source = {"source_ids": row["source_ids"][:2]} if "source_ids" in row else {}
    return source | {
        "input_ids": row["input_ids"][:2],
        "labels": np.full_like(row["labels"][:2], IGNORED),
        "segment_lengths": [len(row["input_ids"][:2])],
        "positions": [],
        "ids": [],
        "langs": [],
        "tasks": [],
        "levels": [],
    }


def read_steps(tokens: Artifact, first_step: int, *, of: str = "tokens") -> Iterator[Step]:
    """The steps of table `of` from `first_step` on, in order; one shard is in memory at a time."""
    for shard in tokens.shards(of):
        if shard.summary["last_step"] < first_step:
            continue
        table = tokens.read_shard(shard)
        as_arrays = ("input_ids", "labels", *({SOURCE_IDS.name} & {*table.column_names}))
        columns = {name: table[name].to_pylist() for name in TOKENS.names if name not in as_arrays}
        columns |= {name: table[name].to_numpy(zero_copy_only=False) for name in as_arrays}
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        for step, members in groupby(rows, key=lambda row: row["step"]):
            if step >= first_step:
                yield Step(step, list(members))


def collate(rows: Sequence[dict[str, Any]], positions: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
    """Rows as int64 (B, T) tensors: input_ids, labels, position_ids (from 0 in every sample) and sample, the index of
    a token's sample in `positions`, which are in ascending order.

    What fills a shorter row is a sample of its own, of which nothing is learned. For an encoder-decoder there are
    source_ids (B, S) besides, and source_mask, 1 for a token and 0 for what fills.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    filled = {name: np.zeros((len(rows), longest), dtype=np.int64) for name in ("input_ids", "position_ids", "sample")}
    filled["labels"] = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for at, row in enumerate(rows):
        tokens, lengths = len(row["input_ids"]), row["segment_lengths"]
        filled["input_ids"][at, :tokens] = row["input_ids"]
        filled["labels"][at, :tokens] = row["labels"]
        filled["position_ids"][at] = np.concatenate([np.arange(length) for length in (*lengths, longest - tokens)])
        if row["positions"]:
            filled["sample"][at, :tokens] = np.repeat(np.searchsorted(positions, row["positions"]), lengths)
    if "source_ids" in rows[0]:
        filled |= fill_sources([row["source_ids"] for row in rows])
    return {name: torch.from_numpy(values).to(device) for name, values in filled.items()}


def fill_sources(sources: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """source_ids and source_mask, int64 (B, S), as `collate` has them."""
    ids = np.zeros((len(sources), max(map(len, sources))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, source in enumerate(sources):
        ids[at, : len(source)], mask[at, : len(source)] = source, 1
    return {"source_ids": ids, "source_mask": mask}


def groups(rows: Sequence[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    """The rows that go through the model together, `size` at most."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
