"""What a model is made of, read from its config alone: no weights, no torch.

The shapes of well-known models lie in `shapes/`: the keys of their config.json that decide the parameters, and the
names on the Hugging Face hub that have them (`-Instruct` is understood).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from raysel.errors import UserError

INSTRUCT = "-Instruct"
# What transformers drops out where the config does not say it, of the families that are trained here.
UNSAID_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "t5": {"dropout_rate": 0.1},
    "mt5": {"dropout_rate": 0.1},
}
UNSAID_INNER = {"t5": "relu", "mt5": "gated-gelu"}


@dataclass(frozen=True)
class Names:
    """The dotted names of a family's modules: of its blocks, of the attention in one, of the embeddings."""

    blocks: str
    attention: str
    embeddings: str


_LLAMA = Names("model.layers", "self_attn", "model.embed_tokens")
NAMES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "cohere", "cohere2"), _LLAMA),
    "gpt2": Names("transformer.h", "attn", "transformer.wte"),
    "bloom": Names("transformer.h", "self_attention", "transformer.word_embeddings"),
}


class ShapeError(UserError):
    """A config that does not say what a model is made of."""


@dataclass(frozen=True)
class Linear:
    """A matrix of `inputs` x `outputs` in every block of a stack, `copies` of that name; biased: with a bias."""

    name: str
    part: Literal["attention", "mlp", "ends"]
    inputs: int
    outputs: int
    biased: bool = False
    copies: int = 1

    @property
    def parameters(self) -> int:
        return self.copies * (self.inputs + self.biased) * self.outputs


@dataclass(frozen=True)
class Stack:
    """`blocks` equal blocks; norms: parameters of the norms in one of them; attentions: how often it attends."""

    blocks: int
    linears: tuple[Linear, ...]
    norms: int
    attentions: int = 1

    def parameters(self, part: Literal["attention", "mlp"]) -> int:
        """Of one block, without its norms."""
        return sum(linear.parameters for linear in self.linears if linear.part == part)


