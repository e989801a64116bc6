"""Which model, how its samples are templated, and the small base model that can be made from a corpus."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from raysel.settings import Section

NAMED = ("auto", "plain", "chatml", "llama3", "alpaca")
JINJA_FILES = (".jinja", ".j2")


class BaseModelSettings(Section):
    """A small Llama with a byte-level BPE tokenizer, trained from nothing on the corpus.

    vocabulary: tokens of the tokenizer.
    width: hidden units; an even multiple of heads.
    layers: transformer blocks.
    heads: attention heads of each.
    context: the most tokens the model takes, and those a sample is cut at.
    steps: optimizer steps.
    batch_samples: samples of one step.
    learning_rate: the highest of a cosine schedule with a warm-up.
    seed: of the weights and of the order (left open: the experiment's).
    """

    vocabulary: int = Field(4096, ge=300, le=256_000)
    width: int = Field(128, ge=16)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    context: int = Field(512, ge=32)
    steps: int = Field(120, ge=1)
    batch_samples: int = Field(16, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    seed: int | None = Field(None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def heads_divide_width(self) -> "BaseModelSettings":
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        return self


class TemplateSettings(Section):
    """A chat template. The section may also be written as the name alone, `template: llama3`.

    name: the tokenizer's own (`auto`), one of raysel's (`plain`, `chatml`, `llama3`, `alpaca`), or a Jinja file
    (.jinja, .j2).
    legacy_bos: lets the tokenizer add its special tokens to the templated text once more when hidden states are taken:
    for Llama 3 a second BOS, as the public implementation of LangGPS has it. Training never doubles any.
    """

    name: str = "auto"
    legacy_bos: bool = False

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name not in NAMED and not name.endswith(JINJA_FILES):
            raise ValueError(f"choose one of {', '.join(NAMED)}, or give a Jinja file (.jinja, .j2)")
        return name


class ModelSettings(Section):
    """A Hugging Face folder or name (`path`), or a small model made from the corpus first (`base`): one of the two.

    path: a folder, or a name on the Hugging Face hub.
    revision: which revision is fetched from the hub (left open: the newest).
    base: the small model; `{}` is one of the default size. Only the experiment's own model can be made.
    trust_remote_code: lets a model run code that it brings along. Without it none is run.
    """

    path: str | None = None
    revision: str | None = None
    base: BaseModelSettings | None = None
    template: TemplateSettings = TemplateSettings()
    trust_remote_code: bool = False

    @field_validator("template", mode="before")
    @classmethod
    def a_name_alone(cls, template: Any) -> Any:
        return {"name": template} if isinstance(template, str) else template

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
