"""Which hidden state of which model stands for a sample."""

from typing import Literal

from pydantic import Field

from raysel.models.settings import ModelSettings
from raysel.settings import Section, execution


class EmbeddingSettings(Section):
    """Last-token hidden states (LangGPS): prompt and response in the chat template as one string, turn left unclosed.

    model defaults to the experiment's `model`, so that by default a model selects for itself.
    layer indexes the hidden states as transformers does: -1 is the last, after the final norm.
    dtype is what is stored; token_budget bounds the padded tokens of one batch (default by device: 1,024 on a CPU,
    65,536 on a GPU) and is kept in the plan, as shard_rows is, the rows that one shard holds at most.
    """

    model: ModelSettings | None = None
    max_tokens: int = Field(1024, ge=1)
    layer: int = -1
    dtype: Literal["float16", "float32"] = "float32"
    token_budget: int | None = execution(None, ge=1)
    shard_rows: int = execution(512, ge=1)
    workers: int | None = execution(None, ge=1)
