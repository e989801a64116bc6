"""How samples become token rows and how a model is trained on them."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raysel.settings import Section, execution
from raysel.training.deepspeed_config import deepspeed_config
from raysel.training.trackers import refuse_unknown_trackers

AUTO = "auto"


class TokenSettings(Section):
    """How samples become rows of tokens, and what one optimizer step trains on.

    max_tokens: a longer sample is cut on the right; no row is longer. Of an encoder-decoder it bounds what the decoder
    takes in: the token that it begins with, and the response.
    max_source_tokens: of an encoder-decoder, where a longer prompt is cut (left open: at max_tokens).
    packing: puts several samples of one step into one row; it changes no loss, and it is left out for model families
    whose attention cannot keep the samples of a row apart.
    batch_samples: samples of one optimizer step, in the order of training.
    batch_tokens: in place of batch_samples: a step trains on the next samples that have at most so many tokens together
    (prompts and responses, as far as max_tokens lets them in).
    epochs: how often the selection is gone through.
    heldout_samples: how many samples of each language in the corpus' held-out part are followed: their loss before
    training, with every checkpoint, and after it.
    """

    max_tokens: int = Field(512, ge=2)
    max_source_tokens: int | None = Field(None, ge=2)
    packing: bool = True
    batch_samples: int = Field(16, ge=1)
    batch_tokens: int | None = Field(None, ge=2)
    epochs: int = Field(1, ge=1)
    heldout_samples: int = Field(16, ge=0)

    @model_validator(mode="after")
    def the_longest_sample_fits_a_step(self) -> "TokenSettings":
        if self.batch_tokens is not None and self.batch_tokens < self.max_tokens:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is less than max_tokens {self.max_tokens}: "
                "a step would have no room for the longest sample"
            )
        return self

    def row_tokens(self, *, has_encoder: bool) -> int:
        """The most tokens of a row; of an encoder-decoder those of the prompt and of the response."""
        return self.max_tokens + ((self.max_source_tokens or self.max_tokens) if has_encoder else 0)


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2022): the update is alpha / rank times B A.

    rank: of A and B.
    alpha: what the update is multiplied by, over the rank.
    dropout: the share of an adapter's input that is dropped in training.
    rslora: divides by the square root of the rank instead (Kalajdzievski 2023).
    dora: learns the size of each column of the weight apart from its direction (Liu et al. 2024).
    targets: the names of the modules that get adapters.
    merge: adds the update to the weights at the end: a whole model comes out instead of adapters.
    """

    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    rslora: bool = False
    dora: bool = False
    targets: Literal["all-linear"] | list[str] = "all-linear"
    merge: bool = False


