"""What would help a stage that ran out of memory: the smallest change, by its name in the experiment file.

Of training, what the memory planner says is enough; of the other stages the setting that decides how much is held at a
time, at half of its value, changes of no result first.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raysel.corpus.settings import CorpusSettings
from raysel.costs import model_shape
from raysel.disk import readable
from raysel.embedding.placement import USABLE_SHARE
from raysel.embedding.settings import EmbeddingSettings
from raysel.evaluation.settings import EvaluationSettings
from raysel.memory_errors import Shortage
from raysel.models.loading import decoder_start
from raysel.models.settings import BaseModelSettings, ModelSettings
from raysel.models.shape import Shape, ShapeError, shape_of
from raysel.planning.fitting import GRADIENTS, TRAINING, WARMUP, Asked, Machines, smallest_change
from raysel.planning.memory import state_bytes
from raysel.selection.settings import LessSettings
from raysel.separability.settings import SeparabilitySettings
from raysel.steps import Step
from raysel.training.settings import TrainingSettings, warmup_training
from raysel.training.tokenizer_source import read_config

ROOM = "take machines with more memory, or let less run on them at once (cluster.num_cpus)"
# What keeps a run and its checkpoints what they are comes first.
AS_IT_RUNS = replace(
    TRAINING,
    changeable={
        key: TRAINING.changeable[key]
        for key in ("micro_batch_tokens", "activation_checkpointing", "offload", "zero", "method")
    },
)
# Of the settings that are advised, those that decide what comes out: no checkpoint is gone on from.
DECISIVE = ("training.zero", "training.method", "training.data", "selection.less.warmup")
OFFLOADS = ("none", "optimizer", "all")


def advice(step: Step, shortage: Shortage) -> str:
    """One clause: what to set; of training also whether it then begins anew."""
    said = _advice(step, shortage)
    decisive = [name for name in DECISIVE if f"{name}." in said or f"{name}=" in said]
    if step.stage not in ("model", "warmup") or not decisive:
        return said
    return f"{said} (a change of {' or '.join(decisive)} begins the training anew)"


def _advice(step: Step, shortage: Shortage) -> str:
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
    now: dict[str, Any] = {"workers": workers, "micro_batch_tokens": shortage.batch or settings.micro_batch_tokens}
    if shortage.checkpointing is not None:
        now["activation_checkpointing"] = shortage.checkpointing
    settings = settings.model_copy(update=now)
    shape, larger = _shape(step), "take GPUs of at least {} GB"
    if shortage.gpu is None and shortage.devices == "gpu":
        return _of_the_host(shape, settings, workers, shortage, asked)
    if shortage.gpu is None:  # the CPUs' memory is all there is
        larger = "give each worker at least {} GB of memory"
        asked = replace(asked, changeable={k: v for k, v in asked.changeable.items() if k != "offload"})
        if workers > 1 and settings.zero < 3 and not (shape and len(shape.stacks) == 1):
            return f"set training.workers={workers // 2}: each holds a model"
    if shape is None or len(shape.stacks) > 1:  # of several stacks no more than a bound is known
        return _without_a_shape(settings, shortage, asked, has_encoder=_has_encoder(step, shape))
    held, missing = asked.needs(shape, settings, workers).device_bytes, _missing(shortage)
    least = held - _wanted(held, missing)
    each = (shortage.total or least) // (1 if shortage.gpu is not None else workers)
    machines = Machines(1, workers, min(least / USABLE_SHARE, each) / 1e9)
    change = smallest_change(shape, settings, machines, asked, larger, is_known=missing is not None)
    return f"by the planner's estimate {change}"


def _missing(shortage: Shortage) -> int | None:
    """Bytes; None where the error does not tell, or where more was free than was asked for, but not in one piece."""
    if shortage.asked is None or shortage.free is None or shortage.asked <= shortage.free:
        return None
    return shortage.asked - shortage.free


def _wanted(held: int, missing: int | None) -> int:
    """Bytes that a change must spare of those that are held: what was missing, or else a tenth."""
    return held // 10 if missing is None else missing


def _of_the_host(
    shape: Shape | None, settings: TrainingSettings, workers: int, shortage: Shortage, asked: Asked
) -> str:
    """Where GPUs are trained on and it is the machine's own memory that was short: what takes less of it."""
    told, of_all = [], ROOM
    now = None if shape is None else state_bytes(shape, settings, workers=workers).host
    if now is not None:
        wanted = max(1, _wanted(now, _missing(shortage)))
        of_all = f"give each worker at least {readable(now + wanted)} of its machine's memory"
    for key, value in _less_on_the_host(settings, workers):
        if key not in asked.changeable:
            continue
        try:
            changed = TrainingSettings.model_validate(settings.model_dump() | {key: value})
        except ValidationError:  # training.deepspeed or another setting says otherwise
            continue
        named = f"set {asked.changeable[key]}={value}"
        if shape is None or now is None:
            told.append(named)
        elif now - (then := state_bytes(shape, changed, workers=workers)).host >= wanted:
            there, on_gpu = readable(then.host), readable(then.device_bytes)
            told.append(f"{named} ({there} of it for each worker, and {on_gpu} of its GPU before activations)")
    takes = "" if now is None else f"by the planner's estimate each worker takes {readable(now)} beside its GPU: "
    return takes + ", or ".join([*told, of_all])


