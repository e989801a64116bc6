"""What would help a stage that ran out of memory: the smallest change, by its name in the experiment file.

Of training, what the memory planner says is enough; of the other stages the setting that decides how much is held at a
time, at half of its value, changes of no result first.
"""

from dataclasses import replace

from raysel.corpus.settings import CorpusSettings
from raysel.costs import model_shape
from raysel.embedding.placement import USABLE_SHARE
from raysel.embedding.settings import EmbeddingSettings
from raysel.evaluation.settings import EvaluationSettings
from raysel.memory_errors import Shortage
from raysel.models.settings import BaseModelSettings, ModelSettings
from raysel.models.shape import Shape, ShapeError, shape_of
from raysel.planning.fitting import GRADIENTS, TRAINING, WARMUP, Asked, Machines, smallest_change
from raysel.selection.settings import LessSettings
from raysel.separability.settings import SeparabilitySettings
from raysel.steps import Step
from raysel.training.settings import TrainingSettings, warmup_training

ROOM = "take machines with more memory, or let less run on them at once (cluster.num_cpus)"
# What keeps a run and its checkpoints what they are comes first.
AS_IT_RUNS = replace(
    TRAINING,
    changeable={
        key: TRAINING.changeable[key]
        for key in ("micro_batch_tokens", "activation_checkpointing", "offload", "zero", "method")
    },
)


def advice(step: Step, shortage: Shortage) -> str:
    """One clause: what to set."""
    settings = {**step.settings, **step.execution}
    match step.stage:
        case "model":
            return _of_training(step, settings["training"], shortage, AS_IT_RUNS)
        case "warmup":
            return _of_training(step, warmup_training(settings["warmup"], settings["training"]), shortage, WARMUP)
        case "gradients":
            return _of_gradients(step, settings["less"], shortage)
        case "base_model":
            return _of_base_model(settings["base"], shortage)
        case "vectors":
            return _of_vectors(settings["embedding"], shortage)
        case "results":
            return _of_evaluation(settings["evaluation"], shortage)
        case "sums":
            return _of_sums(settings["separability"])
        case "corpus":
            return _of_corpus(settings["corpus"])
    return ROOM


def _of_training(step: Step, settings: TrainingSettings, shortage: Shortage, asked: Asked) -> str:
    """By the planner: what takes so much less as was missing, from what it thinks is taken now."""
    workers = shortage.workers or settings.workers or 1
    now = shortage.batch or settings.micro_batch_tokens
    settings = settings.model_copy(update={"workers": workers, "micro_batch_tokens": now})
    shape, larger = _shape(step), "take GPUs of at least {} GB"
    if shortage.gpu is None:  # the CPUs' memory is all there is
        larger = "give each worker at least {} GB of memory"
        asked = replace(asked, changeable={k: v for k, v in asked.changeable.items() if k != "offload"})
        if workers > 1 and not (shape and len(shape.stacks) == 1):
            return f"set training.workers={workers // 2}: each holds a model"
    if shape is None or len(shape.stacks) > 1:
        return _without_a_shape(settings)
    held = asked.needs(shape, settings, workers).device_bytes
    least = held - max(1, (shortage.asked or 1) - (shortage.free or 0))
    each = (shortage.total or least) // (1 if shortage.gpu is not None else workers)
    machines = Machines(1, workers, min(least / USABLE_SHARE, each) / 1e9)
    return f"by the planner's estimate {smallest_change(shape, settings, machines, asked, larger)}"


def _without_a_shape(settings: TrainingSettings) -> str:
    row, now = settings.data.max_tokens, settings.micro_batch_tokens
    if isinstance(now, int) and now >= 2 * row:
        return f"set training.micro_batch_tokens={now // 2}"
    if settings.activation_checkpointing is False:
        return "set training.activation_checkpointing=true"
    return f"set training.data.max_tokens={row // 2}, or training.zero=3 on more GPUs"


def _shape(step: Step) -> Shape | None:
    """Of the model that the step trains; None where nothing is known of it."""
    if "model" in step.inputs:
        return model_shape(ModelSettings(base=step.inputs["model"].settings["base"]))
    try:
        return shape_of(step.leaves["model"].path)
    except ShapeError:
        return None


def _of_gradients(step: Step, less: LessSettings, shortage: Shortage) -> str:
    if shortage.gpu is None and (shortage.workers or 1) > 1:
        return _fewer("selection.less.workers", shortage)
    if less.warmup.dtype == "float32":
        return f"set {GRADIENTS.changeable['dtype']}=bfloat16"
    return f"set selection.less.warmup.max_tokens={less.warmup.max_tokens // 2}"


def _of_base_model(base: BaseModelSettings, shortage: Shortage) -> str:
    if (shortage.workers or 1) > 1:
        return _fewer("training.workers", shortage)
    return f"set model.base.context={base.context // 2}, or a smaller model.base.width"


def _of_vectors(embedding: EmbeddingSettings, shortage: Shortage) -> str:
    if shortage.gpu is not None:
        return f"set embedding.gpus_per_worker={(embedding.gpus_per_worker or 1) + 1}"
    if (shortage.workers or 1) > 1:
        return _fewer("embedding.workers", shortage)
    return f"set embedding.max_tokens={max(1, embedding.max_tokens // 2)}"


def _of_evaluation(evaluation: EvaluationSettings, shortage: Shortage) -> str:
    if shortage.batch is not None and shortage.batch > 1:
        return f"set evaluation.batch_size={shortage.batch // 2}"
    if shortage.gpu is not None:
        return f"set evaluation.gpus_per_worker={(evaluation.gpus_per_worker or 1) + 1}"
    if (shortage.workers or 1) > 1:
        return _fewer("evaluation.workers", shortage)
    return ROOM


def _of_sums(separability: SeparabilitySettings) -> str:
    cores = f"separability.cores={2 * separability.cores} (fewer workers at once)"
    if separability.block_rows is None:
        return f"set {cores}, or separability.block_rows=4096"
    return f"set {cores}, or separability.block_rows={max(1, separability.block_rows // 2)}"


def _of_corpus(corpus: CorpusSettings) -> str:
    return f"set corpus.shard_rows={max(1, corpus.shard_rows // 2)}"


def _fewer(setting: str, shortage: Shortage) -> str:
    return f"set {setting}={(shortage.workers or 2) // 2}: each holds a model"
