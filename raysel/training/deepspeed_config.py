"""What DeepSpeed is told: what the experiment's settings decide, and what the user adds to it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysel.training.settings import TrainingSettings

# Numbers that DeepSpeed reduces at once, and keeps room for; with fewer to train, as many.
LARGEST_BUCKET = 500_000_000
# Which setting decides a key of DeepSpeed's.
DECIDED_BY = {
    "train_batch_size": "training.data.batch_samples",
    "train_micro_batch_size_per_gpu": "training.data.max_tokens (one row of tokens at a time)",
    "gradient_accumulation_steps": "training.data.batch_samples (a step ends with its planned samples)",
    "gradient_clipping": "training.clip_norm",
    "zero_optimization.stage": "training.zero",
    "zero_optimization.offload_optimizer.device": "training.offload",
    "zero_optimization.offload_param.device": "training.offload",
    "bf16.enabled": "training.dtype",
    "fp16.enabled": "training.dtype",
    "data_types.grad_accum_dtype": "training.dtype",
    "optimizer": "training.learning_rate and training.weight_decay (AdamW)",
    "scheduler": "training.schedule and training.warmup_share",
    "zero_optimization.offload_optimizer.ratio": "training.offload (all of the optimizer's state)",
    "zero_optimization.cpu_offload": "training.offload",
    "zero_optimization.cpu_offload_param": "training.offload",
    "zero_optimization.compute_grad_norm": "raysel, which reports it",
    "bf16.check_grad_overflow": "raysel, which stops at such a step or skips it",
    "bfloat16": "training.dtype",
    "zero_force_ds_cpu_optimizer": "training.offload (torch's AdamW, fused, also on CPUs)",
}
# The user leaves these to the experiment file, as in files written for transformers' Trainer.
AUTO = "auto"
WITHOUT_EFFECT = ("steps_per_print",)


LEFT_TO_US = ("optimizer", "scheduler")
# What such a key may say as well where no setting has made it anything.
UNSET: dict[str, Any] = {
    "fp16.enabled": False,
    "bfloat16": {"enabled": False},
    "data_types.grad_accum_dtype": "fp32",
    "zero_optimization.offload_optimizer.device": "none",
    "zero_optimization.offload_optimizer.ratio": 1.0,
    "zero_optimization.offload_param.device": "none",
    "zero_optimization.cpu_offload": False,
    "zero_optimization.cpu_offload_param": False,
    "zero_optimization.compute_grad_norm": True,
    "bf16.check_grad_overflow": True,
}


def deepspeed_config(settings: "TrainingSettings") -> dict[str, Any]:
    """One row is a micro-batch; where a step ends is told to the engine step by step.

    ValueError for a key of `settings.deepspeed` that says something else than the setting that decides it.
    """
    return _merged(_decided(settings), settings.deepspeed or {}, "")


def _decided(settings: "TrainingSettings") -> dict[str, Any]:
    on_cpu = {"device": "cpu"}
    zero: dict[str, Any] = {"stage": settings.zero}
    if settings.offload != "none":
        zero["offload_optimizer"] = on_cpu
    if settings.offload == "all":
        zero["offload_param"] = on_cpu
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
    }
    if settings.dtype == "bfloat16":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _merged(decided: Mapping[str, Any], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(decided)
    for key, value in given.items():
        where = f"{path}{key}"
        own = decided.get(key, UNSET.get(where))
        if value == AUTO or where in WITHOUT_EFFECT or (where in LEFT_TO_US and _is_auto(value)):
            continue
        if isinstance(value, Mapping) and where not in DECIDED_BY and isinstance(own, Mapping | None):
            merged[key] = _merged(own or {}, value, f"{where}.")
        elif where in DECIDED_BY and value != own:
            raise ValueError(
                f"training.deepspeed says {where}: {value!r}, but {DECIDED_BY[where]} decides that"
                + (f" and makes it {own!r}" if own is not None else "")
                + f"; leave {where} out, or change the other"
            )
        elif isinstance(own, Mapping):
            raise ValueError(f"training.deepspeed: {where} is a section of keys and values (found {value!r})")
        else:
            merged[key] = value
    return merged


def _is_auto(section: Any) -> bool:
    """Whether an optimizer's or scheduler's section leaves every parameter to the experiment file."""
    if not isinstance(section, Mapping) or section.get("type") not in (AUTO, "AdamW", "WarmupLR", "WarmupDecayLR"):
        return False
    return all(value == AUTO for value in section.get("params", {}).values())
