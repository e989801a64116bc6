"""One cell of an evaluation: a model on a task of one language, scored and published on an actor."""

import importlib.metadata
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from raysel import __version__, tables
from raysel.corpus.heldout import drawn_first
from raysel.errors import UserError
from raysel.evaluation.deadline import DeadlineError, deadline
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask
from raysel.memory_errors import MemoryShortError, told_shortage
from raysel.store import Artifact, Attempt, ShardRecord, Store

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raysel.evaluation.scores import ItemScore, MetricScore

# A prompt with shots: what the batch size on a GPU is tried with, and the most of a held-out sample that is taken in.
PROBED_TOKENS = 4096
# Texts that are null in many cells: they have one type in all.
TEXTS = dict.fromkeys(("target", "generated", "judgement"), pa.string())
HELDOUT_COLUMNS = ["id", "lang", "prompt", "response", "history", "task", "source", "group"]
# Whatever a task's templates, data or metrics can raise: it fails that cell, not the others.
CELL_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    jinja2.TemplateError,
)  # fmt: skip


@dataclass(frozen=True)
class EvaluatedModel:
    """Where a model is: `base` (a folder or an artifact) and, after training, `tuned` (a whole model or an adapter).

    template: the chat template of its tokenizer; None where nothing is put into one.
    """

    base: Artifact | str | None
    tuned: Artifact | None
    template: str | None
    trust_remote_code: bool

    @property
    def adapted(self) -> bool:
        return self.tuned is not None and bool(self.tuned.shards("adapter"))

    def folder(self, scratch: Path) -> Path:
        """The local folder of the whole model that is loaded, without an adapter."""
        source = self.base if self.tuned is None or self.adapted else self.tuned
        if source is None:
            raise ValueError("stage results needs `model`, an input or a leaf, unless `tuned` is a whole model")
        return source.local_folder("model", scratch) if isinstance(source, Artifact) else Path(source)

    def load(self, gpus: int) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        from raysel.models.loading import load_causal_lm, load_tokenizer

        with tempfile.TemporaryDirectory(prefix="raysel-models-") as scratch:
            folder = self.folder(Path(scratch))
            assert self.tuned is not None or not self.adapted
            adapter = self.tuned.local_folder("adapter", Path(scratch)) if self.tuned and self.adapted else None
            model = load_causal_lm(
                folder,
                adapter=adapter,
                trust_remote_code=self.trust_remote_code,
                device_map="balanced" if gpus > 1 else None,
            )
            # Any named template does where none is applied: `auto` would refuse a tokenizer without one.
            tokenizer = load_tokenizer(folder, self.template or "plain", trust_remote_code=self.trust_remote_code)
        if gpus <= 1:
            model.to("cuda" if gpus else "cpu")
        return model.eval(), tokenizer

    def load_for_harness(self, batch_size: int, gpus: int) -> "HFLM":
        from raysel.evaluation.harness import harness_model

        return harness_model(*self.load(gpus), batch_size=batch_size)


@dataclass(frozen=True)
class Cell:
    """A task, and where its results on a model are published. adapter: whether the model has its adapter on; template:
    what its prompts are put into, or None."""

    task: EvalTask
    address: str
    identity: str
    adapter: bool
    template: str | None


