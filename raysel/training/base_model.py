"""A small Llama to begin with, and its byte-level BPE tokenizer, made from a corpus."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from raysel.models.settings import BaseModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END, PAD, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    f"{ASSISTANT}{{{{ m['content'] }}}}{END}"
    "{% elif m['role'] == 'system' %}"
    "{{ m['content'] + '\\n\\n' }}"
    "{% else %}"
    f"{USER}{{{{ m['content'] }}}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> "PreTrainedTokenizerBase":
    """Byte-level BPE (every text can be tokenised) of at most `vocabulary` tokens, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save_random_llama(
    tokenizer: "PreTrainedTokenizerBase", settings: BaseModelSettings, seed: int, folder: Path
) -> None:
    """Save a Llama with random float32 weights and tied embeddings, and `tokenizer`, in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=8 * settings.width // 3 // 8 * 8,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
