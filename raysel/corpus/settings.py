"""Where the samples are, how they are read, and how they are audited."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from raysel.settings import Section, execution

COLUMNS = ("id", "lang", "prompt", "response", "messages", "system", "task", "source", "group")
Check = Literal[
    "exact_duplicate", "near_duplicate", "language_mismatch", "script_mismatch", "degenerate", "contamination"
]
CHECKS: tuple[Check, ...] = get_args(Check)


class AuditSettings(Section):
    """What the corpus is looked through for, and which of the findings are dropped from what comes after
    (docs/corpus.md).

    checks: what is looked for; `contamination` needs evaluation.tasks.
    drop: of these checks: rows that have such a finding are left out. Nothing is dropped unless it is named here.
    jaccard: how alike two texts are, as sets of their 5-grams of characters, to be near duplicates.
    language_probability: how sure the identification must be of another language.
    ngram: how many tokens in a row a sample shares with an evaluation item to be contaminated.
    """

    checks: list[Check] = list(CHECKS)
    drop: list[Check] = []
    jaccard: float = Field(0.8, ge=0.5, lt=1)
    language_probability: float = Field(0.7, ge=0.5, le=1)
    ngram: int = Field(13, ge=6)

    @model_validator(mode="after")
    def dropped_is_checked(self) -> "AuditSettings":
        if unchecked := [name for name in self.drop if name not in self.checks]:
            raise ValueError(f"drop names {', '.join(unchecked)}, which checks leaves out")
        return self

    def without_effect(self) -> list[str]:
        of = {"jaccard": "near_duplicate", "language_probability": "language_mismatch", "ngram": "contamination"}
        given = [name for name in of if name in self.model_fields_set and of[name] not in self.checks]
        return [f"{name}: checks leaves out {of[name]}" for name in given]

    def of_rows(self) -> list[Check]:
        """The checks of the stage `audit`, in one order however they were written."""
        return [name for name in CHECKS if name in self.checks and name != "contamination"]


class CorpusSettings(Section):
    """What the samples are read from and how (docs/corpus.md).

    path: a JSONL, JSONL.gz, JSON or Parquet file, a folder of them, or a Hugging Face dataset's name.
    dataset_split: which split of a Hugging Face dataset is read.
    preset: the columns of a known corpus; left open, it is recognised by the first row's columns, unless `columns`
    names the text.
    columns: the names used here to those of the source, e.g. `{prompt: instruction, response: output}`. A column that
    is not named keeps its own name, or the preset's. A source without an `id` column gets `<file name>:<row number>`.
    Where a row has `messages` (Hugging Face's or ShareGPT's list, or its JSON text), they take the place of prompt and
    response; `system` is put before either kind of row as a system message.
    lang_from: where a row's language is said: in a column, or for all rows of a file by the name of the file or of its
    folder (left open: as the preset has it, else in a column).
    heldout: the share of items (source, task, group) that is split off before anything is scored.
    seed: which items are held out (left open: the experiment's), so that runs with other seeds can hold out the same.
    empty: what happens where a row has an empty prompt or response: the corpus is refused, or such rows are dropped.
    shard_rows: rows of one shard of the corpus table.
    """

    path: str | None = None
    dataset_split: str = "train"
    preset: Literal["aya", "bactrian_x", "xp3", "alpaca", "sharegpt", "messages"] | None = None
    columns: dict[Literal[COLUMNS], str] = {}  # type: ignore[valid-type]
    lang_from: Literal["column", "file", "folder"] | None = None
    heldout: float = Field(0.05, ge=0, lt=1)
    seed: int | None = Field(None, ge=0, lt=2**32)
    empty: Literal["refuse", "drop"] = "refuse"
    shard_rows: int = execution(2048, ge=1, le=100_000)
    audit: AuditSettings = AuditSettings()