@dataclass(frozen=True)
class Shape:
    """A transformer, by its parts.

    family: the config's model_type. width: hidden units; inner: units of an MLP; heads of `head_width` units each, of
    which keys and values have `kv_heads`. tied: the head is the embeddings' own matrix. others: parameters outside the
    blocks besides embeddings and head (positions, norms). drops_out: whether its config drops anything out in training.
    """

    family: str
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    stacks: tuple[Stack, ...]
    others: int
    drops_out: bool = False

    @property
    def has_encoder(self) -> bool:
        return len(self.stacks) > 1

    @property
    def encoder(self) -> "Shape":
        """The encoder of an encoder-decoder, by itself; a decoder alone is as it is."""
        return replace(self, stacks=self.stacks[:1])

    @property
    def blocks(self) -> int:
        return sum(stack.blocks for stack in self.stacks)

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.width

    @property
    def largest(self) -> int:
        """Numbers of the largest matrix."""
        linears = (linear.inputs * linear.outputs for stack in self.stacks for linear in stack.linears)
        return max(self.embeddings, *linears)

    @property
    def head(self) -> int:
        """Parameters that the head adds."""
        return 0 if self.tied else self.embeddings

    @property
    def in_blocks(self) -> int:
        return sum(s.blocks * (s.norms + s.parameters("attention") + s.parameters("mlp")) for s in self.stacks)

    @property
    def matrices(self) -> int:
        """Parameters of the blocks that a token is multiplied with: no norms, no biases."""
        return sum(
            s.blocks * linear.copies * linear.inputs * linear.outputs for s in self.stacks for linear in s.linears
        )

    @property
    def parameters(self) -> int:
        return self.embeddings + self.head + self.in_blocks + self.others

    def adapted(self, targets: str | Sequence[str], *, section: str = "training") -> list[tuple[int, Linear]]:
        """The modules that get adapters, each with how many blocks have it.

        targets: `all-linear` (of the blocks), or names of modules as PEFT takes them: the ends of their dotted names.
        `ShapeError` where none has such a name. section: of the experiment file, where the user has set `lora`.
        """
        every = [(stack.blocks, linear) for stack in self.stacks for linear in stack.linears]
        if targets == "all-linear":
            return every
        wanted = [targets] if isinstance(targets, str) else targets
        found = [(count, linear) for blocks, linear in every if (count := self._blocks_with(blocks, linear, wanted))]
        found += [(1, end) for end in self._ends() if any(f".{end.name}".endswith(f".{target}") for target in wanted)]
        if not found:
            names = ", ".join(dict.fromkeys(linear.name for _, linear in every))
            raise ShapeError(
                f"{section}.lora.targets {targets}: a {self.family} model has none of them; it has {names}"
            )
        return found

    def _blocks_with(self, blocks: int, linear: Linear, wanted: Sequence[str]) -> int:
        """In how many of `blocks` blocks the module is among those wanted."""
        if self.family not in NAMES:
            return blocks if linear.name in {target.rpartition(".")[2] for target in wanted} else 0
        names = NAMES[self.family]
        parent = names.attention if linear.part == "attention" else "mlp"
        dotted = (f"{names.blocks}.{number}.{parent}.{linear.name}" for number in range(blocks))
        return sum(any(f".{name}".endswith(f".{target}") for target in wanted) for name in dotted)

    def _ends(self) -> list[Linear]:
        """The embeddings and the head."""
        if self.family not in NAMES:
            return []
        names = (NAMES[self.family].embeddings, "lm_head")
        return [Linear(name, "ends", self.width, self.vocabulary) for name in names]

    def lora_parameters(self, rank: int, targets: str | Sequence[str], *, dora: bool = False) -> int:
        """Numbers that adapters of `rank` train: A of rank x inputs and B of outputs x rank for each module; with DoRA
        the magnitudes of its outputs."""
        return sum(
            blocks * linear.copies * (rank * (linear.inputs + linear.outputs) + dora * linear.outputs)
            for blocks, linear in self.adapted(targets)
        )


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a `config.json` says. `ShapeError` for an unknown family or a missing key."""
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ShapeError(f"model_type {family}: its shape is not known here; known are {', '.join(FAMILIES)}")
    try:
        shape = FAMILIES[family](config)
    except KeyError as error:
        raise ShapeError(f"the config of a {family} model does not say {error.args[0]}") from error
    return replace(shape, drops_out=drops_out(UNSAID_DROPOUT.get(family, {}) | dict(config)))


def drops_out(config: Mapping[str, Any]) -> bool:
    """Whether a model with this config drops anything out in training."""
    shares = (
        value
        for name, value in config.items()
        if "drop" in name and not name.startswith(("classifier", "summary")) and isinstance(value, int | float)
    )
    return any(share > 0 for share in shares)


def known_shape(name: str) -> Shape | None:
    """The shape of the model with this name on the Hugging Face hub; None where it is not among the known ones."""
    config = _known().get(name.removesuffix(INSTRUCT).lower())
    return read_shape(config) if config is not None else None


def shape_of(path: str) -> Shape | None:
    """The shape of the model folder `path`, by its config.json, or of the hub's model of that name.

    None where neither is known; `ShapeError` where the folder's config says too little.
    """
    config = Path(path).expanduser() / "config.json"
    if not config.is_file():
        return known_shape(path)
    try:
        return read_shape(json.loads(config.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ShapeError(f"{config} is not JSON: {error}") from error


@cache
def _configs() -> list[dict[str, Any]]:
    folder = files("raysel.models").joinpath("shapes")
    found = (file for file in folder.iterdir() if file.name.endswith(".json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(found, key=lambda file: file.name)]


@cache
def _known() -> dict[str, dict[str, Any]]:
    return {name.lower(): config for config in _configs() for name in config["names"]}


def _llama_like(config: Mapping[str, Any]) -> Shape:
    """Llama and what is made like it: Mistral; Qwen 2 with biases; Qwen 3 with norms of queries and keys; Cohere, whose
    attention and MLP share one norm."""
    family, width, inner = str(config["model_type"]), config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_width = config.get("head_dim") or width // heads
    cohere = family.startswith("cohere")
    biased = bool(config.get("attention_bias"))
    queries, keys = heads * head_width, kv_heads * head_width
    attention = [
        Linear("q_proj", "attention", width, queries, biased or family == "qwen2"),
        Linear("k_proj", "attention", width, keys, biased or family == "qwen2"),
        Linear("v_proj", "attention", width, keys, biased or family == "qwen2"),
        Linear("o_proj", "attention", queries, width, biased and family != "qwen2"),
    ]
    mlp_biased = bool(config.get("mlp_bias"))
    mlp = [
        Linear("gate_proj", "mlp", width, inner, mlp_biased),
        Linear("up_proj", "mlp", width, inner, mlp_biased),
        Linear("down_proj", "mlp", inner, width, mlp_biased),
    ]
    norms = width if cohere else 2 * width
    if family == "qwen3":
        norms += 2 * head_width
    elif config.get("use_qk_norm"):
        norms += queries + keys
    return Shape(
        family=family,
        width=width,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", cohere)),
        stacks=(Stack(config["num_hidden_layers"], (*attention, *mlp), norms),),
        others=width,
    )


def _gpt2(config: Mapping[str, Any]) -> Shape:
    width, heads = config["n_embd"], config["n_head"]
    inner = config.get("n_inner") or 4 * width
    linears = (
        Linear("c_attn", "attention", width, 3 * width, True),
        Linear("c_proj", "attention", width, width, True),
        Linear("c_fc", "mlp", width, inner, True),
        Linear("c_proj", "mlp", inner, width, True),
    )
    stack = Stack(config["n_layer"], linears, norms=4 * width)
    positions = config["n_positions"] * width
    return _of_whole_heads("gpt2", config, width, inner, heads, stack, positions + 2 * width)


def _bloom(config: Mapping[str, Any]) -> Shape:
    width = config.get("hidden_size") or config["n_embed"]
    heads = config.get("n_head") or config["num_attention_heads"]
    inner = 4 * width
    linears = (
        Linear("query_key_value", "attention", width, 3 * width, True),
        Linear("dense", "attention", width, width, True),
        Linear("dense_h_to_4h", "mlp", width, inner, True),
        Linear("dense_4h_to_h", "mlp", inner, width, True),
    )
    stack = Stack(config.get("n_layer") or config["num_hidden_layers"], linears, norms=4 * width)
    # The embeddings have a norm of their own.
    return _of_whole_heads("bloom", config, width, inner, heads, stack, 4 * width)


def _of_whole_heads(
    family: str, config: Mapping[str, Any], width: int, inner: int, heads: int, stack: Stack, others: int
) -> Shape:
    """Every head has its own keys and values; embeddings are tied unless the config says otherwise."""
    return Shape(
        family=family,
        width=width,
        inner=inner,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", True)),
        stacks=(stack,),
        others=others,
    )


def _t5(config: Mapping[str, Any]) -> Shape:
    """T5 and mT5: a block of the decoder attends twice, to its own tokens and to the encoder's."""
    family, width, inner = str(config["model_type"]), config["d_model"], config["d_ff"]
    heads, head_width = config["num_heads"], config["d_kv"]
    inner_layer = str(config.get("feed_forward_proj") or UNSAID_INNER[family])
    queries = heads * head_width

    def linears(attentions: int) -> tuple[Linear, ...]:
        attention = [Linear(name, "attention", width, queries, copies=attentions) for name in ("q", "k", "v")]
        gated = ("wi_0", "wi_1") if inner_layer.startswith("gated") else ("wi",)
        return (
            *attention,
            Linear("o", "attention", queries, width, copies=attentions),
            *(Linear(name, "mlp", width, inner) for name in gated),
            Linear("wo", "mlp", inner, width),
        )

    encoder = Stack(config["num_layers"], linears(1), norms=2 * width)
    decoder = Stack(config.get("num_decoder_layers") or config["num_layers"], linears(2), 3 * width, attentions=2)
    # The relative positions of each stack's first block, and its last norm.
    others = 2 * (config.get("relative_attention_num_buckets", 32) * heads + width)
    return Shape(
        family=family,
        width=width,
        inner=inner,
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        vocabulary=config["vocab_size"],
        # The checkpoints whose configs say false (mT5, T5 1.1) have a head of its own, which transformers 5 keeps.
        tied=bool(config.get("tie_word_embeddings", True)),
        stacks=(encoder, decoder),
        others=others,
    )


FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "cohere", "cohere2"), _llama_like),
    "gpt2": _gpt2,
    "bloom": _bloom,
    **dict.fromkeys(("t5", "mt5"), _t5),
}
