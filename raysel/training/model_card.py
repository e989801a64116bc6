"""The README.md beside a trained model: a Hugging Face model card of what was trained, on what, and its lineage."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raysel import __version__
from raysel.settings import flat

# What Markdown or HTML could take for markup; an underscore within a word and a colon in a time of day are none.
NOT_PLAIN = re.compile(r"[^\w ./,;:=+%-]|(?<![^\W_])_|_(?![^\W_])|(?<!\d):|:(?!\d)")
LONGEST_VALUE = 80
THIS_FOLDER = '"path/to/this/folder"'
STEPS_TEXT = """\
Every step that this model descends from. A step lies at `<storage>/<stage>/<fingerprint>/`; its `manifest.json` lists
its files with their SHA-256, so the SHA-256 of the manifest stands for all of it. Files that no step made (the corpus,
the weights of a model) stand under "made of" with a hash of their contents.
"""


@dataclass(frozen=True)
class Ancestor:
    """A published step that the model descends from. inputs: the address of a step, the content hash of a file."""

    stage: str
    fingerprint: str
    manifest_sha256: str
    published: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class ModelCard:
    """What is known before the training: `settings` and `fingerprint` of the training itself, `tokens` the summary of
    the token rows, `base` the base model's name."""

    fingerprint: str
    base: str
    revision: str | None
    settings: Mapping[str, Any]
    tokens: Mapping[str, Any]
    lineage: Sequence[Ancestor]


def card_text(card: ModelCard, result: Mapping[str, Any], heldout: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown.

    result: `steps`, `first_loss`, `last_loss`, `method`, `merged`, `exported`, `micro_batch_tokens`,
    `activation_checkpointing`; heldout: the measured losses of the
    held-out samples.
    """
    tokens = card.tokens
    with_adapters = result["method"] == "lora"
    lora = with_adapters and not result["merged"]
    settings = {
        key: value
        for key, value in flat(card.settings).items()
        if with_adapters or not key.startswith("training.lora.")
    }
    heldout = [entry for entry in heldout if entry["steps"] <= result["exported"]]
    weights = "LoRA adapters for" if lora else "LoRA adapters merged into" if with_adapters else "All the weights of"
    earlier = "" if result["exported"] == result["steps"] else f" These are the weights after {result['exported']:,}."
    return "\n".join(
        [
            _front_matter(card, lora=lora),
            f"# {_plain(card.base)}, {'LoRA adapters' if lora else 'fine-tuned'}",
            "",
            f"{weights} {_base(card)}, trained by raysel {__version__} "
            f"(supervised fine-tuning, the responses are learned): {result['steps']:,} steps on {tokens['samples']:,} "
            f"samples in {len(tokens['langs'])} languages, {tokens['tokens']:,} tokens, of which "
            f"{tokens['trained_tokens']:,} learned; a sample counts in every epoch.{earlier} "
            f"Seed {card.settings['seed']}. "
            f"Fingerprint `{card.fingerprint}` (stage `model`).",
            "",
            "## Loading",
            "",
            _loading(card, lora=lora),
            "## Losses",
            "",
            _losses(result, heldout),
            "## Languages",
            "",
            _languages(card, heldout),
            "## Settings of the training",
            "",
            _table(["setting", "value"], [[key, _value(value)] for key, value in settings.items()]),
            f"Rows of at most {result['micro_batch_tokens']:,} tokens together went through the model at once, and "
            f"activations were {'computed again' if result['activation_checkpointing'] else 'kept'} for the backward "
            "pass; neither changes the gradient.",
            "",
            "## Lineage",
            "",
            STEPS_TEXT,
            _steps(card),
            "### Settings of these steps",
            "",
            _table(
                ["stage", "setting", "value"],
                [[step.stage, key, _value(v)] for step in card.lineage for key, v in flat(dict(step.settings)).items()],
            ),
        ]
    )


def _front_matter(card: ModelCard, *, lora: bool) -> str:
    facts = {
        "base_model": _line(card.base),
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text2text-generation" if card.tokens.get("has_encoder") else "text-generation",
        "language": [_line(lang) for lang in card.tokens["langs"]],
        "tags": ["raysel", "sft", *(["lora"] if lora else [])],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=float('inf'))}---\n"


def _base(card: ModelCard) -> str:
    return _plain(card.base) + (f" (revision {_plain(card.revision)})" if card.revision else "")


def _loading(card: ModelCard, *, lora: bool) -> str:
    trust = ", trust_remote_code=True" if card.settings["trust_remote_code"] else ""
    base = f"{_line(card.base)!a}{f', revision={_line(card.revision)!a}' if card.revision else ''}{trust}"
    kind = "AutoModelForSeq2SeqLM" if card.tokens.get("has_encoder") else "AutoModelForCausalLM"
    load_model = [f"model = {kind}.from_pretrained({THIS_FOLDER}{trust})"]
    if lora:
        load_model = [
            f"base = {kind}.from_pretrained({base})",
            f"model = PeftModel.from_pretrained(base, {THIS_FOLDER})",
        ]
    lines = [
        "```python",
        *(["from peft import PeftModel"] if lora else []),
        f"from transformers import {kind}, AutoTokenizer",
        "",
        *load_model,
        f"tokenizer = AutoTokenizer.from_pretrained({THIS_FOLDER}{trust})",
        "```",
        *(["", "A base model that the Hub does not have is given as its folder."] if lora else []),
    ]
    return "\n".join(lines) + "\n"


def _losses(result: Mapping[str, Any], heldout: Sequence[Mapping[str, Any]]) -> str:
    rows = [["training, first and last step", _loss(result["first_loss"]), _loss(result["last_loss"])]]
    if heldout:
        rows.append(["held-out samples", _loss(heldout[0]["loss"]), _loss(heldout[-1]["loss"])])
    return _table(["mean loss of a learned token", "before", "after"], rows)


def _languages(card: ModelCard, heldout: Sequence[Mapping[str, Any]]) -> str:
    ends = [heldout[at]["loss_by_lang"] for at in (0, -1)] if heldout else []
    samples, learned = card.tokens["samples_by_lang"], card.tokens["trained_tokens_by_lang"]
    rows = [
        [lang, f"{samples.get(lang, 0):,}", f"{learned.get(lang, 0):,}", *(_loss(end.get(lang)) for end in ends)]
        for lang in sorted({*samples, *(lang for end in ends for lang in end)})
    ]
    head = ["language", "samples", "learned tokens", *(["held-out loss before", "after"] if ends else [])]
    return _table(head, rows)


def _steps(card: ModelCard) -> str:
    rows = []
    for step in card.lineage:
        made_of = [address if "/" in address else f"{name}, content {address}" for name, address in step.inputs.items()]
        rows.append([step.stage, step.fingerprint, step.manifest_sha256, step.published, "; ".join(made_of)])
    return _table(["stage", "fingerprint", "SHA-256 of manifest.json", "published", "made of"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    lines += [" | ".join(_plain(cell) for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _value(value: Any) -> str:
    """A setting's value, cut where it is long (a chat template)."""
    text = _line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1].rstrip() + "…"


def _line(text: str) -> str:
    """`text` on one line: what cannot be printed (line breaks, marks that turn the direction) becomes a space."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _plain(text: str) -> str:
    """`text` as Markdown that shows it as it is: entities are never markup."""
    return NOT_PLAIN.sub(lambda found: f"&#{ord(found[0])};", _line(text))
