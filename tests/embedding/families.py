"""A tiny random-weight causal language model of every family that multilingual instruction tuning uses."""

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCABULARY = 400
WINDOW = 8
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}


def _config(name: str, **more: object) -> PretrainedConfig:
    return getattr(transformers, f"{name}Config")(**more)


FAMILIES: dict[str, PretrainedConfig] = {
    "llama": _config("Llama", **SHAPE),
    "qwen2": _config("Qwen2", **SHAPE),
    "qwen2_window": _config("Qwen2", **SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": _config("Qwen3", **SHAPE, head_dim=8),
    "mistral": _config("Mistral", **SHAPE, sliding_window=WINDOW),
    "mixtral": _config("Mixtral", **SHAPE, num_local_experts=4),
    "gemma": _config("Gemma", **SHAPE, head_dim=8),
    "gemma2": _config("Gemma2", **SHAPE, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": _config("Gemma3Text", **SHAPE, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "cohere": _config("Cohere", **SHAPE),
    "cohere2": _config("Cohere2", **SHAPE, sliding_window=WINDOW, sliding_window_pattern=2),
    "bloom": _config("Bloom", hidden_size=32, n_layer=3, n_head=4, **SMALL),
    "gpt2": _config("GPT2", n_embd=32, n_layer=3, n_head=4, n_positions=512, **SMALL),
    "falcon_alibi": _config("Falcon", hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=True, **SMALL),
    "opt": _config(
        "OPT", hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32, **SMALL
    ),
    # Its rotary positions have other frequencies in a batch with a text of more than 60 tokens.
    "phi3_longrope": _config(
        "Phi3",
        **SHAPE,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "original_max_position_embeddings": 60,
        },
        original_max_position_embeddings=60,
    ),
}
# Those whose attention cannot be replaced, or caps its scores.
NOT_PACKED = {"bloom", "falcon_alibi", "gemma2"}


def family(name: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[name]).to(dtype).eval()
