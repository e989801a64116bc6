"""A model under DeepSpeed: loading, adapters, AdamW and ZeRO."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from raysel.errors import UserError
from raysel.models.loading import load_causal_lm
from raysel.models.shape import drops_out
from raysel.training.deepspeed_config import LARGEST_BUCKET, deepspeed_config
from raysel.training.partitioned import load_partitioned
from raysel.training.settings import LoraSettings, TrainingSettings


class AdapterError(UserError):
    """Adapters that cannot be put on this model."""


class DeepSpeedKeyError(UserError):
    """A key in `training.deepspeed` that DeepSpeed does not take."""


def connect(timeout_minutes: float) -> None:
    """Join the process group of all workers: nccl between GPUs, gloo otherwise."""
    import deepspeed

    # The shared-memory all-reduce serves inference only. Unless it is marked as unavailable, every start probes the
    # compiler and builds it, and a worker killed meanwhile leaves a lock that the next one waits on for ever.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(
        "nccl" if torch.cuda.is_available() else "gloo",
        timeout=timedelta(minutes=timeout_minutes),
        auto_mpi_discovery=False,
        verbose=False,
    )


def refuse_wrong_keys(settings: TrainingSettings) -> None:
    """`DeepSpeedKeyError` for what DeepSpeed itself does not take, before it says so in the middle of loading."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    try:
        DeepSpeedConfig(deepspeed_config(settings))
    except ValidationError as error:
        named = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise DeepSpeedKeyError(f"training.deepspeed ({error.title}): {named}") from error
    except (ValueError, TypeError) as error:
        raise DeepSpeedKeyError(f"training.deepspeed: {error}") from error


@contextmanager
def trainable_model(
    folder: Path, settings: TrainingSettings, *, seed: int, trust_remote_code: bool, section: str = "training"
) -> Iterator[Any]:
    """The model in `folder` with what is to be trained; under ZeRO-3 it is sharded while it loads.

    section: of the experiment file, where the user has set `lora`.
    """
    from transformers.integrations import HfDeepSpeedConfig

    model = None
    if settings.zero == 3:
        config = deepspeed_config(settings)
        model = load_partitioned(folder, config, dtype=settings.dtype, trust_remote_code=trust_remote_code)
    # While it lives, transformers and PEFT know that weights are sharded.
    keep_alive = HfDeepSpeedConfig(deepspeed_config(settings)) if settings.zero == 3 else None
    if model is None:
        model = load_causal_lm(folder, dtype=settings.dtype, trust_remote_code=trust_remote_code)
    if settings.activation_checkpointing is True:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.method == "lora":
        torch.manual_seed(seed)
        model = add_adapters(model, settings.lora, section)
    yield model
    del keep_alive


def add_adapters(model: Any, settings: LoraSettings, section: str) -> Any:
    """`model` frozen, with fresh LoRA adapters. `AdapterError` where it has none of the target modules.

    section: of the experiment file, where the user has set `lora`.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            # GPT-2's are called Conv1D, and count their inputs as nx.
            {name.rpartition(".")[2] for name, part in model.named_modules() if {"in_features", "nx"} & {*vars(part)}}
        )
        raise AdapterError(
            f"{section}.lora.targets {settings.targets}: {error}; the linear modules here are {', '.join(linear)}"
        ) from error
    if settings.merge and _adapts_what_is_tied(adapted):
        raise AdapterError(
            f"{section}.lora.merge cannot add adapters to embeddings that are tied, as they are in this model: "
            f"the update would change all their places; take them out of {section}.lora.targets {settings.targets}, "
            "or leave merge out"
        )
    return adapted


def _adapts_what_is_tied(adapted: Any) -> bool:
    """Whether a weight that has an adapter is in several places (both ends, an encoder and a decoder)."""
    layers = [part.get_base_layer() for part in adapted.modules() if hasattr(part, "get_base_layer")]
    holders = Counter(id(own["weight"]) for part in adapted.modules() if "weight" in (own := part._parameters))
    return any(holders[id(layer.weight)] > 1 for layer in layers)


def start_engine(model: Any, settings: TrainingSettings) -> Any:
    """The DeepSpeed engine over `model` with AdamW; one-dimensional weights (norms, biases) are not decayed."""
    import deepspeed

    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for parameter in trained_parameters(model).values():
        (decayed if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    # Fused: on a CPU torch's own choice, a loop of small operations over the weights, is several times as slow.
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    config = deepspeed_config(settings)
    # DeepSpeed keeps room for so many numbers, 5e8 of them by default, and ZeRO-2 takes it anew in every step. Without
    # more than the model needs, a step on a CPU was 5% faster, and adapters leave 2 GB of a GPU free.
    numbers = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained_parameters(model).values())
    config["zero_optimization"].setdefault("reduce_bucket_size", min(LARGEST_BUCKET, numbers))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def draws_at_random(model: Any) -> bool:
    """Whether a forward in training mode drops anything out, by a module or (by what the config says) by a function."""
    dropouts = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    return dropouts or drops_out(model.config.get_text_config().to_dict())


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
