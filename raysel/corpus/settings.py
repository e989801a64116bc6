"""Where the samples are and how they are read."""

from typing import Literal

from pydantic import Field

from raysel.settings import Section, execution

COLUMNS = ("id", "lang", "prompt", "response", "messages", "system", "task", "source", "group")


class CorpusSettings(Section):
    """A JSONL, JSONL.gz or Parquet file, a folder of them, or a Hugging Face dataset by name.

    columns maps the names used here to those of the source, e.g. `{prompt: instruction, response: output}`; a column
    that is not named keeps its own name. A source without an `id` column gets `<file name>:<row number>`.
    Where a row has `messages` (Hugging Face's or ShareGPT's list, or its JSON text), they take the place of prompt and
    response; `system` is put before either kind of row as a system message.
    heldout is the share of items (source, task, group) that is split off before anything is scored.
    """

    path: str | None = None
    dataset_split: str = "train"
    columns: dict[Literal[COLUMNS], str] = {}  # type: ignore[valid-type]
    heldout: float = Field(0.05, ge=0, lt=1)
    empty: Literal["refuse", "drop"] = "refuse"
    shard_rows: int = execution(2048, ge=1, le=100_000)
