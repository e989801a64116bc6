"""One forward of a batch of texts, of which only the last token's hidden states are wanted.

Three things make it cheaper than a plain forward, and none needs to know the model's family:

- It stops before the first block whose output nobody asked for.
- In the last block that is run, only the last tokens need a query, an output projection and an MLP; of the others only
  the keys and values are read. So that block is run twice: on all tokens with a cache that keeps the keys and values
  it is handed and ends the run there, then on the last tokens alone with a cache that returns what was kept.
- Packed, the texts of a batch lie end to end in one row without padding, with an attention kernel that keeps them
  apart; else they are padded on the right, where the causal mask keeps the padding out. An encoder, which looks ahead
  too, is told what is padding.

Legend: B texts, R x C the grid of tokens a model is given (B rows of the longest text, or one row of all texts), d
hidden units, L blocks.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from raysel.memory_errors import is_out_of_memory
from raysel.models.loading import ENCODER_DECODERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED_ATTENTION = "raysel_packed"
PROBE_LENGTHS = (2, 23, 11, 23)
# By bytes of the model's numbers. Right ways differ from the plain forward by rounding, wrong ones by far more.
TOLERANCE = {4: 1e-4, 2: 5e-2, 8: 1e-6}
# What a model raises that a way does not suit: a cache without the methods it calls, arguments it does not know.
WRONG_FOR_THIS_MODEL = (AttributeError, TypeError, KeyError, IndexError, RuntimeError, ValueError)
CACHE_NAMES = ("past_key_values", "layer_past", "past_key_value")


@dataclass(frozen=True)
class Layout:
    """Where the texts of a batch lie in the grid.

    rows, columns: int64 (B,), each text's last token; ends: int32 (B + 1,), where the texts begin and end in a packed
    row, None where they are padded.
    """

    input_ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    longest: int
    ends: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None

    @property
    def mask(self) -> torch.Tensor:
        """int64 (R, C) of padded texts: 1 for a token, 0 for padding."""
        places = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return (places <= self.columns[:, None]).long()

    @property
    def padded(self) -> bool:
        return self.ends is None


def padded_layout(texts: Sequence[np.ndarray], device: torch.device) -> Layout:
    """Each text in a row of its own, filled with zeros on the right."""
    lengths = np.array([len(text) for text in texts])
    grid = np.zeros((len(texts), lengths.max()), dtype=np.int64)
    for row, text in zip(grid, texts, strict=True):
        row[: len(text)] = text
    columns = torch.from_numpy(lengths - 1).to(device)
    rows = torch.arange(len(texts), device=device)
    return Layout(torch.from_numpy(grid).to(device), rows, columns, int(lengths.max()))


def packed_layout(texts: Sequence[np.ndarray], device: torch.device) -> Layout:
    """All texts end to end in one row, each with positions from 0."""
    lengths = np.array([len(text) for text in texts])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    return Layout(
        input_ids=torch.from_numpy(np.concatenate(texts).astype(np.int64))[None].to(device),
        rows=torch.zeros(len(texts), dtype=torch.long, device=device),
        columns=torch.from_numpy(ends[1:] - 1).to(device),
        longest=int(lengths.max()),
        ends=torch.from_numpy(ends.astype(np.int32)).to(device),
        position_ids=torch.from_numpy(positions)[None].to(device),
    )


class LastTokenForward:
    """Hidden states `layers` (0 to L, as transformers counts them: L is after the final norm) of last tokens.

    body: a transformers model without its head. packed: pack the texts, for attention kernels that keep them apart.
    skip: in the last block that is run, compute only what the last tokens need.
    """

    def __init__(self, body: "PreTrainedModel", layers: Sequence[int], *, packed: bool, skip: bool) -> None:
        self.body, self.layers, self.packed, self.skip = body, list(layers), packed, skip
        self.blocks = decoder_blocks(body)
        self.width = 0

    def on(self, body: "PreTrainedModel") -> "LastTokenForward":
        """The same for a copy of the model."""
        other = LastTokenForward(body, self.layers, packed=self.packed, skip=self.skip)
        other.width = self.width
        return other

    @property
    def way(self) -> str:
        """In words, for the record."""
        tokens = "only the last tokens" if self.skip else "all tokens"
        return f"{'packed' if self.packed else 'padded'}, {tokens} in the last block"

    @torch.inference_mode()
    def __call__(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 (B, len(layers), d): of each text (its token ids) the last token's hidden states."""
        device = next(self.body.parameters()).device
        layout = (packed_layout if self.packed else padded_layout)(texts, device)
        arguments: dict[str, Any] = {}
        if layout.ends is not None:
            arguments = {
                "position_ids": layout.position_ids,
                "cu_seq_lens_q": layout.ends,
                "cu_seq_lens_k": layout.ends,
                "max_length_q": layout.longest,
                "max_length_k": layout.longest,
            }
        elif looks_ahead(self.body):
            arguments = {"attention_mask": layout.mask}
        states: dict[int, torch.Tensor] = {}
        highest = max(self.layers)
        with ExitStack() as attached:
            for layer in {layer for layer in self.layers if layer < len(self.blocks)}:
                take = partial(_take_input, layer, layout, states, highest)
                handle = self.blocks[layer].register_forward_pre_hook(take, with_kwargs=True)
                attached.callback(handle.remove)
            if self.skip and highest > 0:
                attached.enter_context(_only_last_tokens(self.blocks[highest - 1], layout))
            if self.packed:
                attached.enter_context(_attention(self.body, PACKED_ATTENTION))
            try:
                output = self.body(input_ids=layout.input_ids, use_cache=False, **arguments)
                states[len(self.blocks)] = output.last_hidden_state[
                    layout.rows.to(output.last_hidden_state.device),
                    layout.columns.to(output.last_hidden_state.device),
                ]
            except _Enough:
                pass
        return torch.stack([states[layer].float().to(device) for layer in self.layers], dim=1)


