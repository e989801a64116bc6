"""Chat templates: how a conversation becomes the one string that a model sees.

Every template owns its special tokens, so texts rendered here are tokenised with `add_special_tokens=False` and no
token is ever doubled.
"""

import json
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
        "{% elif m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}"
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


def prompt_text(tokenizer: "PreTrainedTokenizerBase", prompt: str, history: str | None = None) -> str:
    """The conversation in the chat template, up to where the response begins.

    history: the messages before the prompt, JSON text as in the corpus table. Where the template knows no system role,
    a system message goes before the first user message, a blank line between them.
    """
    messages = [*json.loads(history or "[]"), {"role": "user", "content": prompt}]
    if messages[0]["role"] == "system" and not _knows_system_role(tokenizer):
        system, first, *rest = messages
        messages = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    return _rendered(tokenizer, messages, add_generation_prompt=True)


def sample_text(tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, history: str | None = None) -> str:
    """The conversation as one string, the last turn left unclosed: its last token is the response's last."""
    return prompt_text(tokenizer, prompt, history) + response


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What closes an answer's turn: what the template puts behind it, else the end-of-text token.

    `TemplateError` where there is neither.
    """
    answer = "The answer is 42."
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
    # What comes before an answer may differ from a prompt that is waiting for one (Qwen 3 writes an empty thought).
    whole = _rendered(tokenizer, messages)
    closing = whole.rpartition(answer)[2].rstrip("\n") or str(tokenizer.eos_token or "")
    if not closing:
        raise TemplateError(
            "the chat template puts nothing behind an answer and the tokenizer has no end-of-text token: a model "
            "could not learn where to stop, and there is no end_of_turn to take; choose a template that ends its turns"
        )
    return closing


def _knows_system_role(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a system message is shown: some templates refuse it (Gemma), others pass over it without a word."""
    text = "Answer in one word."
    try:
        return text in _rendered(tokenizer, [{"role": "system", "content": text}, {"role": "user", "content": "Hello"}])
    except TemplateError:
        return False


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], *, add_generation_prompt: bool = False
) -> str:
    import jinja2

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise TemplateError(
            f"the chat template refuses messages of the roles {roles}: {error}; choose another model.template, "
            "or leave such conversations out of the corpus"
        ) from error
