"""Which selector fills the quota from the pool, and what it goes by."""

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from raysel.corpus.settings import COLUMNS
from raysel.settings import Section, execution
from raysel.training.settings import WarmupSettings

OWN = ("random", "kmc", "dsir", "less")


class TargetSettings(Section):
    """The samples that DSIR and LESS want more of the like (docs/selection.md).

    of: the samples that the corpus holds out (`heldout`); the development items of evaluation.tasks (`evaluation`); or
    `files` of your own.
    path: where such files are; they are read as a corpus is.
    preset: as corpus.preset, for these files.
    columns: as corpus.columns, for these files.
    lang_from: as corpus.lang_from, for these files.
    subtask: the column that divides the target for LESS, which goes by the subtask that a sample helps most; files may
    name their own in the column `task`.
    samples: at most so many of each subtask, drawn by seed (null: all).
    """

    of: Literal["heldout", "evaluation", "files"] = "heldout"
    path: str | None = None
    preset: Literal["aya", "bactrian_x", "xp3", "alpaca", "sharegpt", "messages"] | None = None
    columns: dict[Literal[COLUMNS], str] = {}  # type: ignore[valid-type]
    lang_from: Literal["column", "file", "folder"] | None = None
    subtask: Literal["lang", "task", "source"] = "lang"
    samples: int | None = Field(256, ge=1)

    @model_validator(mode="after")
    def files_are_somewhere(self) -> "TargetSettings":
        if (self.path is None) == (self.of == "files"):
            raise ValueError("of files and path go together: give both or neither")
        return self

    def without_effect(self) -> list[str]:
        reading = ("preset", "columns", "lang_from")
        idle = [name for name in reading if name in self.model_fields_set and self.of != "files"]
        return [f"{name}: says how files are read, and the target is {self.of}" for name in idle]


class KmcSettings(Section):
    """k-means over the vectors.

    clusters: left open, there are as many as rows are wanted, and of each the member closest to its centroid is taken
    (kM-Closest of arXiv 2409.11378); a number of them gives each a share in proportion to its size, drawn by seed.
    """

    clusters: int | None = Field(None, ge=1)


class DsirSettings(Section):
    """Importance of hashed uni- and bigrams (Xie et al. 2023).

    tokenizer: `unicode` words, and characters in scripts that put no spaces between words; `characters` everywhere; or
    `wordpunct`, that of the package data-selection.
    buckets: how many the n-grams are hashed into.
    target: one for all, or each language's own target for its samples (`lang`).
    sampling: a draw in proportion to the weights (`gumbel`), or the largest ones (`top`).
    min_tokens: a shorter sample is not chosen (data-selection: 100).
    smoothing: added to the target's count of every bucket.
    """

    tokenizer: Literal["unicode", "characters", "wordpunct"] = "unicode"
    buckets: int = Field(10_000, ge=2, le=1 << 20)
    target: Literal["all", "lang"] = "all"
    sampling: Literal["gumbel", "top"] = "gumbel"
    min_tokens: int = Field(0, ge=0)
    smoothing: float = Field(0.0, ge=0)


class LessSettings(Section):
    """Influence by low-rank gradients (Xia et al. 2024, LESS): adapters are trained on a part of the corpus first; with
    the adapters and Adam moments of each epoch of that, the gradients of every sample of the pool and of the target
    are taken, projected and compared.

    dimensions: numbers that a gradient is projected to.
    token_budget: padded tokens that go through the model at once (left open: 4,096, on GPUs 16,384).
    workers: replicas of the model (left open: one per GPU, without GPUs two).
    """

    warmup: WarmupSettings = WarmupSettings()
    dimensions: int = Field(8192, ge=1)
    token_budget: int | None = execution(None, ge=1)
    workers: int | None = execution(None, ge=1)


class SelectionSettings(Section):
    """The selector: which rows of the pool fill the quota (docs/selection.md).

    method: `random`, `kmc` (k-means over the vectors), `dsir`, `less`, or a selector of your own as
    `package.module:Class`.
    candidates: the pool, or the whole corpus with no regard to separability.
    stratify: each language (and task) of the quota is filled on its own (`lang`), or only the total is kept (`none`).
    tokens: a budget in tokens as the vectors count them, in place of the mixture's rows.
    settings: of a selector of your own: what its class is made with.
    compare: these methods are run as well, on the whole corpus and on the pool ("LangGPS + X"), for the report's table
    of overlaps.
    """

    method: str = Field("random", pattern=r"^(random|kmc|dsir|less|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    candidates: Literal["pool", "corpus"] = "pool"
    stratify: Literal["lang", "none"] = "lang"
    tokens: int | None = Field(None, ge=1)
    target: TargetSettings = TargetSettings()
    kmc: KmcSettings = KmcSettings()
    dsir: DsirSettings = DsirSettings()
    less: LessSettings = LessSettings()
    settings: dict[str, JsonValue] = {}
    compare: list[Literal["random", "kmc", "dsir", "less"]] = []

    @property
    def methods(self) -> set[str]:
        return {self.method, *self.compare}

    def without_effect(self) -> list[str]:
        idle = [
            f"{name}: the method is {self.method}"
            for name in ("kmc", "dsir", "less")
            if name in self.model_fields_set and name not in self.methods
        ]
        if "target" in self.model_fields_set and not self.methods & {"dsir", "less"}:
            idle.append(f"target: the method {self.method} has none")
        if self.settings and self.method in OWN:
            idle.append(f"settings: for a selector of your own, and the method is {self.method}")
        return idle