def exact_forward(
    body: "PreTrainedModel",
    layers: Sequence[int],
    *,
    packed: bool,
    longest: int = 1024,
    plain: "PreTrainedModel | None" = None,
) -> LastTokenForward:
    """The cheapest forward that gives this very model's hidden states, tried on a few tokens against its plain forward.

    packed: whether packing is worth it. longest: the most tokens a text will have; where that is more than the window
    of the model's attention, the trial goes past the window. plain: the model whose plain forward counts, where that
    is not `body` itself but what it was copied from. ValueError where not even the dearest gives them.
    """
    lengths = list(PROBE_LENGTHS)
    window = getattr(body.config.get_text_config(), "sliding_window", None)
    if window and window < longest:
        lengths.append(window + 2)
    ways = [(True, True), (True, False)] if packed and _takes_other_attention(body) else []
    # Of an encoder the last block's last tokens alone would have other relative positions.
    ways += [(False, False)] if looks_ahead(body) else [(False, True), (False, False)]
    deviations = []
    for pack, skip in ways:
        forward = LastTokenForward(body, layers, packed=pack, skip=skip)
        try:
            deviations.append(_deviation(forward, plain or body, lengths))
        except WRONG_FOR_THIS_MODEL as error:
            if isinstance(error, RuntimeError) and (is_out_of_memory(error) or "CUDA error" in str(error)):
                raise
            continue
        if deviations[-1] < TOLERANCE[body.dtype.itemsize]:
            return forward
    raise ValueError(
        f"the hidden states {', '.join(map(str, layers))} of {type(body).__name__} cannot be taken: what its blocks "
        f"are given differs from the hidden states it reports (by {min(deviations, default=float('inf')):.1g})"
    )


def looks_ahead(body: "PreTrainedModel") -> bool:
    """Whether it is the encoder of an encoder-decoder, of which every token sees all of its text."""
    return body.config.model_type in ENCODER_DECODERS


def _takes_other_attention(body: "PreTrainedModel") -> bool:
    if looks_ahead(body):
        return False
    if getattr(body.config.get_text_config(), "attention_chunk_size", None):
        return False  # attention within chunks of a text, which `packed_attention` does not know
    return bool(getattr(body, "_supports_attention_backend", False)) and body._can_set_attn_implementation()


@torch.inference_mode()
def _deviation(forward: LastTokenForward, plain: "PreTrainedModel", lengths: Sequence[int]) -> float:
    """Largest difference from the plain forward of one text at a time, as a share of the hidden state's length."""
    device = next(plain.parameters()).device
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, plain.get_input_embeddings().num_embeddings, length) for length in lengths]
    found = forward(texts)
    forward.width = found.shape[-1]
    rows = []
    for text in texts:
        output = plain(torch.from_numpy(text)[None].to(device), use_cache=False, output_hidden_states=True)
        rows.append(torch.stack([output.hidden_states[layer][0, -1].float().to(device) for layer in forward.layers]))
    expected = torch.stack(rows)
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def block_count(body: "PreTrainedModel") -> int:
    return int(body.config.get_text_config().num_hidden_layers)


def decoder_blocks(body: "PreTrainedModel") -> torch.nn.ModuleList:
    """The list of the model's blocks. ValueError where there is none as long as the config says."""
    count = block_count(body)
    for module in body.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(body).__name__} has no list of its {count} blocks: its hidden states cannot be taken")


class _Enough(BaseException):
    """Ends a forward whose further output nobody needs."""


