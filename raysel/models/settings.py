"""Which model, how its samples are templated, and the small base model that can be made from a corpus."""

from typing import Literal

from pydantic import Field, model_validator

from raysel.settings import Section

Template = Literal["auto", "plain", "chatml", "llama3", "alpaca"]


class BaseModelSettings(Section):
    """A small Llama with a byte-level BPE tokenizer, trained from nothing on the corpus."""

    vocabulary: int = Field(4096, ge=300, le=256_000)
    width: int = Field(128, ge=16)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    context: int = Field(512, ge=32)
    steps: int = Field(120, ge=1)
    batch_samples: int = Field(16, ge=1)
    learning_rate: float = Field(3e-3, gt=0)

    @model_validator(mode="after")
    def heads_divide_width(self) -> "BaseModelSettings":
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        return self


class ModelSettings(Section):
    """A Hugging Face folder or name (`path`), or a small model made from the corpus first (`base`): one of the two."""

    path: str | None = None
    revision: str | None = None
    base: BaseModelSettings | None = None
    template: Template = "auto"
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def one_source(self) -> "ModelSettings":
        if (self.path is None) == (self.base is None):
            raise ValueError(
                "give exactly one of path (a Hugging Face folder or name) and base (a small model to make)"
            )
        return self

    def without_effect(self) -> list[str]:
        idle = []
        if self.base is not None and self.revision is not None:
            idle.append("revision: the model is made from the corpus (base), not fetched")
        return idle
