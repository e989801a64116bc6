"""How many rows of each language are trained on, and in what order."""

from typing import Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from raysel.settings import Section

Quota = Literal["everything", "proportional", "even", "temperature", "counts", "pivot"]
# Which settings each kind of quota reads beside tasks, unseen, parallel and shortfall.
READ_BY: dict[str, tuple[Quota, ...]] = {
    "total": ("proportional", "even", "temperature"),
    "temperature": ("temperature",),
    "counts": ("counts",),
    "pivot": ("pivot",),
    "pivot_rows": ("pivot",),
    "rows_per_language": ("pivot",),
}


class MixtureSettings(Section):
    """The quota: how many rows of each of the chosen languages are trained on (docs/mixtures.md).

    quota: `everything` in the pool; total rows shared out in proportion to what there is (`proportional`), as many of
    each language (`even`: total // languages, arXiv 2410.07809) or by `temperature`; `counts` as written; or `pivot`:
    much of one language, little of each other one (arXiv 2504.16677).
    total: rows of all languages together, for proportional, even and temperature; or, as 0.05, a share of the corpus'
    rows in these languages.
    temperature: T: in proportion to rows ** (1 / T); 1 is proportional, a high one nearly even.
    counts: rows of each language, `{en: 500, sw: 50}`, or of each language and task, `{en: {qa: 300}}`.
    pivot: the language of pivot_rows.
    pivot_rows: rows of the pivot.
    rows_per_language: rows of each other language beside the pivot.
    tasks: only these are trained on, and what is counted is counted for each of them (`counts` names its own); left
    open, tasks are not told apart.
    unseen: languages kept for evaluation only.
    parallel: the same items (source, task, group) in every language; where counts differ, the smaller choice is part of
    the larger.
    shortfall: what happens where a count cannot be met: it is refused, all there is is taken, or rows are repeated.
    """

    quota: Quota = "everything"
    total: int | float | None = None
    temperature: float | None = Field(None, gt=0)
    counts: dict[str, NonNegativeInt | dict[str, NonNegativeInt]] = {}
    pivot: str = "en"
    pivot_rows: int | None = Field(None, ge=0)
    rows_per_language: int | None = Field(None, ge=0)
    tasks: list[str] | None = Field(None, min_length=1)
    unseen: list[str] = []
    parallel: bool = False
    shortfall: Literal["refuse", "take_all", "repeat"] = "refuse"

    @field_validator("total")
    @classmethod
    def rows_or_a_share(cls, total: int | float | None) -> int | float | None:
        if isinstance(total, float) and not 0 < total <= 1:
            raise ValueError("a share of the corpus is above 0 and at most 1.0; rows are a whole number, as 500")
        if isinstance(total, int) and total < 1:
            raise ValueError("at least 1 row, or a share of the corpus between 0 and 1, as 0.05")
        return total

    @model_validator(mode="after")
    def quota_has_what_it_needs(self) -> "MixtureSettings":
        needed = [name for name, quotas in READ_BY.items() if self.quota in quotas]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"quota {self.quota} needs {' and '.join(missing)}")
        if self.quota == "counts" and not any(sum(_by_task(count).values()) for count in self.counts.values()):
            raise ValueError("quota counts needs counts, e.g. {en: 100, sw: 50}, with at least one above 0")
        if self.quota == "pivot" and not self.pivot_rows and not self.rows_per_language:
            raise ValueError("quota pivot with pivot_rows 0 and rows_per_language 0 trains on nothing")
        return self

    @model_validator(mode="after")
    def counts_tell_tasks_apart_or_do_not(self) -> "MixtureSettings":
        kinds = {type(count) for count in self.counts.values()}
        if len(kinds) > 1:
            raise ValueError("counts gives some languages one number and others one for each task: choose one form")
        if kinds and self.tasks is not None and self.quota == "counts":
            raise ValueError("tasks beside counts: name the tasks in counts, e.g. {en: {qa: 100}}, and leave tasks out")
        return self

    @model_validator(mode="after")
    def parallel_items_are_counted(self) -> "MixtureSettings":
        if self.parallel and self.quota in ("everything", "proportional", "temperature"):
            raise ValueError(f"parallel items need counts to be filled: quota even, counts or pivot, not {self.quota}")
        return self

    @property
    def by_task(self) -> bool:
        """Whether each task is counted on its own."""
        if self.quota == "counts":
            return any(isinstance(count, dict) for count in self.counts.values())
        return self.tasks is not None

    def wanted(self) -> dict[tuple[str, str | None], int]:
        """`counts` by language, as written, and task."""
        return {(lang, task): n for lang, count in self.counts.items() for task, n in _by_task(count).items()}

    def without_effect(self) -> list[str]:
        given = self.model_fields_set
        idle = [
            f"{name}: the quota is {self.quota}"
            for name, quotas in READ_BY.items()
            if name in given and getattr(self, name) not in (None, {}) and self.quota not in quotas
        ]
        if "shortfall" in given and self.shortfall != "refuse" and self.quota == "everything":
            idle.append("shortfall: the quota is everything there is")
        return idle