def _less_on_the_host(settings: TrainingSettings, workers: int) -> Iterator[tuple[str, Any]]:
    """Fields of the settings with values that may take less, those that change no result first."""
    for less in reversed(OFFLOADS[: OFFLOADS.index(settings.offload)]):
        yield "offload", less
    if settings.zero < 3 and workers > 1:
        yield "zero", 3
    if settings.dtype == "float32":
        yield "dtype", "bfloat16"


def _without_a_shape(settings: TrainingSettings, shortage: Shortage, asked: Asked, *, has_encoder: bool) -> str:
    """Half of what went through the model at once, by the means that cost least."""
    data = settings.data
    if shortage.batch is not None and shortage.batch >= 2 * data.row_tokens(has_encoder=has_encoder):
        return f"set {asked.changeable['micro_batch_tokens']}={shortage.batch // 2}"
    if asked.name == WARMUP.name:
        return _of_warmup(settings.dtype, data.max_tokens)
    # Left open, it is already True where a row did not fit without.
    if settings.activation_checkpointing is False:
        return "set training.activation_checkpointing=true"
    lengths = [f"training.data.max_tokens={_half(data.max_tokens)}"]
    if has_encoder:
        lengths.append(f"training.data.max_source_tokens={_half(data.max_source_tokens or data.max_tokens)}")
    on_more = ", or training.zero=3 on more workers" if settings.zero < 3 else ", or take more workers"
    return f"set {', '.join(lengths)}{on_more}"


def _of_warmup(dtype: str, max_tokens: int) -> str:
    if dtype == "float32":
        return f"set {GRADIENTS.changeable['dtype']}=bfloat16"
    return f"set selection.less.warmup.max_tokens={_half(max_tokens)}"


def _half(tokens: int) -> int:
    """Of a length; 2 is the least that settings take."""
    return max(2, tokens // 2)


def _shape(step: Step) -> Shape | None:
    """Of the model that the step trains; None where nothing is known of it."""
    if "model" in step.inputs:
        return model_shape(ModelSettings(base=step.inputs["model"].settings["base"]))
    try:
        return shape_of(step.leaves["model"].path)
    except ShapeError:
        return None


def _has_encoder(step: Step, shape: Shape | None) -> bool:
    """By the model's own config where its family is unknown."""
    if shape is not None:
        return shape.has_encoder
    folder = step.leaves["model"].path
    return (Path(folder) / "config.json").is_file() and decoder_start(read_config(folder)) is not None


def _of_gradients(step: Step, less: LessSettings, shortage: Shortage) -> str:
    if shortage.gpu is None and (shortage.workers or 1) > 1:
        return _fewer("selection.less.workers", shortage)
    return _of_warmup(less.warmup.dtype, less.warmup.max_tokens)


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
