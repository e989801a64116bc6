"""Chat templates: how a prompt and a response become the one string that a model sees.

Every template owns its special tokens, so texts rendered here are tokenised with `add_special_tokens=False` and no
token is ever doubled.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from raysel.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED_TEMPLATES: dict[str, str] = {
    "plain": (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "alpaca": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '### Response:\\n' + m['content'] + eos_token }}"
        "{% else %}{{ '### Instruction:\\n' + m['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
}


class TemplateError(UserError):
    """A chat template that cannot be used."""


def template_source(name: str) -> str:
    """What `load_tokenizer` takes: a name as it is, a Jinja file's text. `TemplateError` where it cannot be used."""
    if name == "auto" or name in NAMED_TEMPLATES:
        return name
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the chat template {name!r} cannot be read: {error}") from error
    except TemplateSyntaxError as error:
        raise TemplateError(f"the chat template {name!r} is not Jinja: line {error.lineno}: {error}") from error
    return text


def prompt_text(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """The prompt in the chat template, up to where the response begins."""
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def sample_text(tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str) -> str:
    """Prompt and response as one string, the turn left unclosed: its last token is the response's last."""
    return prompt_text(tokenizer, prompt) + response


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What closes an answer's turn: what the template puts behind it, else the end-of-text token.

    `TemplateError` where there is neither.
    """
    answer = "The answer is 42."
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
    # What comes before an answer may differ from a prompt that is waiting for one (Qwen 3 writes an empty thought).
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    closing = whole.rpartition(answer)[2].rstrip("\n") or str(tokenizer.eos_token or "")
    if not closing:
        raise TemplateError(
            "the chat template puts nothing behind an answer and the tokenizer has no end-of-text token: a model "
            "could not learn where to stop, and there is no end_of_turn to take; choose a template that ends its turns"
        )
    return closing
