"""Last-token hidden states: one vector for each text (LangGPS, section 3; arXiv 2511.10229)."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from raysel.embedding.batches import batches_under_budget
from raysel.embedding.cpu import copy_for_thread
from raysel.embedding.last_tokens import LastTokenForward, block_count, exact_forward
from raysel.embedding.positions import long_rope_from, position_limit
from raysel.embedding.threads import one_thread_each
from raysel.embedding.token_budget import BUDGETS, DEFAULT_TOKEN_BUDGET, fastest_budget
from raysel.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MEASURED_PLACES = 4


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
    """Takes the hidden state of each text's last token from a language model.

    model: a transformers causal LM or its base model, or an encoder-decoder (T5) or its encoder, whose states are
        taken; the language-model head is never run, nor a decoder behind an encoder.
    tokenizer: its tokenizer; texts are tokenised as they stand, without added special tokens.
    max_tokens: longer texts are cut on the right, and the last token kept is taken.
    layer: index into the hidden states as transformers counts them, -1 is the last, after the final norm; or a list of
        such indices, all taken in one pass.
    dtype: the type to run in ("float32", "bfloat16", ...); None keeps the model's own.
    token_budget: tokens in one batch; None takes the default of the device, `measure_token_budget` the fastest. The
        batches depend on nothing but the texts and the budget, and so do the vectors' bits. Where a batch does not fit
        in memory the budget is halved.
    packed: whether the texts of a batch lie end to end without padding; None for where a kernel does that well: in
        16-bit numbers on CUDA, for models that let their attention be replaced. Else they are padded on the right,
        whatever the tokenizer's side, with no need of a pad token.
    add_special_tokens: let the tokenizer add its own special tokens.
    threads: how many batches go through the model at the same time, each computed by one thread; None for as many as
        torch has threads, on a GPU 1. They share the weights. Measured on two cores (width 256, 4 layers), two batches
        by a thread each are 1.2 times as fast as one batch by two threads.

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
        threads: int | None = None,
    ) -> None:
        body = getattr(model, model.base_model_prefix, model)
        if model.config.is_encoder_decoder and hasattr(model, "decoder"):
            body = model.get_encoder()
        if not hasattr(model, "hf_device_map"):
            body = body.to(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype is not None:
            body = body.to(dtype=getattr(torch, dtype))
        body.eval()
        self.device = next(body.parameters()).device
        self.tokenizer, self.add_special_tokens = tokenizer, add_special_tokens
        self.max_tokens = max_tokens
        self.token_budget = token_budget or DEFAULT_TOKEN_BUDGET.get(self.device.type, 1024)
        self.halving = threading.Lock()
        self.one_layer = isinstance(layer, int)
        self.positions, self.long_rope_from = position_limit(body), long_rope_from(body)
        if packed is None:
            packed = self.device.type == "cuda" and body.dtype.itemsize == 2
        layers = _layers(body, layer)
        if self.device.type == "cpu" and not hasattr(model, "hf_device_map"):
            copies = [copy_for_thread(body) for _ in range(threads or torch.get_num_threads())]
            first = exact_forward(copies[0], layers, packed=packed, longest=max_tokens, plain=body)
            self.forwards = [first, *map(first.on, copies[1:])]
        else:
            self.forwards = [exact_forward(body, layers, packed=packed, longest=max_tokens)]
        self.forward = self.forwards[0]

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
                f"text {int(tokens.lengths.argmax())} has {longest:,} tokens, and the model has positions for "
                f"{self.positions:,}: max_tokens must be at most that"
            )
        return tokens

    def encode_tokens(self, tokens: Tokens) -> Encoded:
        """The vectors of tokenised texts. MemoryError where one text alone does not fit."""
        lengths = tokens.lengths
        vectors = np.empty((len(lengths), len(self.forward.layers), self.forward.width), dtype=np.float32)

        def store(rows: np.ndarray, states: np.ndarray) -> None:
            vectors[rows] = states

        self._run(tokens, self._batches(lengths, self.token_budget), store)
        return Encoded(vectors[:, 0] if self.one_layer else vectors, lengths, tokens.truncated)

    def measure_token_budget(self, tokens: Tokens) -> int:
        """The budget under which texts like these go through the fastest, measured on some of their batches."""
        lengths = tokens.lengths

        def seconds_per_token(budget: int) -> float:
            batches = self._batches(lengths, budget)
            # Batches at even places between the longest and the shortest texts, four for each thread.
            places = MEASURED_PLACES * len(self.forwards)
            chosen = [batches[len(batches) * (2 * place + 1) // (2 * places)] for place in range(places)]
            try:
                self.forward([tokens.ids[i] for i in chosen[0]]).cpu()
                start = time.perf_counter()
                self._run(tokens, chosen, lambda *_: None, halve=False)
            except (RuntimeError, MemoryError) as error:
                self._refuse_unless_out_of_memory(error)
                return float("inf")
            return (time.perf_counter() - start) / int(sum(lengths[rows].sum() for rows in chosen))

        kind = self.device.type if self.device.type in BUDGETS else "cpu"
        return fastest_budget(BUDGETS[kind], DEFAULT_TOKEN_BUDGET[kind], seconds_per_token)

    def _batches(self, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
        if self.long_rope_from is None:
            return list(batches_under_budget(lengths, budget, packed=self.forward.packed))
        long = lengths > self.long_rope_from
        return [
            rows[batch]
            for rows in (np.flatnonzero(long), np.flatnonzero(~long))
            for batch in batches_under_budget(lengths[rows], budget, packed=self.forward.packed)
        ]

    def _run(
        self,
        tokens: Tokens,
        batches: Sequence[np.ndarray],
        take: Callable[[np.ndarray, np.ndarray], None],
        *,
        halve: bool = True,
    ) -> None:
        """Hand `take` the rows and states of each batch; of its halves, where it does not fit in memory."""
        one_thread_each(
            self.forwards, batches, lambda forward, rows: self._forward(forward, tokens, rows, take, halve=halve)
        )

    def _forward(
        self,
        forward: LastTokenForward,
        tokens: Tokens,
        rows: np.ndarray,
        take: Callable[[np.ndarray, np.ndarray], None],
        *,
        halve: bool,
    ) -> None:
        try:
            states = forward([tokens.ids[i] for i in rows]).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not halve:
                raise
            self._refuse_unless_out_of_memory(error)
            if len(rows) == 1:
                raise MemoryError(
                    f"a text of {len(tokens.ids[rows[0]]):,} tokens does not fit in the memory of {self.device}"
                ) from error
        else:
            take(rows, states)
            return
        with self.halving:
            self.token_budget = max(1, min(self.token_budget, int(tokens.lengths[rows].sum()) // 2))
        for half in np.array_split(rows, 2):
            self._forward(forward, tokens, half, take, halve=True)

    def _refuse_unless_out_of_memory(self, error: RuntimeError | MemoryError) -> None:
        if not is_out_of_memory(error):
            raise error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


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
