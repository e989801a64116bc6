"""Last-token hidden states: one vector for each text (LangGPS, section 3; arXiv 2511.10229)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from raysel.embedding.batches import batches_under_budget
from raysel.embedding.last_tokens import block_count, exact_forward, is_out_of_memory
from raysel.embedding.token_budget import BUDGETS, DEFAULT_TOKEN_BUDGET, fastest_budget

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """vectors: float32 (N, d), or (N, layers, d) for a list of layers; n_tokens: int32 (N,), tokens fed;
    truncated: bool (N,)."""

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray


@dataclass(frozen=True)
class Tokens:
    """ids: of each text the token ids that are fed; truncated: bool (N,), whether any were cut off."""

    ids: list[np.ndarray]
    truncated: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], dtype=np.int32)


class LastTokenEncoder:
    """Takes the hidden state of each text's last token from a causal language model.

    model: a transformers causal LM or its base model; the language-model head is never run.
    tokenizer: its tokenizer; texts are tokenised as they stand, without added special tokens.
    max_tokens: longer texts are cut on the right, and the last token kept is taken.
    layer: index into the hidden states as transformers counts them, -1 is the last, after the final norm; or a list of
        such indices, all taken in one pass.
    dtype: the type to run in ("float32", "bfloat16", ...); None keeps the model's own.
    token_budget: tokens in one batch; None takes the default of the device, `measure_token_budget` the fastest. The
        batches depend on nothing but the texts and the budget, and so do the vectors' bits, given the number of
        threads. Where a batch does not fit in memory the budget is halved.
    packed: whether the texts of a batch lie end to end without padding; None for where a kernel does that well: in
        16-bit numbers on CUDA, for models that let their attention be replaced. Else they are padded on the right,
        whatever the tokenizer's side, with no need of a pad token.
    add_special_tokens: let the tokenizer add its own special tokens.

    ValueError for a layer the model does not have, or for a model whose hidden states cannot be taken.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_tokens: int = 1024,
        layer: int | Sequence[int] = -1,
        dtype: str | None = None,
        token_budget: int | None = None,
        device: str | None = None,
        packed: bool | None = None,
        add_special_tokens: bool = False,
    ) -> None:
        body = getattr(model, model.base_model_prefix, model)
        if not hasattr(model, "hf_device_map"):
            body = body.to(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype is not None:
            body = body.to(dtype=getattr(torch, dtype))
        body.eval()
        self.device = next(body.parameters()).device
        self.tokenizer, self.add_special_tokens = tokenizer, add_special_tokens
        self.max_tokens = max_tokens
        self.token_budget = token_budget or DEFAULT_TOKEN_BUDGET.get(self.device.type, 1024)
        self.one_layer = isinstance(layer, int)
        self.positions = _learned_positions(body)
        if packed is None:
            packed = self.device.type == "cuda" and body.dtype.itemsize == 2
        self.forward = exact_forward(body, _layers(body, layer), packed=packed)
        self.width = body.get_input_embeddings().embedding_dim

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, d), or (N, layers, d) for a list of layers: the vectors of `texts`, in the order given.

        ValueError for a text without a single token.
        """
        return self.encode_tokens(self.tokenise(texts)).vectors

    def tokenise(self, texts: Sequence[str]) -> Tokens:
        """What is fed of each text. ValueError for one without a token, or with more than the model has positions."""
        if not texts:
            return Tokens([], np.zeros(0, dtype=bool))
        self.tokenizer.truncation_side = "right"
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=self.add_special_tokens,
            truncation=True,
            max_length=self.max_tokens + 1,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        empty = next((i for i, ids in enumerate(encoded) if not ids), None)
        if empty is not None:
            raise ValueError(f"text {empty} has no token")
        truncated = np.array([len(ids) > self.max_tokens for ids in encoded])
        tokens = Tokens([np.array(ids[: self.max_tokens], dtype=np.int64) for ids in encoded], truncated)
        if self.positions is not None and (longest := int(tokens.lengths.max())) > self.positions:
            raise ValueError(
                f"text {int(tokens.lengths.argmax())} has {longest:,} tokens, and the model has learned "
                f"{self.positions:,} positions: max_tokens must be at most that"
            )
        return tokens

    def encode_tokens(self, tokens: Tokens) -> Encoded:
        """The vectors of tokenised texts. MemoryError where one text alone does not fit."""
        lengths = tokens.lengths
        vectors = np.empty((len(lengths), len(self.forward.layers), self.width), dtype=np.float32)
        for rows in self._batches(lengths):
            for part, states in self._run(tokens, rows):
                vectors[part] = states
        return Encoded(vectors[:, 0] if self.one_layer else vectors, lengths, tokens.truncated)

    def measure_token_budget(self, tokens: Tokens) -> int:
        """The budget under which texts like these go through the fastest, measured on some of their batches."""
        lengths = tokens.lengths

        def seconds_per_token(budget: int) -> float:
            batches = list(batches_under_budget(lengths, budget, packed=self.forward.packed))
            # Batches at four places between the longest and the shortest texts.
            chosen = [batches[len(batches) * place // 8] for place in (1, 3, 5, 7)]
            try:
                self.forward([tokens.ids[i] for i in chosen[0]]).cpu()
                start = time.perf_counter()
                for rows in chosen:
                    self.forward([tokens.ids[i] for i in rows]).cpu()
            except RuntimeError as error:
                self._refuse_unless_out_of_memory(error)
                return float("inf")
            return (time.perf_counter() - start) / int(sum(lengths[rows].sum() for rows in chosen))

        kind = self.device.type if self.device.type in BUDGETS else "cpu"
        return fastest_budget(BUDGETS[kind], DEFAULT_TOKEN_BUDGET[kind], seconds_per_token)

    def _refuse_unless_out_of_memory(self, error: RuntimeError) -> None:
        if not is_out_of_memory(error):
            raise error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        return batches_under_budget(lengths, self.token_budget, packed=self.forward.packed)

    def _run(self, tokens: Tokens, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The states of a batch; of its halves where it does not fit in memory, from then on under half the budget."""
        try:
            states = self.forward([tokens.ids[i] for i in rows]).cpu().numpy()
        except RuntimeError as error:
            self._refuse_unless_out_of_memory(error)
        else:
            yield rows, states
            return
        if len(rows) == 1:
            raise MemoryError(
                f"a text of {len(tokens.ids[rows[0]]):,} tokens does not fit in the memory of {self.device}"
            )
        self.token_budget = max(1, min(self.token_budget, int(tokens.lengths[rows].sum())) // 2)
        for half in np.array_split(rows, 2):
            yield from self._run(tokens, half)


def _layers(body: "PreTrainedModel", layer: int | Sequence[int]) -> list[int]:
    states = block_count(body) + 1
    asked = [layer] if isinstance(layer, int) else list(layer)
    if not asked:
        raise ValueError("layer is an empty list: give at least one index")
    for index in asked:
        if not -states <= index < states:
            raise ValueError(
                f"layer {index} is not one of the model's {states} hidden states (-{states} to {states - 1})"
            )
    return [index % states for index in asked]


def _learned_positions(body: "PreTrainedModel") -> int | None:
    """How many positions the model has learned vectors for; None where positions (rotary, ALiBi) go on."""
    positions = int(getattr(body.config.get_text_config(), "max_position_embeddings", 0) or 0)
    others = [m for m in body.modules() if isinstance(m, torch.nn.Embedding) and m is not body.get_input_embeddings()]
    # Some families (OPT) keep two more rows than positions.
    return positions if any(0 <= table.num_embeddings - positions <= 2 for table in others) else None