class WarmupSettings(Section):
    """The warm-up of LESS: adapters trained on a random part of the corpus. Of every epoch the adapters and Adam's
    moments are kept. The learning rate falls linearly to 0.

    share: of the corpus.
    epochs: how many, and so how many times gradients are taken.
    lora: the adapters, plain ones: without dora and merge.
    learning_rate: at the start.
    batch_samples: samples of one optimizer step.
    max_tokens: how much of a sample is seen, here and when gradients are taken; of an encoder-decoder how much of the
    prompt, and how much of the response.
    dtype: of the weights.
    """

    share: float = Field(0.05, gt=0, le=1)
    epochs: int = Field(4, ge=1)
    lora: LoraSettings = LoraSettings(
        rank=128, alpha=512, dropout=0.1, targets=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    learning_rate: float = Field(2e-5, gt=0)
    batch_samples: int = Field(32, ge=1)
    max_tokens: int = Field(512, ge=2)
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def plain_adapters(self) -> "WarmupSettings":
        if named := [name for name in ("dora", "merge") if getattr(self.lora, name)]:
            raise ValueError(f"lora.{named[0]}: gradients are taken of plain adapters; leave it out")
        return self


class TrainingSettings(Section):
    """Supervised fine-tuning with AdamW on DeepSpeed (docs/training.md).

    method: LoRA adapters, or all the weights (`full`).
    learning_rate: the highest of the schedule.
    schedule: what the learning rate does after it has risen.
    warmup_share: over this share of the steps the learning rate rises linearly.
    weight_decay: of matrices; norms and biases are never decayed.
    clip_norm: bounds the norm of the gradient (null: no bound).
    dtype: of the weights in the model's passes; bfloat16 needs zero 1, 2 or 3, which update weights in float32.
    skipped_steps: how many steps whose loss or gradient is not finite may be passed over; one more ends the run.
    export: which weights come out: the last, or those of the checkpoint with the least loss on what is held out.
    zero: the stage of ZeRO, which shards over the workers the optimizer's state (1), the gradients too (2) and the
    weights too (3), or nothing (0).
    offload: keeps the optimizer's state (`optimizer`), or under ZeRO-3 all that is not at work (`all`), in the memory
    of the CPUs.
    deepspeed: a DeepSpeed configuration (a mapping, or a JSON file) that is added to what these settings decide.
    micro_batch_tokens: bounds what goes through the model at once: as many rows as it has room for, at least one. More
    share what ZeRO-2 and 3 send between the workers, and take more memory. With `auto` as many as memory holds, found
    by trial before the first step.
    activation_checkpointing: computes activations again in the backward pass, which takes time and spares memory. With
    `auto` where a row does not fit without, found by trial too.
    checkpoint_steps: a checkpoint is written every so many steps, and at the end. With export best it counts: it says
    which steps are candidates.
    checkpoint_minutes: one is also written when so many minutes have gone since the last.
    checkpoints_kept: so many of the last stay, and of those by steps the one with the least loss on what is held out.
    trackers: are told every metric besides the run's own log: `tensorboard` writes event files below `trackers/` in the
    storage.
    workers: of the training (left open: one per GPU, without GPUs two).
    cpus_per_worker: CPUs of each (left open: all are shared out; with a GPU one).
    max_failures: how often a group of workers that lost one is started again.
    timeout_minutes: bounds every collective operation.
    """

    data: TokenSettings = TokenSettings()
    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(2e-4, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_share: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(1.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    skipped_steps: int = execution(0, ge=0)
    export: Literal["last", "best"] = "last"
    zero: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = execution("none")
    deepspeed: dict[str, Any] | None = None
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = execution(2048)
    activation_checkpointing: bool | Literal["auto"] = execution(False)
    checkpoint_steps: int = execution(50, ge=1)
    checkpoint_minutes: float | None = execution(None, gt=0)
    checkpoints_kept: int = execution(2, ge=1)
    trackers: list[str] = execution([])
    workers: int | None = execution(None, ge=1)
    cpus_per_worker: int | None = execution(None, ge=1)
    max_failures: int = execution(2, ge=0)
    timeout_minutes: float = execution(30.0, gt=0)

    @field_validator("trackers")
    @classmethod
    def installed(cls, names: list[str]) -> list[str]:
        refuse_unknown_trackers(names)
        return names

    @field_validator("deepspeed", mode="before")
    @classmethod
    def from_a_file(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"this DeepSpeed configuration cannot be read as JSON: {error}") from error

    @model_validator(mode="after")
    def what_offloading_needs(self) -> "TrainingSettings":
        if self.offload == "optimizer" and self.zero == 0:
            raise ValueError("offload optimizer needs zero 1, 2 or 3")
        if self.offload == "all" and self.zero != 3:
            raise ValueError("offload all needs zero 3, which is what shards the weights")
        return self

    @model_validator(mode="after")
    def the_best_is_one_that_was_measured(self) -> "TrainingSettings":
        if self.export == "best" and not self.data.heldout_samples:
            raise ValueError("export best needs a loss to go by: data.heldout_samples is 0")
        return self

    @model_validator(mode="after")
    def no_two_say_different_things(self) -> "TrainingSettings":
        deepspeed_config(self)
        return self

    @model_validator(mode="after")
    def master_weights_are_float32(self) -> "TrainingSettings":
        if self.dtype == "bfloat16" and self.zero == 0:
            raise ValueError("dtype bfloat16 needs zero 1, 2 or 3, which keep the weights that are updated in float32")
        return self

    def without_effect(self) -> list[str]:
        found = []
        if "lora" in self.model_fields_set and self.method == "full":
            found.append("lora: the method is full, which trains every weight")
        if "batch_samples" in self.data.model_fields_set and self.data.batch_tokens is not None:
            found.append("data.batch_samples: data.batch_tokens says what a step trains on")
        return found


def warmup_training(warmup: WarmupSettings, workers: TrainingSettings) -> TrainingSettings:
    """How the warm-up of LESS trains, on workers that run as `workers` says."""
    return TrainingSettings(
        data=TokenSettings(max_tokens=warmup.max_tokens, batch_samples=warmup.batch_samples, heldout_samples=0),
        lora=warmup.lora,
        learning_rate=warmup.learning_rate,
        schedule="linear",
        dtype=warmup.dtype,
        micro_batch_tokens=workers.micro_batch_tokens,
        workers=workers.workers,
        cpus_per_worker=workers.cpus_per_worker,
        max_failures=workers.max_failures,
        timeout_minutes=workers.timeout_minutes,
    )