def _by_task(count: int | dict[str, int]) -> dict[str | None, int]:
    return {None: count} if isinstance(count, int) else dict(count.items())


class LossAwareSettings(Section):
    """How a loss-aware curriculum chooses (docs/mixtures.md has the rule): a block takes from each level in proportion
    to what is left of it times (its recent loss / the levels' mean) ** strength.

    strength: above 0 turns to what is still hard, below 0 to what is learned well; 0 keeps the levels in proportion.
    block_steps: optimizer steps of one block.
    memory: what is kept of the recent loss when a block is added to it.
    """

    strength: float = Field(2.0, ge=-20, le=20)
    block_steps: int = Field(4, ge=1)
    memory: float = Field(0.5, ge=0, lt=1)


LEVELLED = ("balanced", "staged", "loss_aware")


class CurriculumSettings(Section):
    """The order of training (docs/mixtures.md). Levels are quantiles of each language's separability, 0 the lowest.

    kind: `random`; by separability `ascending` or `descending`; `balanced` over levels; `staged`, group of levels after
    group; `loss_aware`: the share of each level follows its training loss; or `replay` of a trained_order.
    levels: how many.
    within_level: shuffled or sorted by score; left open, ascending and descending sort over all rows, the others
    shuffle.
    stages: the groups of levels of kind staged, e.g. `[[4], [2, 3], [0, 1]]` (none: level after level from 0 on).
    mix_in: the share of each stage that is taken from all levels alike.
    repetition: every epoch has the same order, or is shuffled anew within its levels.
    trained_order: what kind replay follows: a Parquet file, or the folder of a model that was trained by a loss-aware
    curriculum.
    """

    kind: Literal["random", "ascending", "descending", "balanced", "staged", "loss_aware", "replay"] = "random"
    levels: int = Field(5, ge=1)
    within_level: Literal["shuffled", "sorted"] | None = None
    stages: list[list[int]] = []
    mix_in: float = Field(0.0, ge=0, lt=1)
    repetition: Literal["same", "reshuffled"] = "same"
    loss_aware: LossAwareSettings = LossAwareSettings()
    trained_order: str | None = None

    @model_validator(mode="after")
    def kind_has_what_it_needs(self) -> "CurriculumSettings":
        named = sorted(level for stage in self.stages for level in stage)
        if self.kind == "staged" and self.stages and named != list(range(self.levels)):
            raise ValueError(
                f"kind staged needs stages that name each level from 0 to {self.levels - 1} once, "
                f"e.g. {[[level] for level in range(self.levels)]} (found {self.stages})"
            )
        if self.kind == "replay" and self.trained_order is None:
            raise ValueError("kind replay needs trained_order, the order to follow")
        if self.repetition == "reshuffled" and self.kind in ("loss_aware", "replay"):
            raise ValueError(f"repetition reshuffled: kind {self.kind} has an order of its own in every epoch")
        return self

    @property
    def has_levels(self) -> bool:
        return self.kind in LEVELLED or (self.kind in ("ascending", "descending") and self.within_level == "shuffled")

    @property
    def read(self) -> set[str]:
        """The settings that this kind goes by."""
        reads = {
            "levels": self.has_levels,
            "within_level": self.kind in (*LEVELLED, "ascending", "descending"),
            "stages": self.kind == "staged",
            "mix_in": self.kind == "staged",
            "loss_aware": self.kind == "loss_aware",
            "trained_order": self.kind == "replay",
            "repetition": self.kind == "random" or (self.has_levels and self.kind != "loss_aware"),
        }
        return {"kind", *(name for name, is_read in reads.items() if is_read)}

    def without_effect(self) -> list[str]:
        return [
            f"{name}: the kind is {self.kind}"
            for name in type(self).model_fields
            if name in self.model_fields_set - self.read and getattr(self, name) not in (None, [], "same")
        ]
