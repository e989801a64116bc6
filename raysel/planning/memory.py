"""Bytes that one worker holds while it trains, on its GPU and on its host, part by part.

B of the trained numbers are reduced at once, by W workers. What DeepSpeed 0.19 keeps beside the weights, per trained
number and at its most, measured with one worker and read in its source for more:

- ZeRO-0 (float32): Adam's moments 8; gradients 4, and 4 B while they are reduced.
- ZeRO-1: float32 master weights and moments 12 / W; gradients 4, in bfloat16 also 2 as they come; buckets; the share
  that is updated 4 / W.
- ZeRO-2: the same 12 / W; gradients only of the worker's share, 4 / W; buckets; what a micro-batch adds, a share more.
- ZeRO-3: the weights over W too; float32 gradients of the share; buckets; the weights that are gathered at a time.

Sources: Rajbhandari et al. 2020 (arXiv 1910.02054), section 5, for what is sharded; DeepSpeed's stage_1_and_2.py and
stage3.py for buckets, copies and what offloading moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from raysel.disk import readable
from raysel.embedding.placement import CONTEXT_BYTES
from raysel.errors import UserError
from raysel.models.shape import Shape
from raysel.planning.activations import BYTES, WHOLE, Trained, activation_bytes, logit_bytes, trained_adapters
from raysel.training.deepspeed_config import LARGEST_BUCKET, deepspeed_config
from raysel.training.settings import LoraSettings, TrainingSettings

# DeepSpeed's own, under ZeRO-3: how many numbers are gathered at a time.
LIVE_PARAMETERS = 1_000_000_000
# And of how many the gradients are copied for one update.
SUB_GROUP = 1_000_000_000
MOMENTS = 2 * WHOLE
WHOLE_NUMBER = TypeAdapter[int](NonNegativeInt)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. device: by part, on its GPU (without one, in the machine's memory); host: beside that, in
    the machine's memory."""

    device: Mapping[str, int]
    host: int

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    def explained(self) -> str:
        """`weights 16.1 GB, gradients 2.0 GB, ...`, the largest first."""
        parts = sorted(self.device.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {readable(size)}" for name, size in parts if size)


def trained_parameters(shape: Shape, settings: TrainingSettings) -> int:
    """How many numbers are trained. `ShapeError` where the adapters' targets are not there."""
    if settings.method == "full":
        return shape.parameters
    return shape.lora_parameters(settings.lora.rank, settings.lora.targets)


def training_memory(shape: Shape, settings: TrainingSettings, *, workers: int) -> Memory:
    """What each of `workers` holds at the most in a step. `ShapeError` where the model cannot be trained as asked."""
    states = state_bytes(shape, settings, workers=workers)
    working = working_bytes(shape, settings, rows_at_once(shape, settings))
    return Memory({**states.device, **working}, states.host)


def gradient_memory(shape: Shape, settings: TrainingSettings) -> Memory:
    """What a worker holds that takes the gradients of adapters sample by sample (LESS): the whole model, the adapters
    and their moments in float32, and one row, the least that goes through the model at once."""
    weights = shape.parameters * BYTES[settings.dtype]
    adapters = (WHOLE + MOMENTS) * trained_parameters(shape, settings)
    return Memory({"weights": weights, "adapters": adapters} | working_bytes(shape, settings, 1), weights)


def working_bytes(shape: Shape, settings: TrainingSettings, rows: int) -> dict[str, int]:
    """What `rows` rows that go through the model together take, by part."""
    row_tokens = settings.data.max_tokens
    tokens = rows * row_tokens
    trained = what_is_trained(shape, settings)
    activations = activation_bytes(
        shape,
        dtype=settings.dtype,
        tokens=tokens,
        row_tokens=row_tokens,
        trained=trained,
        checkpointing=settings.activation_checkpointing,
    )
    # At the end of the backward's first half the logits are gone, and the gradients inside a block come.
    between = tokens * BYTES[settings.dtype] * 2 * (shape.inner + shape.width)
    logits = max(logit_bytes(shape, dtype=settings.dtype, tokens=tokens), between)
    return {"activations": activations, "logits": logits, "context": CONTEXT_BYTES}


def what_is_trained(shape: Shape, settings: TrainingSettings) -> Trained:
    lora: LoraSettings = settings.lora
    if settings.method == "full":
        return Trained()
    return trained_adapters(shape, lora.rank, lora.targets, lora.dropout)


def rows_at_once(shape: Shape, settings: TrainingSettings) -> int:
    """Rows that go through the model together: one where anything is dropped out."""
    if shape.drops_out or (settings.method == "lora" and settings.lora.dropout):
        return 1
    return max(1, settings.micro_batch_tokens // settings.data.max_tokens)


def state_bytes(shape: Shape, settings: TrainingSettings, *, workers: int) -> Memory:
    """Weights, gradients, the optimizer's state and DeepSpeed's buffers of one worker."""
    trained, b, zero = trained_parameters(shape, settings), BYTES[settings.dtype], settings.zero
    frozen = shape.parameters if settings.method == "lora" else 0
    share = -(-trained // workers)
    bucket = min(trained, _told_number(settings, "reduce_bucket_size", LARGEST_BUCKET))
    # Under ZeRO-3 DeepSpeed leaves adapters in the float32 that PEFT gives them.
    own = WHOLE if zero == 3 and frozen else b
    weights = frozen * b + trained * own
    loaded = weights  # where it is loaded, before it goes to the GPU
    if zero == 3:
        weights = loaded = -(-weights // workers)
    if settings.offload != "none":
        return _offloaded(shape, settings, weights, trained=trained, share=share, bucket=bucket)
    device = {"weights": weights}
    if zero == 0:
        device |= {"optimizer": MOMENTS * trained, "gradients": WHOLE * trained, "buckets": WHOLE * bucket}
        return Memory(device, loaded)
    device["optimizer"] = (WHOLE + MOMENTS) * share
    if zero == 1:
        accumulated = trained * WHOLE + (trained * b if b < WHOLE else 0)
        device |= {"gradients": accumulated + (WHOLE * share if b < WHOLE else 0), "buckets": b * bucket}
    elif zero == 2:
        device |= {"gradients": (WHOLE + b) * share, "buckets": b * bucket}
    else:
        device |= _of_stage_3(shape, settings, own=own, share=share, bucket=bucket)
    return Memory(device, loaded)


def _of_stage_3(shape: Shape, settings: TrainingSettings, *, own: int, share: int, bucket: int) -> dict[str, int]:
    """Gradients, buckets and what is gathered, without offloading."""
    cast = 0 if own == WHOLE else WHOLE * min(share, bucket)
    reduced = own * bucket + cast
    updated = WHOLE * min(share, _told_number(settings, "sub_group_size", SUB_GROUP))
    # A step's update comes when nothing is gathered.
    working = max(_gathered(shape, settings) + reduced, updated)
    return {"gradients": WHOLE * share, "buckets": BYTES[settings.dtype] * bucket, "gathered": working}


def _gathered(shape: Shape, settings: TrainingSettings) -> int:
    live = _told_number(settings, "stage3_max_live_parameters", LIVE_PARAMETERS)
    return BYTES[settings.dtype] * min(shape.parameters, max(live, shape.embeddings))


def _offloaded(
    shape: Shape, settings: TrainingSettings, weights: int, *, trained: int, share: int, bucket: int
) -> Memory:
    """Master weights, moments and gradients lie on the host, the latter twice; under `all` the weights do too."""
    b, zero = BYTES[settings.dtype], settings.zero
    host = (WHOLE + MOMENTS + 2 * WHOLE) * share
    if zero == 3:
        own = WHOLE if settings.method == "lora" else b
        gathered = _gathered(shape, settings) + own * bucket + (0 if own == WHOLE else WHOLE * min(share, bucket))
        if settings.offload == "all":
            return Memory({"buckets": b * bucket, "gathered": gathered}, host + weights)
        return Memory({"weights": weights, "buckets": b * bucket, "gathered": gathered}, max(host, weights))
    # The host's copy in the model's numbers, from which the weights are taken back.
    host += b * share
    accumulated = trained * WHOLE + (trained * b if b < WHOLE else 0) if zero == 1 else b * share
    return Memory({"weights": weights, "gradients": accumulated, "buckets": b * bucket}, max(host, weights))


def _told_number(settings: TrainingSettings, key: str, default: int) -> int:
    """What DeepSpeed is told of ZeRO, read as it reads it. `UserError` for what is no whole number."""
    given = deepspeed_config(settings)["zero_optimization"].get(key, default)
    try:
        return WHOLE_NUMBER.validate_python(given)
    except ValidationError as error:
        raise UserError(
            f"training.deepspeed: zero_optimization.{key} is a whole number, found {given!r}; "
            "write it in digits (YAML takes 5e8 for text, and reads 500000000 or 5.0e+8)"
        ) from error