class CellWorker:
    """Holds the model, and the judge once one is needed, and scores cells.

    An adapter is on its base model, and is switched off for the base's own cells.
    """

    def __init__(
        self,
        *,
        store: Store,
        plan: dict[str, Any],
        cells: list[Cell],
        model: EvaluatedModel,
        corpus: Artifact | None,
        judge: str | None,
        evaluation: EvaluationSettings,
        seed: int,
    ) -> None:
        import torch

        torch.set_num_threads(plan["threads"])
        self.store, self.plan, self.cells = store, plan, cells
        self.judge, self.settings, self.seed = judge, evaluation, seed
        self.corpus = corpus
        self.model, self.tokenizer = model.load(plan["gpus"])
        self.judged_by: HFLM | None = None

    @cached_property
    def lm(self) -> "HFLM":
        """The model as lm-eval wants it, whose import takes as long as scoring a small model's held-out samples."""
        from raysel.evaluation.harness import harness_model

        return harness_model(self.model, self.tokenizer, batch_size=self.plan["batch_size"])

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        """Score one cell and publish it; a fault of the task is returned, not raised."""
        from datasets.exceptions import DatasetsError

        cell = self.cells[int(item["cell"])]
        task = cell.task
        failure = ""
        judged_by = self._judge() if is_judged(task) else None
        try:
            with ExitStack() as limits:
                for model in (self.model, judged_by.model if judged_by is not None else None):
                    if model is not None:
                        limits.enter_context(deadline(model, 60 * self.settings.cell_timeout_minutes))
                if not cell.adapter:
                    limits.enter_context(self.model.disable_adapter())
                limits.enter_context(told_shortage(batch=self.plan["batch_size"]))
                self._score(cell, judged_by)
        except MemoryShortError:  # under a batch size that is smaller, all cells are others
            raise
        except DeadlineError as error:
            failure = f"{error} (evaluation.cell_timeout_minutes)"
        except DatasetsError as error:
            read = [file for files in data_files_of(task).values() for file in files]
            failure = f"{_said(error)}; its data: {', '.join(read) or task.config['dataset_path']}"
        except CELL_FAULTS as error:
            failure = _said(error)
        return {"cell": int(item["cell"]), "task": task.name, "failure": failure}

    def _score(self, cell: Cell, judged_by: "HFLM | None") -> None:
        task = cell.task
        metadata = task.config.get("metadata") or {}
        if task.is_heldout:
            scores, items = self._score_heldout(task)
        else:
            from raysel.evaluation.harness import evaluate_task

            scores, items = evaluate_task(
                self.lm,
                task,
                limit=self.settings.limit,
                seed=self.seed,
                chat_template=cell.template is not None,
                judged_by=judged_by,
            )
        shared = {"model": cell.identity, "task": task.name, "lang": task.lang, "split": task.split}
        conditions = {
            "seed": self.seed,
            "shots": int(task.config.get("num_fewshot") or 0),
            "template": cell.template or "none",
            "harness": f"raysel {__version__}" if task.is_heldout else harness_version(),
            "task_version": str(metadata.get("version", "")),
        }
        attempt = self.store.attempt("cells", cell.address)
        values = {score.metric: score.value for score in scores}
        records = [
            _write(attempt, "items", 0, [shared | asdict(item) for item in items]),
            _write(attempt, "results", 0, [shared | asdict(score) | conditions for score in scores]),
        ]
        summary = {"values": values, "items": len({item.item for item in items})}
        facts = {"task": words_of(task), "lang": task.lang, **conditions}
        attempt.publish(records, settings=facts, inputs={}, version=1, summary=summary)

    def _score_heldout(self, task: EvalTask) -> "tuple[list[MetricScore], list[ItemScore]]":
        from raysel.evaluation.bits_per_byte import evaluate_heldout

        assert self.corpus is not None
        rows = heldout_rows(self.corpus, task.lang, int(task.config["metadata"]["samples"]))
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return evaluate_heldout(
            self.model,
            self.tokenizer,
            rows,
            max_tokens=min(positions or self.tokenizer.model_max_length, PROBED_TOKENS),
            batch_size=self.plan["batch_size"],
            seed=self.seed,
        )

    def _judge(self) -> "HFLM | None":
        if self.judged_by is None and self.judge is not None:
            judge = judge_model(self.judge, self.settings)
            self.judged_by = judge.load_for_harness(self.plan["batch_size"], self.plan["gpus"])
        return self.judged_by


def heldout_rows(corpus: Artifact, lang: str, wanted: int) -> list[dict[str, Any]]:
    """At most `wanted` held-out samples of a language."""
    found: list[dict[str, Any]] = []
    for shard in corpus.shards("heldout"):
        table = corpus.read_shard(shard, HELDOUT_COLUMNS)
        found += table.filter(pc.equal(table["lang"], lang)).to_pylist()
        found = drawn_first(found, wanted)
    return found


def judge_model(folder: str, settings: EvaluationSettings) -> EvaluatedModel:
    assert settings.judge is not None
    return EvaluatedModel(folder, None, settings.judge.template.name, settings.judge.trust_remote_code)


def words_of(task: EvalTask) -> dict[str, Any]:
    """The task's config as plain data, less where its data lies."""
    return {key: value for key, value in task.config.items() if key != "dataset_kwargs" and not callable(value)}


def is_judged(task: EvalTask) -> bool:
    return bool((task.config.get("metadata") or {}).get("judge"))


def data_files_of(task: EvalTask) -> dict[str, list[str]]:
    """By split; empty for a data set of the hub."""
    return dict((task.config.get("dataset_kwargs") or {}).get("data_files") or {})


def _said(error: BaseException) -> str:
    """The first line of an error, with that of its cause: datasets says what is wrong with a file only there."""
    line = (str(error).strip().splitlines() or [""])[0][:500]
    if isinstance(error, UserError):
        return line
    cause = f" ({_said(error.__cause__)})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {line}{cause}"


def _write(attempt: Attempt, table: str, index: int, rows: list[dict[str, Any]]) -> ShardRecord:
    known = {field.name: field.type for field in tables.SCHEMAS[table]} | TEXTS
    return attempt.write_table(table, index, pa.table({
        name: pa.array([row[name] for row in rows], known.get(name)) for name in rows[0]
    }))  # fmt: skip


def harness_version() -> str:
    return f"lm-eval {importlib.metadata.version('lm_eval')}"
