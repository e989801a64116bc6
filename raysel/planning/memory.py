"""Bytes that one worker holds while it trains, on its GPU and on its host, part by part.

B of the trained numbers are reduced at once, by W workers. What DeepSpeed 0.19 keeps beside the weights, per trained
number and at its most, measured with one worker and read in its source for more:

- ZeRO-0 (float32): Adam's moments 8; gradients 4, and 4 B while they are reduced.
- ZeRO-1: float32 master weights and moments 12 / W; gradients 4, in bfloat16 also 2 as they come; buckets; the share
  that is updated 4 / W.
- ZeRO-2: the same 12 / W; float32 gradients only of the worker's share, 4 / W; buckets, in bfloat16 twice, since what
  is reduced is a copy; in float32 what a micro-batch adds, a share more.
- ZeRO-3: the weights over W too; float32 gradients of the share; buckets; the weights that are gathered at a time.

Where all weights are trained, the largest matrix counts by itself: its gradient comes whole, and stays while the next
comes if it has no room in a bucket. If it is the head and the embeddings at once, autograd holds the head's gradient
until the embeddings' comes, and adds both into a third. With `overlap_comm` ZeRO-1 and 2 fill one bucket while another
is reduced.

Sources: Rajbhandari et al. 2020 (arXiv 1910.02054), section 5, for what is sharded; DeepSpeed's stage_1_and_2.py and
stage3.py for buckets, copies and what offloading moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from raysel.disk import readable
from raysel.embedding.placement import CONTEXT_BYTES
from raysel.errors import UserError
from raysel.models.shape import Shape
from raysel.planning.activations import (
    BYTES,
    WHOLE,
    Trained,
    activation_bytes,
    dora_bytes,
    encoder_decoder_bytes,
    logit_bytes,
    trained_adapters,
)
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
    return shape.lora_parameters(settings.lora.rank, settings.lora.targets, dora=settings.lora.dora)


def training_memory(shape: Shape, settings: TrainingSettings, *, workers: int) -> Memory:
    """What each of `workers` holds at the most in a step; what is `auto` counts at its least. `ShapeError` where the
    model cannot be trained as asked."""
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
    row_tokens = settings.data.row_tokens(has_encoder=shape.has_encoder)
    learned = rows * settings.data.max_tokens
    trained = what_is_trained(shape, settings)
    kept: dict[str, Any] = {
        "dtype": settings.dtype,
        "trained": trained,
        "checkpointing": bool(settings.activation_checkpointing),
    }
    if shape.has_encoder:
        target = settings.data.max_tokens
        activations = encoder_decoder_bytes(shape, rows=rows, source_tokens=row_tokens - target, tokens=target, **kept)
    else:
        activations = activation_bytes(shape, tokens=learned, row_tokens=row_tokens, **kept)
    # At the end of the backward's first half the logits are gone, and the gradients inside a block come.
    between = rows * row_tokens * BYTES[settings.dtype] * 2 * (shape.inner + shape.width)
    dora = dora_bytes(shape, dtype=settings.dtype, trained=trained)
    logits = max(logit_bytes(shape, dtype=settings.dtype, tokens=learned), between, dora)
    return {"activations": activations, "logits": logits, "context": CONTEXT_BYTES}


def what_is_trained(shape: Shape, settings: TrainingSettings) -> Trained:
    lora: LoraSettings = settings.lora
    if settings.method == "full":
        return Trained()
    return trained_adapters(shape, lora.rank, lora.targets, lora.dropout, dora=lora.dora)


def rows_at_once(shape: Shape, settings: TrainingSettings) -> int:
    """Rows that go through the model together: one where anything is dropped out, and at least where it is `auto`."""
    tokens = settings.micro_batch_tokens
    if not isinstance(tokens, int) or shape.drops_out or (settings.method == "lora" and settings.lora.dropout):
        return 1
    return max(1, tokens // settings.data.row_tokens(has_encoder=shape.has_encoder))


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
    device = {"weights": weights, "optimizer": (WHOLE + MOMENTS) * share}
    if zero == 0:
        # What is reduced at once is not what DeepSpeed is told, which it heeds from ZeRO-1 on.
        reduced = max(WHOLE * min(trained, LARGEST_BUCKET), _arriving(shape, settings, LARGEST_BUCKET))
        device |= {"optimizer": MOMENTS * trained, "gradients": WHOLE * trained, "buckets": reduced}
    elif zero == 1:
        device |= _of_stage_1(shape, settings, trained=trained, bucket=bucket)
        device["gradients"] += WHOLE * share if b < WHOLE else 0
    elif zero == 2:
        device |= _of_stage_2(shape, settings, share=share, bucket=bucket)
    else:
        device |= _of_stage_3(shape, settings, own=own, share=share, bucket=bucket)
    return Memory(device, loaded)


def _of_stage_1(shape: Shape, settings: TrainingSettings, *, trained: int, bucket: int) -> dict[str, int]:
    """Gradients and buckets."""
    b = BYTES[settings.dtype]
    if b < WHOLE:
        # Measured to be half of this with small buckets or `overlap_comm`, and never more.
        return {"gradients": (WHOLE + b) * trained, "buckets": b * bucket}
    arriving = _arriving(shape, settings, bucket)
    if settings.method == "full" and shape.tied:
        # Measured: here the sum of both ends' gradients is there twice, where a reduction is slow to let it go.
        arriving += WHOLE * shape.embeddings
    return {"gradients": WHOLE * trained, "buckets": _buckets(settings, bucket), "arriving gradients": arriving}


def _of_stage_2(shape: Shape, settings: TrainingSettings, *, share: int, bucket: int) -> dict[str, int]:
    """Gradients and buckets. A bucket that holds all is reduced when the last gradient has come."""
    buckets, arriving = _buckets(settings, bucket), _arriving(shape, settings, bucket)
    last = bucket == trained_parameters(shape, settings)
    if settings.dtype == "float32":
        added = WHOLE * share
    else:
        # The copy that is reduced; of its largest matrix one in float32 is added up.
        added = buckets + (WHOLE * min(share, shape.largest) if settings.method == "full" else 0)
    together = max(added, arriving) if last else added + arriving
    return {"gradients": WHOLE * share, "buckets": buckets, "arriving gradients": together}


def _buckets(settings: TrainingSettings, bucket: int) -> int:
    """Bytes of those of ZeRO-1 and 2, of `bucket` numbers each."""
    overlapping = bool(deepspeed_config(settings)["zero_optimization"].get("overlap_comm"))
    return (1 + overlapping) * BYTES[settings.dtype] * bucket


def _arriving(shape: Shape, settings: TrainingSettings, bucket: int) -> int:
    """Bytes of the gradients of large matrices before they are in a bucket; those of adapters are small."""
    if settings.method == "lora":
        return 0
    largest = shape.largest * (1 + (shape.largest > bucket))
    return BYTES[settings.dtype] * max(largest, shape.embeddings * (1 + 2 * shape.tied))


def _of_stage_3(shape: Shape, settings: TrainingSettings, *, own: int, share: int, bucket: int) -> dict[str, int]:
    """Gradients, buckets and what is gathered, without offloading."""
    updated = WHOLE * min(share, _told_number(settings, "sub_group_size", SUB_GROUP))
    # A step's update comes when nothing is gathered.
    working = max(_at_work(shape, settings, own=own, share=share, bucket=bucket), updated)
    return {"gradients": WHOLE * share, "buckets": BYTES[settings.dtype] * bucket, "gathered": working}


def _at_work(shape: Shape, settings: TrainingSettings, *, own: int, share: int, bucket: int) -> int:
    """Bytes of the weights that are gathered and the gradients that come and are reduced, under ZeRO-3."""
    reduced = own * bucket + (0 if own == WHOLE else WHOLE * min(share, bucket))
    arriving = _arriving(shape, settings, bucket)
    last = bucket == trained_parameters(shape, settings)
    return _gathered(shape, settings) + (max(reduced, arriving) if last else reduced + arriving)


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
        gathered = _at_work(shape, settings, own=own, share=share, bucket=bucket)
        if settings.offload == "all":
            return Memory({"buckets": b * bucket, "gathered": gathered}, host + weights)
        return Memory({"weights": weights, "buckets": b * bucket, "gathered": gathered}, max(host, weights))
    # The host's copy in the model's numbers, from which the weights are taken back.
    host += b * share
    if zero == 1:
        gradients = _of_stage_1(shape, settings, trained=trained, bucket=bucket)
    else:
        gradients = _of_stage_2(shape, settings, share=share, bucket=bucket)
    return Memory({"weights": weights} | gradients, max(host, weights))


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
