"""Which hidden state of which model stands for a sample."""

from typing import Literal

from pydantic import Field

from raysel.models.settings import ModelSettings
from raysel.settings import Section, execution


class EmbeddingSettings(Section):
    """Last-token hidden states (LangGPS): prompt and response in the chat template as one string.

    model defaults to the experiment's `model`, so that by default a model selects for itself.
    token: the response's last token, the turn left unclosed, as in LangGPS; or the token that ends the turn.
    layer indexes the hidden states as transformers does: -1 is the last, after the final norm.
    dtype is what is stored; what is computed in is bfloat16 on GPUs, float32 on CPUs.
    token_budget bounds the tokens of one batch and is measured where it is not given; shard_rows are the rows of one
    shard, 512 where not given, or more in a corpus that would otherwise have over 4,096 shards. Both are kept in the
    plan. workers and gpus_per_worker (one replica of the model is split over
    so many) default to what fits.
    """

    model: ModelSettings | None = None
    token: Literal["response", "end_of_turn"] = "response"
    max_tokens: int = Field(1024, ge=1)
    layer: int = -1
    dtype: Literal["float16", "float32"] = "float32"
    token_budget: int | None = execution(None, ge=1)
    shard_rows: int | None = execution(None, ge=1)
    workers: int | None = execution(None, ge=1)
    gpus_per_worker: int | None = execution(None, ge=1)
