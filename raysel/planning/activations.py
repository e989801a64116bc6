"""Bytes that a forward pass keeps for the backward pass, by hand for every family; of an encoder-decoder a bound.

What autograd saves of one token in one block, in transformers 5: the inputs of norms (Llama's are taken in float32),
what a norm multiplies with its weight, the inputs of linear modules, queries, keys, values, mask and result of
attention, and what the MLP's activation is made of. Frozen weights need neither the inputs of their modules nor those
of their norms; an adapter needs its module's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raysel.models.shape import Linear, Shape, Stack
from raysel.training.logits import logit_parts

BYTES = {"float32": 4, "bfloat16": 2}
WHOLE = 4  # of a float32
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Trained:
    """What is trained: all weights (`adapted` None), or adapters of `rank` on the modules named in `adapted`, whose
    inputs are dropped out with probability `dropout`; dora: with magnitudes."""

    adapted: frozenset[Linear] | None = None
    rank: int = 0
    dropout: float = 0.0
    dora: bool = False

    def keeps_input_of(self, *names: str) -> bool:
        return self.adapted is None or any(linear.name in names for linear in self.adapted)


def trained_adapters(
    shape: Shape, rank: int, targets: str | Sequence[str], dropout: float = 0.0, *, dora: bool = False
) -> Trained:
    """Adapters on `targets` (as PEFT takes them). `ShapeError` where the model has none of them."""
    return Trained(frozenset(linear for _, linear in shape.adapted(targets)), rank, dropout, dora)


def block_bytes(shape: Shape, *, dtype: Dtype, tokens: int, row_tokens: int, trained: Trained) -> int:
    """Bytes that one block of a decoder keeps of `tokens` tokens in rows of `row_tokens`."""
    of_family = {"gpt2": _gpt2, "bloom": _bloom}.get(shape.family, _llama_like)
    # Measured: of GPT-2's modules PEFT's DoRA keeps the weight with its update too, of others not.
    measured = _adapted(shape, trained) if trained.dora and shape.family == "gpt2" else []
    weights = BYTES[dtype] * sum(linear.inputs * linear.outputs for linear in measured)
    of_token = of_family(shape, BYTES[dtype], row_tokens, trained) + _adapters(shape, BYTES[dtype], trained)
    return weights + tokens * of_token


def activation_bytes(
    shape: Shape, *, dtype: Dtype, tokens: int, row_tokens: int, trained: Trained, checkpointing: bool
) -> int:
    """Bytes that all blocks keep of one micro-batch of `tokens` tokens in rows of `row_tokens`, and what they share:
    the mask that keeps samples apart (a byte for each pair of a row's tokens) and the rotary positions.

    checkpointing: only the blocks' inputs are kept, and one block at a time is computed again.
    """
    b = BYTES[dtype]
    block = block_bytes(shape, dtype=dtype, tokens=tokens, row_tokens=row_tokens, trained=trained)
    shared = tokens * (row_tokens + b * (2 * shape.head_width + shape.width))
    if checkpointing:
        return shared + shape.blocks * tokens * b * shape.width + block
    return shared + shape.blocks * block


def encoder_decoder_bytes(
    shape: Shape, *, dtype: Dtype, rows: int, source_tokens: int, tokens: int, trained: Trained, checkpointing: bool
) -> int:
    """At most so many bytes all blocks keep of `rows` rows, each of `source_tokens` in the encoder and `tokens` in the
    decoder: where anything is dropped out, as if every kernel of attention kept its weights, as torch's on CPUs does.

    checkpointing: as in `activation_bytes`.
    """
    b, queries = BYTES[dtype], shape.heads * shape.head_width
    encoder, decoder = shape.stacks
    # Every block of the decoder makes keys and values of the encoder's states anew.
    of_source = 2 * b * queries + _t5_adapters(decoder, b, trained)
    in_encoder = source_tokens * _t5(shape, encoder, b, source_tokens, trained)
    in_decoder = tokens * _t5(shape, decoder, b, max(source_tokens, tokens), trained) + source_tokens * of_source
    # The positions' biases, made in the first block of either side, and what goes in and comes out.
    shared = WHOLE * shape.heads * (source_tokens**2 + tokens**2) + 4 * WHOLE * shape.width * (source_tokens + tokens)
    if checkpointing:
        inputs = b * shape.width * (encoder.blocks * source_tokens + decoder.blocks * tokens)
        return rows * (shared + inputs + max(in_encoder, in_decoder))
    return rows * (shared + encoder.blocks * in_encoder + decoder.blocks * in_decoder)


def logit_bytes(shape: Shape, *, dtype: Dtype, tokens: int) -> int:
    """Bytes that logits and their loss take at their most, where each of `tokens` tokens is learned.

    In float32 there are at once the logarithm of the softmax, its gradient and that of the logits. Of several parts,
    the first's logarithm stays while the others are made again.
    """
    parts = logit_parts(tokens, shape.vocabulary)
    logits = -(-tokens // parts) * shape.vocabulary
    return logits * (3 * WHOLE + (WHOLE if parts > 1 else 0)) + tokens * shape.width * BYTES[dtype]


def _llama_like(shape: Shape, b: int, row_tokens: int, trained: Trained) -> int:
    """Of one token. Norms are taken in float32; Cohere has one, which also keeps what it has centred."""
    full, width = trained.adapted is None, shape.width
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    gated = trained.keeps_input_of("gate_proj", "up_proj")
    attends = trained.keeps_input_of("q_proj", "k_proj", "v_proj")
    if shape.family.startswith("cohere"):
        norms = WHOLE * width * (3 if full else 2) + b * width * (gated or attends)
    else:
        norms = 2 * WHOLE * width + 2 * b * width * full + b * width * (gated + attends)
    if shape.family == "qwen3":
        norms += (WHOLE + b * full) * (queries + keys)
    # Keys and values are repeated for every head; the result is the input of the last projection. torch makes the mask
    # anew in the numbers of the queries.
    attention = 4 * b * queries + WHOLE * shape.heads + b * row_tokens
    mlp = b * shape.inner * (3 + trained.keeps_input_of("down_proj"))
    return norms + attention + mlp


def _gpt2(shape: Shape, b: int, row_tokens: int, trained: Trained) -> int:
    """Of one token. Its GELU is made of six operations, which keep four results."""
    inputs = trained.keeps_input_of("c_attn") + trained.keeps_input_of("c_fc")
    norms = b * shape.width * (2 + inputs)
    attention = 4 * b * shape.width + WHOLE * shape.heads + b * row_tokens
    # The attention's c_proj has an input that is kept anyway.
    last = trained.adapted is None or any(
        linear.part == "mlp" and linear.name == "c_proj" for linear in trained.adapted
    )
    return norms + attention + b * shape.inner * (4 + last)


def _bloom(shape: Shape, b: int, row_tokens: int, trained: Trained) -> int:
    """Of one token. Attention is made by hand: its weights are kept in float32, and in bfloat16 where that is used."""
    inputs = sum(map(trained.keeps_input_of, ("query_key_value", "dense", "dense_h_to_4h")))
    weights = shape.heads * row_tokens * (WHOLE if b == WHOLE else WHOLE + b)
    mlp = b * shape.inner * (1 + trained.keeps_input_of("dense_4h_to_h"))
    return b * shape.width * (2 + 3 + inputs) + weights + mlp


def _t5(shape: Shape, stack: Stack, b: int, seen: int, trained: Trained) -> int:
    """At most of one token that attends to `seen` tokens. A block's parts each have a norm, taken in float32; the mask
    that is added to the scores has the positions' biases in it, for each head."""
    norms = (stack.attentions + 1) * shape.width * (WHOLE + 3 * b + 1)
    # Measured on a CPU: with dropout attention keeps its weights (12 bytes for each score), without it at most 3 bytes.
    scores = shape.heads * seen * (2 * WHOLE + b + 2 if shape.drops_out else WHOLE)
    attention = stack.attentions * (b * 5 * shape.heads * shape.head_width + WHOLE * shape.heads + scores)
    return norms + attention + shape.inner * (10 * b + 1) + _t5_adapters(stack, b, trained)


def _t5_adapters(stack: Stack, b: int, trained: Trained) -> int:
    """At most of one token: as `_adapters` has it, for every linear module of the block."""
    if trained.adapted is None:
        return 0
    modules = [linear for linear in stack.linears if linear in trained.adapted]
    inputs = sum(linear.copies * linear.inputs for linear in modules) * (b + 1)
    scaled = sum(2 * b * linear.copies * linear.outputs for linear in modules) if trained.dora else 0
    return sum(linear.copies for linear in modules) * trained.rank * b + inputs + scaled


def dora_bytes(shape: Shape, *, dtype: Dtype, trained: Trained) -> int:
    """Bytes that DoRA takes while one module's weight with its update is measured: the identity that goes through A and
    B, the update, that times its factor, and their sum."""
    if not trained.dora:
        return 0
    return BYTES[dtype] * max(
        linear.inputs * (linear.inputs + 3 * linear.outputs) for linear in _adapted(shape, trained)
    )


def _adapted(shape: Shape, trained: Trained) -> list[Linear]:
    return [linear for linear in shape.stacks[0].linears if linear in (trained.adapted or ())]


def _adapters(shape: Shape, b: int, trained: Trained) -> int:
    """Of one token: between A and B the adapter's own; with dropout a copy of every input and what was dropped; with
    DoRA the results of the module and of its adapter, which the magnitudes are multiplied with."""
    modules = _adapted(shape, trained)
    dropped = sum(linear.inputs for linear in modules) * (b + 1) if trained.dropout else 0
    scaled = sum(2 * b * linear.outputs for linear in modules) if trained.dora else 0
    return len(modules) * trained.rank * b + dropped + scaled