def _take_input(
    layer: int,
    layout: Layout,
    states: dict[int, torch.Tensor],
    highest: int,
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    states[layer] = hidden[layout.rows.to(hidden.device), layout.columns.to(hidden.device)]
    if layer == highest:
        raise _Enough


class _KeepingCache:
    """Keeps the first keys and values it is handed, and ends the run there."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> NoReturn:
        self.keys, self.values = keys, values
        raise _Enough


class _KeptCache:
    """Returns what was kept in place of what it is handed."""

    def __init__(self, kept: _KeepingCache) -> None:
        self.kept = kept

    def update(self, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.kept.keys, self.kept.values


@contextmanager
def _only_last_tokens(block: torch.nn.Module, layout: Layout) -> Iterator[None]:
    """While open, `block` computes its output for the last tokens alone; elsewhere it is zero."""
    original = block.forward
    names = list(inspect.signature(original).parameters)
    cache = next((name for name in CACHE_NAMES if name in names), "past_key_values")

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        kept = _KeepingCache()
        try:
            # A block without keys and values (a state-space layer) has run to its end.
            return original(**given | {cache: kept})
        except _Enough:
            pass
        hidden: torch.Tensor = given[names[0]]
        last = original(**_at_last_tokens(given, names[0], hidden, layout) | {cache: _KeptCache(kept)})
        output = last[0] if isinstance(last, tuple) else last
        # Not like `hidden`: of a split model, that may lie on the device of the block before.
        whole = output.new_zeros(hidden.shape)
        whole[layout.rows.to(output.device), layout.columns.to(output.device)] = output.reshape(-1, hidden.shape[-1])
        return (whole, *last[1:]) if isinstance(last, tuple) else whole

    block.forward = forward
    try:
        yield
    finally:
        if "forward" in vars(type(block)) and getattr(original, "__func__", None) is type(block).forward:
            del block.forward
        else:
            block.forward = original


def _at_last_tokens(given: dict[str, Any], first: str, hidden: torch.Tensor, layout: Layout) -> dict[str, Any]:
    """A block's arguments for the last tokens alone: (B, 1, ...) padded, (1, B, ...) packed."""
    rows, columns = layout.rows.to(hidden.device), layout.columns.to(hidden.device)

    def of_last(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(of_last, value))
        if not isinstance(value, torch.Tensor):
            return value
        if not layout.padded:
            return value[:, columns.to(value.device)]
        spread = value.expand(len(rows), *value.shape[1:])
        return spread[rows.to(value.device), columns.to(value.device)][:, None]

    changed = {first: of_last(hidden)}
    for name in ("position_ids", "position_embeddings"):
        if given.get(name) is not None:
            changed[name] = of_last(given[name])
    if layout.ends is not None:
        changed["cu_seq_lens_q"] = torch.arange(len(rows) + 1, dtype=torch.int32, device=hidden.device)
        changed["max_length_q"] = 1
    else:
        changed["attention_mask"] = _mask_of_last(given.get("attention_mask"), hidden, rows, columns)
    return given | changed


def _mask_of_last(
    mask: torch.Tensor | None, hidden: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor | None:
    """(B, 1, 1, C): the rows of the attention mask (B or 1, 1, C, C) that belong to the last tokens."""
    if mask is not None:
        spread = mask.expand(len(rows), *mask.shape[1:])
        return spread[rows.to(mask.device), :, columns.to(mask.device)][:, :, None]
    width = hidden.shape[1]
    if bool((columns == width - 1).all()):
        return None
    unseen = torch.arange(width, device=hidden.device) > columns[:, None]
    return torch.zeros(unseen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(
        unseen, torch.finfo(hidden.dtype).min
    )[:, None, None]


@contextmanager
def _attention(body: "PreTrainedModel", name: str) -> Iterator[None]:
    before = body.config._attn_implementation
    body.set_attn_implementation(name)
    try:
        yield
    finally:
        body.set_attn_implementation(before)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each text of a packed row (transformers' attention interface).

    query (1, H, Tq, D), key and value (1, G, Tk, D) with H a multiple of G; text i has the queries
    `cu_seq_lens_q[i:i+2]` and the keys `cu_seq_lens_k[i:i+2]`, its last query at its last key. Gives (1, Tq, H, D).
    On CUDA one flash-attention kernel for all texts, elsewhere text by text. ValueError for a model that caps its
    scores (Gemma 2): `exact_forward` goes on to the next way.
    """
    if softcap is not None:
        raise ValueError("packed attention does not cap scores")
    window = sliding_window if sliding_window is not None and sliding_window < max_length_k else None
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        left = -1 if window is None else window - 1
        of_all: Any = varlen_attn(
            q,
            k,
            v,
            cu_seq_lens_q,
            cu_seq_lens_k,
            max_length_q,
            max_length_k,
            scale=scaling,
            window_size=(left, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return of_all[None], None
    output = torch.empty_like(q)
    starts_q, starts_k = cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()
    for i in range(len(starts_q) - 1):
        of_q, of_k = slice(starts_q[i], starts_q[i + 1]), slice(starts_k[i], starts_k[i + 1])
        one = (q[of_q].transpose(0, 1)[None], k[of_k].transpose(0, 1)[None], v[of_k].transpose(0, 1)[None])
        seen = _seen(one[0].shape[2], one[1].shape[2], window)
        output[of_q] = scaled_dot_product_attention(*one, attn_mask=seen, scale=scaling, enable_gqa=True)[0].transpose(
            0, 1
        )
    return output[None], None


def _seen(queries: int, keys: int, window: int | None) -> torch.Tensor | None:
    """bool (queries, keys): which keys each query attends to, the last query being at the last key; None for all."""
    if queries == 1 and window is None:
        return None
    at = torch.arange(keys - queries, keys)[:, None]
    seen = torch.arange(keys) <= at
    return seen if window is None else seen & (torch.arange(keys) > at - window)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
