"""The planned steps, read shard by shard, and each worker's part of them as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from raysel.store import Artifact
from raysel.training.examples import IGNORED


@dataclass(frozen=True)
class Step:
    """One optimizer step: the token rows (as `tables.TOKENS` says) that it trains on, all of them."""

    step: int
    rows: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(int(np.count_nonzero(row["labels"] != IGNORED)) for row in self.rows)

    @property
    def positions(self) -> list[int]:
        return sorted(position for row in self.rows for position in row["positions"])

    @property
    def ids(self) -> list[str]:
        return [name for row in self.rows for name in row["ids"]]

    def share(self, rank: int, world: int) -> list[dict[str, Any]]:
        """Rows rank, rank + world, ...: as many for every rank, so that collective operations match.

        A rank with fewer rows gets rows of two tokens of which none is learned.
        """
        own = self.rows[rank::world]
        return own + [empty_row(self.rows[0])] * (-(-len(self.rows) // world) - len(own))


def empty_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_ids": row["input_ids"][:2],
        "labels": np.full_like(row["labels"][:2], IGNORED),
        "segment_lengths": [len(row["input_ids"][:2])],
        "positions": [],
        "ids": [],
        "langs": row["langs"][:1],
    }


def read_steps(tokens: Artifact, first_step: int, *, of: str = "tokens") -> Iterator[Step]:
    """The steps of table `of` from `first_step` on, in order; one shard is in memory at a time."""
    for shard in tokens.shards(of):
        if shard.summary["last_step"] < first_step:
            continue
        table = tokens.read_shard(shard)
        columns = {name: table[name].to_pylist() for name in ("step", "segment_lengths", "positions", "ids", "langs")}
        columns |= {name: table[name].to_numpy(zero_copy_only=False) for name in ("input_ids", "labels")}
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        for step, members in groupby(rows, key=lambda row: row["step"]):
            if step >= first_step:
                yield Step(step, list(members))


def collate(rows: Sequence[dict[str, Any]], langs: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
    """Rows as int64 (B, T) tensors: input_ids, labels, position_ids (from 0 in every sample) and lang (its index).

    What fills a shorter row is a sample of its own, of which nothing is learned.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    filled = {name: np.zeros((len(rows), longest), dtype=np.int64) for name in ("input_ids", "position_ids", "lang")}
    filled["labels"] = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for at, row in enumerate(rows):
        tokens, lengths = len(row["input_ids"]), row["segment_lengths"]
        filled["input_ids"][at, :tokens] = row["input_ids"]
        filled["labels"][at, :tokens] = row["labels"]
        positions = [np.arange(length) for length in (*lengths, longest - tokens)]
        filled["position_ids"][at] = np.concatenate(positions)
        filled["lang"][at, :tokens] = np.repeat([langs.index(lang) for lang in row["langs"]], lengths)
    return {name: torch.from_numpy(values).to(device) for name, values in filled.items()}


def groups(rows: Sequence[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    """The rows that go through the model together, `size` at most."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
