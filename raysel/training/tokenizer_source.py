"""The tokenizer and the positions of the model that samples are made into tokens for."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysel.errors import UserError
from raysel.models.loading import decoder_start, load_tokenizer
from raysel.store import Artifact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenError(UserError):
    """Samples that cannot be made into token rows as asked."""


@dataclass(frozen=True)
class TokenizerSource:
    """The tokenizer of a model artifact or of a local folder, with a chat template."""

    model: Artifact | str
    template: str
    trust_remote_code: bool

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.model if isinstance(self.model, str) else self.model.local_folder("model", Path(scratch))
            return load_tokenizer(folder, self.template, trust_remote_code=self.trust_remote_code)


def read_config(model: Artifact | str) -> dict[str, Any]:
    """The `config.json` of a model artifact or of a local folder."""
    if isinstance(model, str):
        config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    else:
        [shard] = [shard for shard in model.shards("model") if shard.path.endswith("/config.json")]
        config = json.loads(model.store.read_bytes(f"{model.address}/{shard.path}"))
    return config


def refuse_beyond_positions(config: dict[str, Any], max_tokens: int, setting: str) -> None:
    """`TokenError` where the model has fewer positions than `max_tokens`."""
    if decoder_start(config) is not None:
        return  # T5's positions are relative: its n_positions is what it was trained with
    # GPT-2 says it by another name; its learned positions end there.
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if longest is not None and max_tokens > longest:
        raise TokenError(
            f"{setting} {max_tokens} is more than the model's {longest} positions; set it to at most {longest}"
        )
