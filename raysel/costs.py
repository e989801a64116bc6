"""What an experiment costs: GPU-hours by step, and how its training lies on the machines of its section `cluster`.

Neither Ray nor torch is needed, no model file and no GPU: a model's shape is enough.
"""

import textwrap
from collections.abc import Collection, Mapping

from raysel.disk import readable
from raysel.errors import UserError
from raysel.experiment import Experiment
from raysel.models.settings import ModelSettings
from raysel.models.shape import Shape, ShapeError, read_shape, shape_of
from raysel.planning.fitting import GRADIENTS, WARMUP, Machines, fitted, workers_on
from raysel.planning.memory import trained_parameters, training_memory
from raysel.planning.operations import RATES, Work, distance_work, gpu_of, gradient_work, training_work, vector_work
from raysel.training.settings import warmup_training

BOUND = "(of an encoder-decoder's activations and operations no more than a bound is known)"


def model_shape(model: ModelSettings) -> Shape | None:
    """By its folder's config, its name on the hub, or what is made of it first.

    None where nothing is known of it, nor of its family: no run is refused for that.
    """
    base = model.base
    if base is None:
        try:
            return shape_of(str(model.path))
        except ShapeError:
            return None
    return read_shape(
        {
            "model_type": "llama",
            "hidden_size": base.width,
            "intermediate_size": 8 * base.width // 3 // 8 * 8,
            "num_hidden_layers": base.layers,
            "num_attention_heads": base.heads,
            "vocab_size": base.vocabulary,
            "tie_word_embeddings": True,
        }
    )


def trained_rows(experiment: Experiment, rows: int) -> int | None:
    """How many of `rows` rows are trained on; None where the corpus' languages or tasks decide that."""
    mixture, pool = experiment.mixture, experiment.preselect
    if experiment.selection.tokens is not None:
        return None
    if mixture.quota == "counts":
        each = (of.values() if isinstance(of, dict) else [of] for of in mixture.counts.values())
        return sum(sum(of) for of in each)
    kept = rows * (1 - experiment.corpus.heldout)
    # Which part of the corpus that is, only the corpus says.
    is_part = experiment.languages.strategy != "all" or bool(mixture.unseen or mixture.tasks)
    if mixture.quota == "everything":
        if pool.rho is None and experiment.selection.candidates == "pool":
            return pool.size
        share = 1.0 if experiment.selection.candidates == "corpus" else pool.rho
        return None if is_part or share is None else round(kept * share)
    chosen = experiment.languages.chosen if experiment.languages.strategy == "chosen" else None
    if mixture.quota == "pivot" and chosen and mixture.pivot_rows is not None:
        others = len(chosen) - 1
        return max(1, len(mixture.tasks or [])) * (mixture.pivot_rows + others * (mixture.rows_per_language or 0))
    if mixture.quota == "pivot" or mixture.total is None:
        return None
    if isinstance(mixture.total, int):
        return mixture.total
    return None if is_part else round(kept * mixture.total)


def work_of(experiment: Experiment, rows: int, tokens_per_row: float) -> dict[str, Work]:
    """The operations of each stage that is known beforehand, by the stage. rows: of the corpus; tokens_per_row: of a
    prompt with its response."""
    found: dict[str, Work] = {}
    shape, embedded = model_shape(experiment.model), model_shape(experiment.embedding.model or experiment.model)
    less, kept = experiment.selection.less, round(rows * (1 - experiment.corpus.heldout))
    if embedded is not None:
        embedding, separability = experiment.embedding, experiment.separability
        read = min(tokens_per_row, embedding.max_tokens)
        found["vectors"] = vector_work(embedded, kept, read, layer=embedding.layer)
        found["sums"] = distance_work(kept, embedded.width, precision=separability.precision)
    if shape is None:
        return found
    if "less" in experiment.selection.methods:
        warmup = less.warmup
        as_training = warmup_training(warmup, experiment.training)
        shape.adapted(warmup.lora.targets, section="selection.less.warmup")
        seen = min(tokens_per_row, as_training.data.row_tokens(has_encoder=shape.has_encoder))
        found["warmup"] = training_work(shape, as_training, warmup.epochs * round(kept * warmup.share), seen)
        every_row = experiment.selection.candidates == "corpus" or "less" in experiment.selection.compare
        pool = kept if every_row else round(kept * (experiment.preselect.rho or 1.0))
        matrices = trained_parameters(shape, as_training)
        found["gradients"] = gradient_work(
            shape,
            pool,
            seen,
            checkpoints=warmup.epochs,
            matrices=matrices,
            dimensions=less.dimensions,
            dtype=warmup.dtype,
        )
    trained = trained_rows(experiment, rows)
    if trained is not None:
        seen = min(tokens_per_row, experiment.training.data.row_tokens(has_encoder=shape.has_encoder))
        found["model"] = training_work(shape, experiment.training, trained, seen)
    return found


def gpu_hours(experiment: Experiment, rows: int, tokens_per_row: float) -> dict[str, float]:
    """GPU-hours by stage, of those whose work is known beforehand, on the GPUs of the section `cluster`.

    `UserError` where the section does not say which GPUs these are.
    """
    cluster = experiment.cluster
    kind = gpu_of(cluster.gpu, cluster.gpu_memory_gb)
    if kind is None:
        raise UserError(f"which GPUs are used is not known: set cluster.gpu to one of {', '.join(RATES)}")
    return {stage: work.gpu_hours(kind) for stage, work in work_of(experiment, rows, tokens_per_row).items()}


