"""Which hidden state of which model stands for a sample."""

from typing import Literal

from pydantic import Field

from raysel.models.settings import ModelSettings
from raysel.settings import Section, execution


class EmbeddingSettings(Section):
    """Last-token hidden states (LangGPS): prompt and response in the chat template as one string (docs/embedding.md).

    model: another model that gives the vectors (left open: the experiment's, so that a model selects for itself).
    token: which hidden state is taken: the response's last token, the turn left unclosed, as in LangGPS; or the token
    that ends the turn.
    max_tokens: longer samples are cut on the right.
    layer: indexes the hidden states as transformers does: 0 is the embeddings, -1 the last, after the final norm.
    dtype: what is stored; what is computed in is bfloat16 on GPUs, float32 on CPUs.
    token_budget: the most tokens of one batch (left open: measured, and kept in the plan).
    shard_rows: rows of one shard (left open: 512, or more in a corpus that would otherwise have over 4,096 shards);
    kept in the plan.
    workers: replicas of the model (left open: as many as fit).
    gpus_per_worker: GPUs that one replica is split over (left open: as many as it needs).
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
