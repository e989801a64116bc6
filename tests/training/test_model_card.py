"""The README.md of a trained model: what it says, and that nobody's names turn into markup."""

import ast
import re
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from raysel.training.model_card import Ancestor, ModelCard, card_text

RESULT = {
    "steps": 1200, "first_loss": 3.14159, "last_loss": 1.5, "method": "lora", "merged": False, "exported": 1200,
    "micro_batch_tokens": 4096, "activation_checkpointing": False,
}  # fmt: skip
HELDOUT = [
    {"steps": 0, "loss": 3.0, "loss_by_lang": {"no": 3.25, "sw": 2.75}},
    {"steps": 600, "loss": 2.5, "loss_by_lang": {"no": 9.9, "sw": 9.9}},
    {"steps": 1200, "loss": 2.0, "loss_by_lang": {"no": 2.25, "sw": 1.75}},
]
HOSTILE = [
    "<script>alert(1)</script>",
    "x\n---\ntags: [mine]\n---\n# Title",
    "](https://example.org) ![](https://example.org/x.png)",
    "**bold** _slanted_ `code` ~~gone~~ $x$ &lt;",
    "a | b \\| c",
    "```\n</code> \u202e gnp.exe",
    '"; import os #',
    "- yes: !!python/object {a: b} *anchor",
]


def card(**more: Any) -> ModelCard:
    facts: dict[str, Any] = {
        "fingerprint": "f" * 24,
        "base": "some/model",
        "revision": None,
        "settings": {"training": {"zero": 2, "lora": {"rank": 8}, "deepspeed": None, "learning_rate": 2e-4},
                     "seed": 7,
                     "trust_remote_code": False},
        "tokens": {"samples": 4321, "tokens": 99_000, "trained_tokens": 40_000, "langs": ["no", "sw"],
                   "samples_by_lang": {"no": 4000, "sw": 321},
                   "trained_tokens_by_lang": {"no": 38_000, "sw": 2000}},
        "lineage": [
            Ancestor("corpus", "c" * 24, "1" * 64, "2026-01-01T00:00:00+00:00", {"corpus": {"source": "made"}},
                     {"corpus": "a" * 24}),
            Ancestor("pool", "d" * 24, "2" * 64, "2026-01-02T00:00:00+00:00", {"preselect": {"rho": 0.4}},
                     {"scores": f"scores/{'e' * 24}"}),
        ],
    }  # fmt: skip
    return ModelCard(**{**facts, **more})


def front_matter(text: str) -> dict[str, Any]:
    opening, yaml_text, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert opening == ""
    return yaml.safe_load(yaml_text)


def tokens(text: str) -> list[Token]:
    """What a Markdown reader makes of the card below its front matter: blocks, and what is inline in them."""
    body = text.split("\n---\n", 1)[1]
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    return [token for block in blocks for token in ([block] if block.children is None else block.children)]


def code_of(text: str) -> str:
    [code] = [token.content for token in tokens(text) if token.type == "fence"]
    return code


def cells(text: str) -> list[list[str]]:
    """The cells of every table row as a reader sees them."""
    rows: list[list[str]] = []
    within = False
    for token in tokens(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.tag in ("th", "td"):
            within = token.nesting == 1
            rows[-1] += [""] * within
        elif within:
            rows[-1][-1] += token.content
    return rows


def test_the_card_says_what_was_trained() -> None:
    text = card_text(card(), RESULT, HELDOUT)
    assert front_matter(text) == {
        "base_model": "some/model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "language": ["no", "sw"],
        "tags": ["raysel", "sft", "lora"],
    }
    assert "1,200 steps on 4,321 samples in 2 languages, 99,000 tokens, of which 40,000 learned" in text
    assert "Seed 7." in text
    rows = cells(text)
    for row in (
        ["training, first and last step", "3.1416", "1.5000"],
        ["held-out samples", "3.0000", "2.0000"],
        ["no", "4,000", "38,000", "3.2500", "2.2500"],
        ["training.learning_rate", "0.0002"],
        ["training.lora.rank", "8"],
        ["corpus", "c" * 24, "1" * 64, "2026-01-01T00:00:00+00:00", f"corpus, content {'a' * 24}"],
        ["pool", "d" * 24, "2" * 64, "2026-01-02T00:00:00+00:00", f"scores/{'e' * 24}"],
        ["pool", "preselect.rho", "0.4"],
    ):
        assert row in rows
    assert "deepspeed" not in text


def test_a_whole_model_without_held_out_samples() -> None:
    text = card_text(card(base="folder"), {**RESULT, "method": "full"}, [])
    assert front_matter(text)["library_name"] == "transformers"
    assert "held-out" not in text
    assert "lora" not in text
    assert "peft" not in text


def hostile_card(name: str, method: str) -> str:
    settings = {"training": {name: name}, "seed": 0, "trust_remote_code": True}
    lineage = [Ancestor("corpus", "c" * 24, "1" * 64, "2026", {"corpus": {"source": name}}, {name: "a" * 24})]
    made = card(base=name, revision=name, settings=settings, lineage=lineage)
    return card_text(made, {**RESULT, "method": method}, HELDOUT)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_never_markup(name: str, method: str) -> None:
    text, plain = hostile_card(name, method), hostile_card("name", method)
    shown = " ".join(name.replace("\u202e", " ").split())
    assert front_matter(text) == {**front_matter(plain), "base_model": shown}
    found, expected = ([(token.type, token.tag) for token in tokens(made)] for made in (text, plain))
    assert found == expected
    found, expected = ([type(node) for node in ast.walk(ast.parse(code_of(made)))] for made in (text, plain))
    assert found == expected
    rows = cells(text)
    assert [f"training.{shown}", shown] in rows
    assert ["corpus", "corpus.source", shown] in rows
    assert ["corpus", "c" * 24, "1" * 64, "2026", f"{shown}, content {'a' * 24}"] in rows


def test_weights_of_an_earlier_step_and_merged_adapters_are_called_so() -> None:
    text = card_text(card(), RESULT | {"merged": True, "exported": 600}, HELDOUT)
    assert front_matter(text)["library_name"] == "transformers"
    assert "PeftModel" not in code_of(text)
    assert "LoRA adapters merged into some/model" in text
    assert "These are the weights after 600." in text
    assert ["held-out samples", "3.0000", "2.5000"] in cells(text)
    assert "training.lora.rank" in {row[0] for row in cells(text)}
