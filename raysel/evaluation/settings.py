"""Which tasks a model is evaluated on, and how."""

from typing import Literal

from pydantic import Field

from raysel.models.settings import ModelSettings
from raysel.settings import Section, execution

# What says nothing of held-out samples.
OF_TASKS = {
    "data", "include", "exclude", "exclude_metrics", "split", "dev_share", "limit", "shots", "chat_template", "judge",
}  # fmt: skip


class EvaluationSettings(Section):
    """lm-eval task files, scored in every language (docs/evaluation.md).

    tasks: a folder with lm-eval task YAML files (searched recursively) or the name of a suite; left open, nothing is
    evaluated.
    include: globs of the names of the tasks that are scored.
    exclude: globs of the names of those that are not.
    data: a folder with files `<dataset>/<lang>.<split>.jsonl`, which the tasks of a suite read in place of the Hugging
    Face hub.
    exclude_metrics: globs of metrics that are not computed.
    split: `test` scores a task's `test_split`, `dev` its `validation_split`; a chosen task without it is refused,
    unless dev_share is given.
    dev_share: which share of the items of a task's only split are development items; the test items are the others.
    limit: scores the first items of each task.
    shots: puts that many examples before each item (left open: what the task file says).
    chat_template: puts every prompt into the model's chat template; lm-eval's default is none.
    judge: the model that rates open-ended answers, where a task asks for one.
    heldout_samples: so many samples of each language that the corpus holds out are scored as well, by the bits per byte
    of their responses (tasks `heldout_<lang>`): in every language of the corpus, whatever is trained on, always as
    development items and in the chat template. A sample is cut at 4,096 tokens, or at what the model takes in.
    models: which are evaluated: the model before training, the one after it, or both.
    batch_size: sequences per forward pass (left open: 16 on a CPU, on a GPU what fits); kept in the plan.
    workers: replicas of the model (left open: as many as the GPUs hold, without a GPU two or the number of CPUs if that
    is less).
    cpus_per_worker: CPUs of a replica (left open: they share them; with a GPU one).
    gpus_per_worker: GPUs that a replica is split over (left open: the fewest that hold the model).
    cell_timeout_minutes: a task of one language that takes longer is given up, and named at the end.
    """

    tasks: str | None = None
    include: list[str] = Field(["*"], min_length=1)
    exclude: list[str] = []
    data: str | None = None
    exclude_metrics: list[str] = []
    split: Literal["test", "dev"] = "test"
    dev_share: float | None = Field(None, gt=0, lt=1)
    limit: int | None = Field(None, ge=1)
    shots: int | None = Field(None, ge=0)
    chat_template: bool = False
    heldout_samples: int = Field(0, ge=0)
    judge: ModelSettings | None = None
    models: list[Literal["base", "tuned"]] = execution(["base", "tuned"], min_length=1)
    batch_size: int | None = execution(None, ge=1)
    workers: int | None = execution(None, ge=1)
    cpus_per_worker: int | None = execution(None, ge=1)
    gpus_per_worker: int | None = execution(None, ge=1)
    cell_timeout_minutes: float = execution(60.0, gt=0)

    def without_effect(self) -> list[str]:
        if not self.is_asked and self.model_fields_set - {"tasks", "heldout_samples"}:
            return ["tasks is not set, so nothing is evaluated and the other settings do nothing"]
        idle = sorted(OF_TASKS & self.model_fields_set) if self.is_asked and self.tasks is None else []
        return [f"{', '.join(idle)}: do nothing without tasks"] if idle else []

    @property
    def is_asked(self) -> bool:
        """Whether anything is evaluated."""
        return self.tasks is not None or self.heldout_samples > 0