def wall_hours(experiment: Experiment, hours: Mapping[str, float]) -> float:
    """GPU-hours by stage as hours by the clock: training has its own number of workers, the rest all GPUs."""
    gpus = experiment.cluster.nodes * experiment.cluster.gpus_per_node
    workers = min(experiment.training.workers or gpus, gpus)
    return sum(of / (workers if stage in ("model", "warmup") else gpus) for stage, of in hours.items())


def memory_lines(experiment: Experiment, shape: Shape | None) -> list[str]:
    """How training lies on the machines, in lines for `raysel plan`. `FitError` where a GPU holds less."""
    settings, cluster = experiment.training, experiment.cluster
    if shape is None:
        return [f"model: the shape of {experiment.model.path} is not known, so its memory is not planned"]
    how = f"{settings.method}, {settings.dtype}, ZeRO-{settings.zero}"
    if not cluster.gpus_per_node:
        # As `choose_workers` has it; without a GPU the loaded weights are those that are trained.
        workers = settings.workers or 2
        memory = training_memory(shape, settings, workers=workers)
        needed = memory.device_bytes + (memory.host if settings.offload != "none" else 0)
        return [
            f"model: {how}, {workers} CPU workers, of each {readable(needed)}:",
            *_in_lines(memory.explained()),
            *([f"  {BOUND}"] if shape.has_encoder else []),
        ]
    if cluster.gpu_memory_gb is None:
        return []  # said once, of the vectors
    machines = Machines(cluster.nodes, cluster.gpus_per_node, cluster.gpu_memory_gb)
    memory = fitted(shape, settings, machines)
    workers = workers_on(machines, settings)
    here = min(workers, cluster.gpus_per_node)
    return [
        f"model: {how}, {workers} GPUs, of each {readable(memory.device_bytes)} of {cluster.gpu_memory_gb:g} GB:",
        *_in_lines(memory.explained()),
        *([f"  {BOUND}"] if shape.has_encoder else []),
        f"  on each host {readable(memory.host * here)} of memory for its {here} workers",
    ]


def refuse_warmup_that_does_not_fit(experiment: Experiment, shape: Shape | None, to_run: Collection[str]) -> None:
    """`FitError` where a GPU does not hold the model of LESS's warm-up, or the one that its gradients are taken of,
    where these stages are among `to_run`."""
    cluster, less = experiment.cluster, experiment.selection.less
    if shape is None or not cluster.gpus_per_node or cluster.gpu_memory_gb is None:
        return
    machines = Machines(cluster.nodes, cluster.gpus_per_node, cluster.gpu_memory_gb)
    settings = warmup_training(less.warmup, experiment.training)
    if {"warmup", "gradients"} & set(to_run):
        shape.adapted(less.warmup.lora.targets, section="selection.less.warmup")
    if "warmup" in to_run:
        fitted(shape, settings, machines, WARMUP)
    if "gradients" in to_run:
        gpus = cluster.nodes * cluster.gpus_per_node
        workers = min(less.workers or gpus, gpus)
        fitted(shape, settings.model_copy(update={"workers": workers}), machines, GRADIENTS)


def _in_lines(parts: str, width: int = 78) -> list[str]:
    return textwrap.wrap(parts, width, initial_indent="  ", subsequent_indent="  ")


def time_lines(
    experiment: Experiment, to_run: Collection[str], rows: int | None, tokens_per_row: float | None
) -> list[str]:
    """GPU-hours of the stages `to_run`, in lines for `raysel plan`, and what they are counted from."""
    cluster = experiment.cluster
    kind = gpu_of(cluster.gpu, cluster.gpu_memory_gb)
    if not cluster.gpus_per_node:
        asked = rows is not None or tokens_per_row is not None
        return ["GPU-hours: none without GPUs (cluster.gpus_per_node is 0)"] if asked else []
    if kind is None:
        return [f"GPU-hours: not known without cluster.gpu ({', '.join(RATES)})"]
    missing = {"--rows": rows, "--tokens-per-row": tokens_per_row}
    if rows is None or tokens_per_row is None:
        unknown = " and ".join(name for name, value in missing.items() if value is None)
        return [f"GPU-hours: not known without {unknown}"]
    work = {s: w for s, w in work_of(experiment, rows, tokens_per_row).items() if s in to_run}
    hours = {stage: each.gpu_hours(kind) for stage, each in work.items()}
    lines = [f"GPU-hours on {kind}, {rows:,} rows of {tokens_per_row:g} tokens:"]
    if cluster.gpu is None:
        lines.append(f"  (GPUs of {cluster.gpu_memory_gb:g} GB are taken for {kind}: cluster.gpu says otherwise)")
    lines += [
        f"  {stage:<10}{hours[stage]:>10.2f}  {each.operations:.2e} operations at {each.share:g} of {each.dtype}'s rate"
        for stage, each in work.items()
    ]
    lines.append(f"  {'total':<10}{sum(hours.values()):>10.2f}  {wall_hours(experiment, hours):.2f} hours by the clock")
    heavy = {"vectors", "sums", "warmup", "gradients", "base_model", "model", "results"}
    if unknown_stages := [stage for stage in dict.fromkeys(to_run) if stage in heavy - set(work)]:
        lines.append(f"  not known: {', '.join(unknown_stages)}")
    return lines
