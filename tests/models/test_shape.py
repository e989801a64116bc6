"""Shapes against transformers' own models, made without memory, and PEFT's own adapters."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

import raysel.models.shape as shapes
from raysel.models.shape import ShapeError, known_shape, read_shape, shape_of
from raysel.training.engine import draws_at_random

FILES = sorted(Path(shapes.__file__).parent.joinpath("shapes").glob("*.json"))
# From the models' own safetensors files, as their pages say.
PUBLISHED = {
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "bigscience/bloom-7b1": 7_069_016_064,
    "CohereLabs/aya-23-8B": 8_028_033_024,
    "CohereLabs/aya-23-35B": 34_980_831_232,
    "google/mt5-xl": 3_742_619_648,
}


def meta_model(config: dict[str, object]) -> PreTrainedModel:
    has_encoder = config["model_type"] in ("t5", "mt5")
    kind = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
    given = {key: value for key, value in config.items() if key not in ("names", "model_type")}
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.for_model(config["model_type"], **given))
        if has_encoder and not config.get("tie_word_embeddings", True):
            # Made from a config alone the head is tied, loaded from a checkpoint that has one it is not.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        return model


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_transformers_makes_as_many_parameters(file: Path) -> None:
    config = json.loads(file.read_text())
    model, shape = meta_model(config), read_shape(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    in_blocks = [
        p.numel() for name, p in model.named_parameters() if ".layers." in name or ".h." in name or ".block." in name
    ]
    positions = shape.heads * 2 * config.get("relative_attention_num_buckets", 0)
    assert sum(in_blocks) - positions == shape.in_blocks
    assert model.get_input_embeddings().weight.numel() == shape.embeddings


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_the_published_models(name: str, parameters: int) -> None:
    shape = known_shape(name)
    assert shape is not None
    assert shape.parameters == parameters


@pytest.mark.parametrize(
    ("name", "targets", "trained"),
    [
        ("bigscience/bloom-7b1", ["query_key_value"], 31_457_280),
        ("bigscience/bloom-3b", ["query_key_value"], 19_660_800),
        ("bigscience/bloom-1b7", ["query_key_value"], 12_582_912),
        ("ai-forever/mGPT", ["c_attn"], 12_582_912),
        ("google/mt5-xl", ["q", "v"], 37_748_736),
    ],
)
def test_adapters_of_rank_64_as_published(name: str, targets: list[str], trained: int) -> None:
    """The logs of arXiv 2410.07809: PEFT's default targets of each family."""
    shape = known_shape(name)
    assert shape is not None
    assert shape.lora_parameters(64, targets) == trained


SMALL = [
    {"model_type": kind, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
     "num_key_value_heads": 2, "vocab_size": 90, "tie_word_embeddings": tied, **more}
    for kind, tied, more in (
        ("llama", False, {"attention_bias": True, "mlp_bias": True}),
        ("mistral", False, {"head_dim": 16}),
        ("qwen2", True, {}),
        ("qwen3", False, {"head_dim": 20}),
        ("cohere", True, {"use_qk_norm": True}),
        ("cohere2", True, {}),
    )
] + [
    {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 70, "n_inner": 100,
     "vocab_size": 90},
    {"model_type": "bloom", "hidden_size": 48, "n_layer": 3, "n_head": 4, "vocab_size": 90},
    {"model_type": "mt5", "d_model": 48, "d_kv": 8, "d_ff": 72, "num_layers": 3, "num_decoder_layers": 2,
     "num_heads": 4, "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu", "vocab_size": 90},
    {"model_type": "mt5", "d_model": 48, "d_kv": 8, "d_ff": 72, "num_layers": 2, "num_heads": 4, "vocab_size": 90,
     "tie_word_embeddings": False},
    {"model_type": "t5", "d_model": 48, "d_kv": 8, "d_ff": 72, "num_layers": 2, "num_heads": 4, "vocab_size": 90},
]  # fmt: skip


@pytest.mark.parametrize("config", SMALL, ids=lambda config: str(config["model_type"]))
@pytest.mark.parametrize("targets", ["all-linear", "first", "last"])
def test_peft_makes_as_many_adapter_parameters(config: dict[str, object], targets: str) -> None:
    shape, model = read_shape(config), meta_model(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    names = [linear.name for linear in shape.stacks[-1].linears]
    chosen: str | list[str] = {"all-linear": targets, "first": names[:1], "last": names[-2:]}[targets]
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=chosen))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trained == shape.lora_parameters(3, chosen)


@settings(max_examples=20, deadline=None)
@given(
    heads=st.integers(1, 4), group=st.integers(1, 3), half=st.integers(1, 5), inner=st.integers(1, 40),
    layers=st.integers(1, 3), tied=st.booleans(), kind=st.sampled_from(["llama", "qwen2", "qwen3", "cohere"]),
)  # fmt: skip
def test_any_small_shape(heads: int, group: int, half: int, inner: int, layers: int, tied: bool, kind: str) -> None:
    config = {
        "model_type": kind, "hidden_size": heads * group * 2 * half, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads * group, "num_key_value_heads": heads,
        "vocab_size": 13, "tie_word_embeddings": tied, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "head_dim": 2 * half,
    }  # fmt: skip
    assert sum(p.numel() for p in meta_model(config).parameters()) == read_shape(config).parameters


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("gpt2", ["attn.c_proj"]),
        ("gpt2", ["mlp.c_proj", "wte"]),
        ("bloom", ["self_attention.dense", "word_embeddings"]),
        ("llama", ["lm_head", "embed_tokens"]),
        ("llama", ["model.layers.1.mlp.up_proj"]),
        ("cohere", ["self_attn.q_proj", "1.mlp.down_proj"]),
    ],
)
def test_targets_are_matched_as_peft_does(family: str, targets: list[str]) -> None:
    config = next(config for config in SMALL if config["model_type"] == family)
    adapted = get_peft_model(meta_model(config), LoraConfig(r=3, target_modules=targets))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert read_shape(config).lora_parameters(3, targets) == trained


@pytest.mark.parametrize("more", [{}, {"hidden_dropout": 0.1}, {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}])
@pytest.mark.parametrize("config", SMALL[:-1], ids=lambda config: str(config["model_type"]))
def test_dropout_is_known_as_the_run_sees_it(config: dict[str, object], more: dict[str, float]) -> None:
    assert read_shape(config | more).drops_out == draws_at_random(meta_model(config | more))


def test_names_are_found_as_users_write_them(tiny_llama: Path) -> None:
    names = [name for file in FILES for name in json.loads(file.read_text())["names"]]
    assert len(set(names)) == len(names) >= 20
    assert all(known_shape(name) is not None for name in names)
    assert shape_of("meta-llama/llama-3.1-8b") == known_shape("meta-llama/Llama-3.1-8B-Instruct")
    assert shape_of("nobody/knows-7B") is None
    shape = shape_of(str(tiny_llama))
    assert shape is not None
    assert (shape.family, shape.width, shape.blocks) == ("llama", 32, 2)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="model_type mamba: its shape is not known here; known are llama, "):
        read_shape({"model_type": "mamba"})
    with pytest.raises(ShapeError, match="the config of a gpt2 model does not say n_positions"):
        read_shape({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ShapeError, match="is not JSON"):
        shape_of(str(tmp_path))
    shape = known_shape("ai-forever/mGPT")
    assert shape is not None
    with pytest.raises(
        ShapeError, match=r"^training\.lora\.targets .*: a gpt2 model has none of them; it has c_attn, c_proj, c_fc"
    ):
        shape.lora_parameters(8, ["q_proj"])
