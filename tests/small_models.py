"""Small random-weight models for tests, saved as Hugging Face folders."""

import copy
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

TEXTS = [
    "Hello, how are you? I am fine. What is the capital of France? Paris.",
    "Bonjour, comment allez-vous ? Très bien, merci.",
    "Привет, как дела? Хорошо, спасибо.",
    "你好，你怎么样？我很好。",
    "مرحبا كيف حالك",
    "नमस्ते आप कैसे हैं",
]


def byte_bpe_tokenizer(vocabulary: int = 400, **special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; every text is tokenisable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*names.values(), "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}"
        "{{ eos_token }}{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return wrapped


def save_tiny_llama(folder: Path, *, seed: int = 0, width: int = 32, layers: int = 2) -> Path:
    """Save a random-weight Llama of `layers` layers and `width` hidden units in `folder`."""
    tokenizer = byte_bpe_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_of_family(folder: Path, config: PretrainedConfig) -> Path:
    """Save a random-weight causal language model with 2,048 positions, otherwise as `config` says, in `folder`.

    Its vocabulary must have room for that of `byte_bpe_tokenizer`, and 0 and 1 as beginning and end.
    """
    tokenizer = byte_bpe_tokenizer()
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = 2048
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_mt5(folder: Path, kind: str = "MT5", **config: object) -> Path:
    """Save a random-weight mT5 (or T5, UMT5) of two blocks on either side in `folder`.

    Its tokenizer is like T5's: it has no BOS and puts the end-of-text token behind every text.
    """
    tokenizer = byte_bpe_tokenizer()
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    begin = {"decoder_start_token_id": tokenizer.pad_token_id}
    made = getattr(transformers, f"{kind}Config")(**shape | special | begin | config)
    getattr(transformers, f"{kind}ForConditionalGeneration")(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
