"""Last-token hidden states: one vector for each text (LangGPS, section 3; arXiv 2511.10229)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Measured on two CPU cores (width 256, 4 layers): batches of 1,024 padded tokens run twice as fast as batches of
# 16,384, which fall out of the caches. A GPU needs far larger ones to be busy.
DEFAULT_TOKEN_BUDGET = {"cpu": 1024, "cuda": 65_536}


@dataclass(frozen=True)
class Encoded:
    """vectors: float32 (N, d); n_tokens: int32 (N,), tokens fed; truncated: bool (N,)."""

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray


class LastTokenEncoder:
    """Takes the hidden state of each text's last token from a causal language model.

    model: a transformers causal LM or its base model; the language-model head is never run.
    tokenizer: its tokenizer; texts are tokenised as they stand, without added special tokens.
    max_tokens: longer texts are cut on the right, and the last token kept is taken.
    layer: index into the hidden states as transformers counts them; -1 is the last, after the final norm.
    dtype: the type to run in ("float32", "bfloat16", ...); None keeps the model's own.
    token_budget: padded tokens in one batch; None takes the default of the device. The batches depend on nothing
        but the texts and the budget, and so do the vectors' bits, given the number of threads.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_tokens: int = 1024,
        layer: int = -1,
        dtype: str | None = None,
        token_budget: int | None = None,
        device: str | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        body = getattr(model, model.base_model_prefix, model)
        self.model = body.to(device=self.device, dtype=getattr(torch, dtype) if dtype else None).eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.layer = layer
        self.token_budget = token_budget or DEFAULT_TOKEN_BUDGET.get(self.device.type, 1024)
        states = int(self.model.config.num_hidden_layers) + 1
        if not -states <= layer < states:
            raise ValueError(
                f"layer {layer} is not one of the model's {states} hidden states (-{states} to {states - 1})"
            )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, d): the vectors of `texts`, in the order given."""
        return self.encode_with_lengths(texts).vectors

    @torch.inference_mode()
    def encode_with_lengths(self, texts: Sequence[str]) -> Encoded:
        """The vectors of `texts`, with how many tokens of each were fed and whether it was cut.

        Raises ValueError for a text without a single token.
        """
        tokens, truncated = self._tokenise(texts)
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int32)
        if len(lengths) and lengths.min() == 0:
            raise ValueError(f"text {int(lengths.argmin())} has no token")
        vectors = np.empty((len(texts), int(self.model.config.hidden_size)), dtype=np.float32)
        for rows in batches_under_budget(lengths, self.token_budget):
            longest = int(lengths[rows].max())
            # Right padding needs no mask: attention is causal, so the last real token never sees what follows it.
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            for i, row in enumerate(rows):
                ids[i, : lengths[row]] = torch.tensor(tokens[row])
            last = torch.tensor(lengths[rows].astype(np.int64) - 1, device=self.device)
            states = self._hidden_states(ids.to(self.device))
            vectors[rows] = states[torch.arange(len(rows), device=self.device), last].float().cpu().numpy()
        return Encoded(vectors, lengths, truncated)

    def _hidden_states(self, ids: torch.Tensor) -> torch.Tensor:
        if self.layer == -1:
            return self.model(input_ids=ids, use_cache=False).last_hidden_state
        return self.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[self.layer]

    def _tokenise(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        if not texts:
            return [], np.zeros(0, dtype=bool)
        self.tokenizer.truncation_side = "right"
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=self.max_tokens + 1, verbose=False
        )["input_ids"]
        truncated = np.array([len(ids) > self.max_tokens for ids in encoded])
        return [ids[: self.max_tokens] for ids in encoded], truncated


def batches_under_budget(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Rows in batches of near-equal length, the longest first, each of at most `budget` padded tokens (or one row)."""
    by_length = np.argsort(-lengths.astype(np.int64), kind="stable")
    start = 0
    while start < len(by_length):
        rows = max(1, budget // int(lengths[by_length[start]]))
        yield by_length[start : start + rows]
        start += rows
