"""How samples become token rows and how a model is trained on them."""

from typing import Literal

from pydantic import Field, model_validator

from raysel.settings import Section, execution


class TokenSettings(Section):
    """One optimizer step trains on batch_samples samples, in the order of training.

    A sample longer than max_tokens is cut on the right. packing puts several samples of one step into one row of at
    most max_tokens; it changes no loss, and it is left out for model families whose attention cannot keep the samples
    of a row apart.
    """

    max_tokens: int = Field(512, ge=2)
    packing: bool = True
    batch_samples: int = Field(16, ge=1)
    epochs: int = Field(1, ge=1)


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2022): the update is alpha / rank times B A. targets are module names."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class TrainingSettings(Section):
    """Supervised fine-tuning with AdamW on DeepSpeed: LoRA adapters or all the weights (`full`), ZeRO stage 0 to 3.

    The learning rate rises linearly over the first warmup_share of the steps and then follows the schedule.
    clip_norm bounds the norm of the gradient (null: no bound). workers defaults to one per GPU, without GPUs to two.
    A checkpoint is written every checkpoint_steps steps; a group of workers that lost one is started again up to
    max_failures times. timeout_minutes bounds every collective operation.
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
    zero: Literal[0, 1, 2, 3] = 2
    activation_checkpointing: bool = execution(False)
    checkpoint_steps: int = execution(50, ge=1)
    workers: int | None = execution(None, ge=1)
    max_failures: int = execution(2, ge=0)
    timeout_minutes: float = execution(30.0, gt=0)

    @model_validator(mode="after")
    def master_weights_are_float32(self) -> "TrainingSettings":
        if self.dtype == "bfloat16" and self.zero == 0:
            raise ValueError("dtype bfloat16 needs zero 1, 2 or 3, which keep the weights that are updated in float32")
        return self

    def without_effect(self) -> list[str]:
        if "lora" in self.model_fields_set and self.method == "full":
            return ["lora: the method is full, which trains every weight"]
        return []
